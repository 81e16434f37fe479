"""Corrections of hivemind 1.1.12 within this process, each with its reason.

`Daemon` puts `LiveCalls` and `RunningTasks` in the place of hivemind's own dictionaries and makes
its handle of `ReachingP2P`; how messages are written is changed by the import of this module.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from swarm.errors import SwarmError
from swarm.network.p2p.hivemind_parts import P2P, P2PDaemonError, PeerID, p2pd_control


async def write_in_one(stream: asyncio.StreamWriter, message: Any) -> None:
    """In place of hivemind's `write_pbmsg`, which makes a system call for each byte of the length.

    p2pd wakes up for each of them; that was a third of the time of an event loop in short rounds.
    """
    data = message.SerializeToString()
    size, prefix = len(data), bytearray()
    while size >= 0x80:
        prefix.append(size & 0x7F | 0x80)
        size >>= 7
    stream.write(bytes((*prefix, size)) + data)
    await stream.drain()


p2pd_control.write_pbmsg = write_in_one


class ReachingP2P(P2P):  # type: ignore[misc]
    """Connects to whom the DHT calls by the addresses that we know.

    p2pd alone tries what its own tables have, the private addresses of strangers for one, and gives
    up after 10 s. A search in the DHT asks many peers, of whom some are gone or behind a NAT.

    Attributes:
        reach: makes sure of a connection, or raises a `SwarmError`.
    """

    reach: Callable[[str], Awaitable[None]] | None = None

    async def _call_unary_protobuf_handler(self, peer_id: PeerID, *arguments: Any) -> Any:
        if self.reach is not None:
            try:
                await self.reach(peer_id.to_base58())
            except SwarmError as error:
                raise P2PDaemonError(error.message) from error
        return await super()._call_unary_protobuf_handler(peer_id, *arguments)


class LiveCalls(dict[Any, Any]):
    """hivemind's calls in flight; one whose waiter is gone counts as unknown."""

    def __contains__(self, call_id: object) -> bool:
        future = self.get(call_id)
        return future is not None and not future.done()


class RunningTasks(dict[Any, "asyncio.Task[None]"]):
    """hivemind's tasks that answer calls; one that has ended, however, is dropped."""

    def __setitem__(self, call_id: Any, task: asyncio.Task[None]) -> None:
        super().__setitem__(call_id, task)
        task.add_done_callback(lambda _: self.pop(call_id, None))
