"""Makes direct connections for p2pd: punches holes where both sides are behind routers.

    puncher = Puncher(link, run_id, host, ...)   # `trusted`: see `RequestLimits`
    puncher.attach(daemon)                   # a p2pd has come up; `detach` when it goes
    await puncher.punch(record)              # this side leads
    await puncher.answer(sender, request)    # the other side, which this peer then calls back
    await puncher.dial(peer, addresses)      # where one side can be called after all

For a hole each side takes a fresh port, asks a public peer how its router shows it, and tells the
other one through the relay; then both call (`swarm.network.punching`), and their p2pd's go on over
that connection (`swarm.network.p2p.bridge`).
"""

from __future__ import annotations

import asyncio
import functools
import logging
import socket
import time
from collections.abc import Callable, Coroutine, Iterable
from contextlib import suppress
from datetime import timedelta
from typing import Any, TypeAlias

from swarm.errors import Code, SwarmError
from swarm.network.limits import PUNCHES, RequestLimits, over_limit
from swarm.network.p2p.daemon import Daemon, unreachable
from swarm.network.p2p.dialling import call_by_tcp
from swarm.network.p2p.reach import Link
from swarm.network.paths import hides_from_strangers
from swarm.network.punching import Source, meet
from swarm.network.reachability import OPEN, Reachability, is_public, network_hash
from swarm.network.sockets import split_address
from swarm.wire.control_pb2 import Punch, PunchReply
from swarm.wire.membership_pb2 import PeerRecord

logger = logging.getLogger(__name__)

MEET_LIMIT = timedelta(seconds=6)
CALL_LIMIT = timedelta(seconds=5)  # the other side asks how it is seen before it answers
SEEN_LIMIT = timedelta(seconds=1.5)
DIAL_LIMIT = timedelta(seconds=3)
MAX_ASKED = 2  # peers that are asked how they see a port
MAX_AT_ONCE = 32
SeenFrom: TypeAlias = Callable[[Source, PeerRecord, timedelta], str]


