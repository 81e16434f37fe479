"""The tunnels of a data plane: raw streams through p2pd, whichever p2pd runs at the moment.

tunnels = Tunnels(connect)
await tunnels.attach(daemon)             # a p2pd has come up; `detach` when it goes
await tunnels.serve(accept)              # accept(peer, sock), in a thread; asked of each p2pd
sock = tunnels.open(record, limit)       # blocking, in a thread
"""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Callable, Coroutine
from concurrent.futures import CancelledError
from concurrent.futures import TimeoutError as FutureTimeoutError  # another one before 3.11
from datetime import timedelta
from typing import Any

from swarm.config import PROTOCOL_VERSION
from swarm.network.p2p.daemon import Daemon, unreachable
from swarm.network.p2p.streams import Accept, Streams
from swarm.wire.membership_pb2 import PeerRecord

LANE_PROTOCOL = f"/expertswarm/lane/{PROTOCOL_VERSION}"


class Tunnels:
    """See the module docstring; made in the event loop in which `connect` runs.

    `connect(record, limit)` makes sure of a connection to a peer, or raises `PEER_UNREACHABLE`.
    """

    def __init__(
        self, connect: Callable[[PeerRecord, timedelta], Coroutine[Any, Any, None]]
    ) -> None:
        self._connect = connect
        self._loop = asyncio.get_running_loop()
        self._streams: Streams | None = None
        self._accept: Accept | None = None

    async def attach(self, daemon: Daemon) -> None:
        """Go through this p2pd from now on."""
        self._streams = daemon.streams(LANE_PROTOCOL)
        if self._accept is not None:
            await self.serve(self._accept)

    def detach(self) -> None:
        """The p2pd ends."""
        if self._streams is not None:
            self._streams.stop()
            self._streams = None

    async def serve(self, accept: Accept) -> None:
        """See `PeerNetwork.serve_streams`."""
        self._accept = accept
        if self._streams is not None:
            await asyncio.to_thread(self._streams.serve, accept)

    def open(self, record: PeerRecord, limit: timedelta) -> socket.socket:
        """See `PeerNetwork.open_stream`."""
        peer, deadline_s = record.peer_id, time.monotonic() + limit.total_seconds()
        connecting = self._connected(record, limit)
        try:
            work = asyncio.run_coroutine_threadsafe(connecting, self._loop)
        except RuntimeError as error:
            connecting.close()
            raise unreachable(peer, "this node is stopping") from error
        try:
            streams = work.result(limit.total_seconds())
        except (FutureTimeoutError, CancelledError) as error:
            work.cancel()
            raise unreachable(peer, "no connection in time") from error
        left_s = max(0.05, deadline_s - time.monotonic())
        return streams.open(peer, timedelta(seconds=left_s))

    async def _connected(self, record: PeerRecord, limit: timedelta) -> Streams:
        await self._connect(record, limit)
        if self._streams is None:
            raise unreachable(record.peer_id, "this node's p2pd has ended")
        return self._streams
