"""One p2pd process: connect, call, stop, without a trace left behind.

daemon = await Daemon.start(key_file, "0.0.0.0", 0, listen=True, timeout=limit)
await daemon.connect(peer, addresses, limit)
answer = await daemon.call(peer, "protocol", b"request", limit)
await daemon.stop()
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import Any

from swarm.aio import in_time
from swarm.errors import Code, SwarmError
from swarm.network.addresses import plain
from swarm.network.p2p.bridge import Bridges
from swarm.network.p2p.changes import Changes
from swarm.network.p2p.dialling import (
    call_by_tcp,
    encode_multiaddr,
    reached_at,
    usable_addresses,
)
from swarm.network.p2p.hivemind_fixes import LiveCalls, RunningTasks
from swarm.network.p2p.hivemind_parts import P2PDaemonError, PeerID
from swarm.network.p2p.launching import PROBLEMS, launch
from swarm.network.p2p.places import remove_socket_dir
from swarm.network.p2p.streams import Streams

STOP_WAIT = timedelta(seconds=3)
LOCAL_WAIT = timedelta(seconds=2)  # for what p2pd does without asking another host
ADDRESSES_WAIT = timedelta(seconds=10)  # the same; a start on an overloaded machine must not fail
SURE_S = 1.0  # after a call that succeeded its peer is taken to be connected
MAX_SURE = 4096
LOOK_AGAIN_S = 0.05
RECENT_S = 1.8  # those who look each second let p2pd be asked every other time

Handler = Callable[[str, bytes], Awaitable[bytes]]
BACK_OFF = "dial backoff"  # p2pd's words for an address that it does not dial for a while
RESET = "stream reset"  # p2pd's words for a call whose connection has ended


class BrokenCallError(SwarmError):
    """The connection ended with a call in flight, which the peer may have received."""


class Daemon:
    """A running p2pd. Peers are named by peer id, addresses are multiaddrs as strings.

    Attributes:
        p2p: hivemind's handle, for the DHT.
        exited: set once the process is gone, whoever ended it.
        listener: host and port at which it listens, as this machine reaches it.
        bridges: connections that were made for it.
    """

    def __init__(self, p2p: Any, sockets: Path) -> None:
        self.p2p = p2p
        self.peer_id: str = p2p.peer_id.to_base58()
        self.exited = asyncio.Event()
        self.listener = "", 0
        self.bridges = Bridges()
        self._control = p2p._client.control
        self._sockets = sockets
        # hivemind's reader dies of InvalidStateError when an answer arrives in the same turn of
        # the event loop in which its call is cancelled (by a timeout), and with it all later calls.
        self._control._pending_calls = LiveCalls(self._control._pending_calls)
        # hivemind keeps the task of a call that its caller gave up, and with it the request, of up
        # to `launching.P2PD_MESSAGE_LIMIT` bytes, for ever.
        self._control._handler_tasks = RunningTasks()
        self._exit_watch = asyncio.create_task(self._watch_exit())
        self._surely_until_s: dict[str, float] = {}  # peers that were connected a moment ago
        self._changes = Changes()
        self._recent: dict[str, list[str]] = {}
        self._recent_until_s = 0.0

    @classmethod
    async def start(
        cls, key_file: Path, host: str, port: int, *, listen: bool, timeout: timedelta
    ) -> Daemon:
        """Start p2pd with the identity in `key_file`.

        Raises `PORT_IN_USE`, `P2P_START_FAILED` or `STAGE_TIMEOUT`.
        """
        p2p, sockets = await launch(key_file, host, port, listen=listen, timeout=timeout)
        daemon = cls(p2p, sockets)
        try:
            if listen:
                first = (await daemon.addresses())[0]
                daemon.listener = reached_at(host), int(first.split("/tcp/")[1].split("/")[0])
        except BaseException:
            await daemon.stop()
            raise
        return daemon

    async def addresses(self) -> list[str]:
        """Multiaddrs under which this peer listens, with its id. Raises `PEER_UNREACHABLE`."""
        asking = self.p2p.get_visible_maddrs(latest=True)
        try:
            return [str(a) for a in await in_time(asking, ADDRESSES_WAIT.total_seconds())]
        except (*PROBLEMS, asyncio.TimeoutError) as error:
            raise unreachable(self.peer_id, "this node's p2pd does not answer") from error

    async def connect(self, peer: str, addresses: Sequence[str], timeout: timedelta) -> None:
        """Make sure of a connection. Raises `PEER_UNREACHABLE`.

        Each address is tried by a plain TCP connection first: libp2p does not dial an address
        again for 5 s and more after it refused once ("dial backoff"), and peers that start
        together do refuse at first.
        """
        deadline_s = time.monotonic() + timeout.total_seconds()
        await self._changes.settled(peer, deadline_s)
        if time.monotonic() < self._surely_until_s.get(peer, 0.0):
            return
        left = timedelta(seconds=max(0.05, deadline_s - time.monotonic()))
        connected = await self.connections(min(LOCAL_WAIT, left))
        if peer in connected:
            self._note_connected(peer)
            return
        usable, problems = await usable_addresses(addresses, timeout, connected)
        if addresses and not usable:
            raise unreachable(peer, "; ".join(dict.fromkeys(problems)))
        try:
            await self._dial(peer, usable, deadline_s)
        except SwarmError as error:
            if BACK_OFF not in error.message or not plain(usable):
                raise
            await self._dial_in_spite_of_back_off(peer, plain(usable)[0], deadline_s)

    async def _dial(self, peer: str, addresses: Sequence[str], deadline_s: float) -> None:
        """Let p2pd dial. Raises `PEER_UNREACHABLE`."""
        connecting = self.p2p._client.connect(
            PeerID.from_base58(peer), [encode_multiaddr(a, peer) for a in addresses]
        )
        try:
            await in_time(connecting, max(0.1, deadline_s - time.monotonic()))
        except (*PROBLEMS, asyncio.TimeoutError) as error:
            raise unreachable(peer, _reason(error)) from error
        self._recent_until_s = 0.0
        self._note_connected(peer)

    async def _dial_in_spite_of_back_off(self, peer: str, address: str, deadline_s: float) -> None:
        """By a connection of our own: p2pd has no bad memories of the bridge's address.

        It has of those that it has dialled by itself while they did not answer, to deliver a call
        for one, and then leaves them alone for 5 s and more, though they answer again.
        """
        left_s = max(0.1, deadline_s - time.monotonic())
        try:
            sock = await asyncio.to_thread(call_by_tcp, address, left_s)
        except OSError as error:
            raise unreachable(peer, f"{address}: {error}") from error
        async with self.bridges.offer(sock) as bridge:
            await self._dial(peer, [bridge], deadline_s)

    async def replace(self, peer: str, addresses: Sequence[str], timeout: timedelta) -> None:
        """A connection by these addresses in place of those there are; to be done in `changing`.

        Raises `PEER_UNREACHABLE`; then there is none.
        """
        await self.disconnect(peer)
        await self._dial(peer, addresses, time.monotonic() + timeout.total_seconds())

    @contextlib.asynccontextmanager
    async def changing(self, peer: str) -> AsyncIterator[None]:
        """While the connection to `peer` is replaced: calls wait, those it breaks are repeated."""
        self._surely_until_s.pop(peer, None)
        async with self._changes.of(peer):
            yield

    async def wait_for_direct(self, peer: str, timeout: timedelta) -> None:
        """Wait until `peer` is connected without a relay, as long as that takes at most."""
        deadline_s = time.monotonic() + timeout.total_seconds()
        while time.monotonic() < deadline_s:
            if plain((await self.connections()).get(peer, ())):
                return
            await asyncio.sleep(LOOK_AGAIN_S)

    async def disconnect(self, peer: str) -> None:
        """Close all connections to `peer`, if there are any; never raises."""
        self._surely_until_s.pop(peer, None)
        self._recent_until_s = 0.0
        with suppress(*PROBLEMS, asyncio.TimeoutError):
            await in_time(
                self.p2p._client.disconnect(PeerID.from_base58(peer)), LOCAL_WAIT.total_seconds()
            )

    def _note_connected(self, peer: str) -> None:
        """Spare p2pd the question for a moment: a round has dozens of calls among a few peers."""
        if len(self._surely_until_s) >= MAX_SURE:
            self._surely_until_s.clear()
        self._surely_until_s[peer] = time.monotonic() + SURE_S

    async def connections(self, limit: timedelta = LOCAL_WAIT) -> dict[str, list[str]]:
        """Remote multiaddrs of the live connections of each connected peer.

        Nobody, if p2pd does not say within `limit`.
        """
        found: dict[str, list[str]] = {}
        with suppress(*PROBLEMS, asyncio.TimeoutError):
            for info in await in_time(self.p2p.list_peers(), limit.total_seconds()):
                addresses = found.setdefault(info.peer_id.to_base58(), [])
                addresses += [self.bridges.far_address(str(address)) for address in info.addrs]
        return found

    async def recent_connections(self) -> dict[str, list[str]]:
        """As `connections`, up to `RECENT_S` old, for all who look again and again.

        What this peer itself has opened or closed since is seen.
        """
        if time.monotonic() >= self._recent_until_s:
            self._recent = await self.connections()
            self._recent_until_s = time.monotonic() + RECENT_S
        return self._recent

    async def serve(self, protocol: str, handler: Handler) -> None:
        """Answer requests with `await handler(authenticated peer id, data)`."""

        async def answer(data: bytes, remote: PeerID) -> bytes:
            return await handler(remote.to_base58(), data)

        await self.p2p._client.add_unary_handler(protocol, answer)

    async def call(self, peer: str, protocol: str, data: bytes, timeout: timedelta) -> bytes:
        """Send `data`, return the answer. Raises `PEER_UNREACHABLE`, also as `BrokenCallError`."""
        if self.exited.is_set():
            raise unreachable(peer, "this node's p2pd has ended")
        deadline_s = time.monotonic() + timeout.total_seconds()
        answer = None
        try:
            while answer is None:  # again, if its connection is replaced meanwhile
                await self._changes.settled(peer, deadline_s)
                answer = await self._call(peer, protocol, data, deadline_s)
        except asyncio.TimeoutError as error:
            self._surely_until_s.pop(peer, None)
            raise unreachable(peer, f"no answer in {timeout.total_seconds():.1f} s") from error
        except PROBLEMS as error:
            self._surely_until_s.pop(peer, None)
            if RESET in str(error):
                raise BrokenCallError(Code.PEER_UNREACHABLE, f"{peer}: {RESET}") from error
            raise unreachable(peer, _reason(error)) from error
        self._note_connected(peer)
        return answer

    async def _call(self, peer: str, protocol: str, data: bytes, deadline_s: float) -> bytes | None:
        """The answer, or None if a change of the connection broke the call."""
        began_s = time.monotonic()
        if began_s >= deadline_s:
            raise asyncio.TimeoutError
        asking = self.p2p._client.call_unary_handler(PeerID.from_base58(peer), protocol, data)
        try:
            return bytes(await in_time(asking, deadline_s - began_s))
        except PROBLEMS:
            if self._changes.broke(peer, began_s):
                return None
            raise

    def streams(self, protocol: str) -> Streams:
        """The raw streams of a protocol; its methods block."""
        control_path = self._control.daemon_connector.control_maddr.value_for_protocol("unix")
        return Streams(f"/{control_path.lstrip('/')}", self._sockets, protocol)

    async def stop(self) -> None:
        """End the process and remove its sockets; never raises, never hangs."""
        self._exit_watch.cancel()
        self.exited.set()
        self._fail_pending()
        self.bridges.close()
        try:
            await in_time(self.p2p.shutdown(), STOP_WAIT.total_seconds())
        except asyncio.TimeoutError:
            with suppress(ProcessLookupError):
                self.p2p._child.kill()
            await self.p2p._child.wait()
        remove_socket_dir(self._sockets)

    async def _watch_exit(self) -> None:
        await self.p2p._child.wait()
        self.exited.set()
        self._fail_pending()

    def _fail_pending(self) -> None:
        # hivemind leaves calls in flight waiting for ever when p2pd is gone.
        for future in self._control._pending_calls.values():
            if not future.done():
                future.set_exception(P2PDaemonError("p2pd has ended"))


def unreachable(peer: str, reason: str) -> SwarmError:
    """A `PEER_UNREACHABLE` error about `peer`."""
    return SwarmError(Code.PEER_UNREACHABLE, f"{peer}: {reason}")


def _reason(error: BaseException) -> str:
    if isinstance(error, asyncio.TimeoutError):
        return "no connection in time"
    return str(error).replace("Connect failed. msg=", "") or type(error).__name__