class Puncher:
    """See the module docstring.

    Attributes:
        seen_from: see `DataPlane.seen_from`; without it only routers that keep port numbers do.
    """

    def __init__(
        self,
        link: Link,
        run_id: bytes,
        host: str,
        reachability: Callable[[], Reachability],
        records: Callable[[], Iterable[PeerRecord]],
        trusted: Callable[[str], bool],
    ) -> None:
        self.seen_from: SeenFrom | None = None
        self._link = link
        self._run_id = run_id
        self._host = host
        self._reachability = reachability
        self._records = records
        self._daemon: Daemon | None = None
        self._limits = RequestLimits(PUNCHES, trusted)
        self._answering: set[asyncio.Task[Any]] = set()

    def attach(self, daemon: Daemon) -> None:
        """Work for this p2pd from now on."""
        self._daemon = daemon

    def detach(self) -> None:
        """The p2pd ends."""
        self._daemon = None
        for task in self._answering:
            task.cancel()

    # ---- leading --------------------------------------------------------------------------

    async def punch(self, record: PeerRecord) -> None:
        """Connect directly to the peer of a record. Raises a `SwarmError` when it did not work."""
        daemon, peer = self._daemon, record.peer_id
        if daemon is None:
            raise unreachable(peer, "this node's p2pd has ended")
        source = self._source()
        try:
            request = Punch(address=await self._outside(source, peer))
            reply = await self._link.call(peer, request, PunchReply, CALL_LIMIT)
            self._check(record, reply.address)
            await _hand_over(daemon, peer, await meet(source, reply.address, MEET_LIMIT))
        finally:
            source.close()

    async def dial(self, peer: str, addresses: Iterable[str]) -> None:
        """Connect directly by the first multiaddr that answers. Raises `PEER_UNREACHABLE`.

        p2pd would dial from its listening port, which its own tries at punching may have blocked.
        """
        daemon = self._daemon
        if daemon is None:
            raise unreachable(peer, "this node's p2pd has ended")
        problems = []
        for address in addresses:
            try:
                sock = await asyncio.to_thread(call_by_tcp, address, SEEN_LIMIT.total_seconds())
            except OSError as error:
                problems.append(f"{address}: {error}")
            else:
                try:
                    with suppress(SwarmError):  # so that its calls wait for the change too
                        await self._link.call(peer, Punch(), PunchReply, CALL_LIMIT)
                except BaseException:
                    sock.close()
                    raise
                await _hand_over(daemon, peer, sock)
                return
        raise unreachable(peer, "; ".join(problems) or "it has no direct address")

    # ---- answering ------------------------------------------------------------------------

    async def answer(self, sender: str, request: Punch) -> PunchReply:
        """Answer a `Punch` and call the sender from then on; without an address, expect its call.

        Only at the public address that its own record vouches for, and once at a time: nobody can
        use this peer to knock at a third one's door for long. Raises `PEER_REFUSED`, `OVER_LIMIT`.
        """
        if len(self._answering) >= MAX_AT_ONCE:
            raise over_limit("too many holes at once")
        self._limits.take(sender, 0, time.monotonic())
        asking = asyncio.current_task()
        assert asking is not None
        self._answering.add(asking)  # the place is taken while this one waits
        try:
            work, reply = await self._agree(sender, request)
        except BaseException:
            self._limits.done(sender)
            raise
        finally:
            self._answering.discard(asking)
        task = asyncio.create_task(work)
        self._answering.add(task)
        task.add_done_callback(functools.partial(self._answered, sender))
        return reply

    async def _agree(
        self, sender: str, request: Punch
    ) -> tuple[Coroutine[Any, Any, None], PunchReply]:
        """What is to be done, and what is said before."""
        daemon = self._daemon
        if daemon is not None and not request.address:
            return self._await_dial(sender, daemon), PunchReply()
        record = next((r for r in self._records() if r.peer_id == sender), None)
        if record is None or daemon is None or not hides_from_strangers(self._reachability()):
            raise SwarmError(Code.PEER_REFUSED, "no hole can be punched to this peer")
        self._check(record, request.address)
        source = self._source()
        try:
            mine = await self._outside(source, sender)
        except BaseException:
            source.close()
            raise
        return self._call_back(sender, source, request.address, daemon), PunchReply(address=mine)

    def _answered(self, sender: str, task: asyncio.Task[None]) -> None:
        self._answering.discard(task)
        self._limits.done(sender)
        if not task.cancelled() and (error := task.exception()) is not None:
            logger.error("a hole for %s", sender, exc_info=error)

    async def _await_dial(self, peer: str, daemon: Daemon) -> None:
        async with daemon.changing(peer):
            await daemon.wait_for_direct(peer, DIAL_LIMIT)

    async def _call_back(self, peer: str, source: Source, address: str, daemon: Daemon) -> None:
        try:
            sock = await meet(source, address, MEET_LIMIT)
            async with daemon.changing(peer):
                daemon.bridges.to_listener(sock, daemon.listener)
                await daemon.wait_for_direct(peer, DIAL_LIMIT)
        except (SwarmError, OSError) as error:
            logger.info("a hole was not punched: %s", error)
        finally:
            source.close()

    # ---- small helpers --------------------------------------------------------------------

    def _source(self) -> Source:
        public = self._reachability().public_host
        host = "::" if ":" in public else self._host
        try:
            return Source.bind(host)
        except OSError as error:
            raise unreachable(self._link.peer_id, f"no port is free: {error}") from error

    async def _outside(self, source: Source, peer: str) -> str:
        """How the router shows a port to the world."""
        reach = self._reachability()
        mine = f"{reach.public_host}:{source.port}"
        if ":" in reach.public_host:
            mine = f"[{reach.public_host}]:{source.port}"
        if not reach.behind_nat:
            return mine
        for record in self._observers():
            with suppress(SwarmError):
                assert self.seen_from is not None
                return await asyncio.to_thread(self.seen_from, source, record, SEEN_LIMIT)
        kept = f"{reach.public_host}:{self._link.port}" in reach.observed
        if not kept:
            raise unreachable(peer, "nobody says how the router shows a port of this peer")
        return mine

    def _observers(self) -> list[PeerRecord]:
        """Whom to ask: those heard of last, since records of the dead stay in the book."""
        if self.seen_from is None:
            return []
        kinds = {nat.value for nat in OPEN}
        able = [r for r in self._records() if r.nat in kinds and r.data_addresses]
        return sorted(able, key=lambda r: -r.issued_at_ms)[:MAX_ASKED]

    def _check(self, record: PeerRecord, address: str) -> None:
        """Raises `PEER_REFUSED` unless the address is of the network that the record names."""
        host, _ = split_address(address)
        known = bytes(record.network_hash)
        if not is_public(host) or not known or network_hash(self._run_id, host) != known:
            raise SwarmError(Code.PEER_REFUSED, f"{address[:80]} is not where {record.peer_id} is")


async def _hand_over(daemon: Daemon, peer: str, sock: socket.socket) -> None:
    """Let p2pd go on over a connection, in place of those to `peer`. Raises `PEER_UNREACHABLE`."""
    async with daemon.changing(peer), daemon.bridges.offer(sock) as address:
        await daemon.replace(peer, [address], DIAL_LIMIT)
