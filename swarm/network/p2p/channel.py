"""Control messages between this peer and others, over the connections that p2pd makes for them.

channel = Channel(endpoint, contacts, now, life=lambda: life, heard=company.heard)
pong = await channel.call(peer, Ping(), Pong, timeout)
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Collection
from contextlib import suppress
from datetime import timedelta

from google.protobuf.message import Message

from swarm.errors import SwarmError
from swarm.network.clocks import ClockOffsets
from swarm.network.contacts import Contacts
from swarm.network.isolation import PROBE_LIMIT_S
from swarm.network.p2p.circuit import HOP
from swarm.network.p2p.daemon import BrokenCallError
from swarm.network.p2p.life import Life
from swarm.network.p2p.streams import Streams
from swarm.network.p2p.twin import CONTROL_PROTOCOL
from swarm.network.transport import Clock, Endpoint, Reply
from swarm.wire.control_pb2 import Locate, LocateReply, Ping, Pong

PROBE_WAIT = timedelta(seconds=2)


class Channel:
    """Calls and answers of one peer, the greetings Ping and Locate included; a `reach.Link`.

    `life`: p2pd and the DHT, up or down. `heard` is called with each peer that says something.

    Attributes:
        incarnation: 16 random bytes of this start.
        clocks: how far the clocks of other peers are from this one's.
        busy: gives the peers with whom bulk data is moving through p2pd.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        contacts: Contacts,
        now: Clock,
        life: Callable[[], Life],
        heard: Callable[[str], None],
    ) -> None:
        self.incarnation = secrets.token_bytes(16)
        self.clocks = ClockOffsets()
        self.busy: Callable[[], Collection[str]] = tuple
        self._endpoint = endpoint
        self._contacts = contacts
        self._now = now
        self._life = life
        self._heard = heard
        endpoint.serve(Ping, self._answer_ping)
        endpoint.serve(Locate, self._answer_locate)

    @property
    def peer_id(self) -> str:
        """This peer's id."""
        return self._endpoint.identity.peer_id

    @property
    def port(self) -> int:
        """TCP port of p2pd."""
        return self._life().port

    # ---- calls ----------------------------------------------------------------------------

    async def call(
        self, peer: str, request: Message, reply_type: type[Reply], timeout: timedelta
    ) -> Reply:
        """See `swarm.network.transport.Transport.call`."""
        data = self._endpoint.seal(peer, request)
        if peer == self.peer_id:
            answer = await self._endpoint.answer(peer, data)
            return self._endpoint.open_reply(peer, answer, reply_type)
        deadline_s = time.monotonic() + timeout.total_seconds()
        try:
            answer = await self._ask(peer, data, deadline_s)
        except BrokenCallError:
            # The peer may have replaced the connection. Any request may come twice, so once more.
            answer = await self._ask(peer, data, deadline_s)
        self._heard(peer)
        return self._endpoint.open_reply(peer, answer, reply_type)

    async def _ask(self, peer: str, data: bytes, deadline_s: float) -> bytes:
        daemon, _ = self._life().running()
        left = timedelta(seconds=max(0.05, deadline_s - time.monotonic()))
        # By its announced addresses: p2pd alone may try stale ones, for 10 s and more.
        await daemon.connect(peer, self._contacts.addresses(peer), left)
        left = timedelta(seconds=max(0.05, deadline_s - time.monotonic()))
        return await daemon.call(peer, CONTROL_PROTOCOL, data, left)

    async def look_for(self, peer: str) -> None:
        """Call a peer; it is of this run, and its clock is noted."""
        sent_s = self._now()
        pong = await self.call(peer, Ping(), Pong, timedelta(seconds=PROBE_LIMIT_S))
        self.clocks.note(peer, sent_s, self._now(), pong.now_ms)

    async def introduce(self, peer: str) -> None:
        """Call a peer, so that it shows its permission."""
        await self.call(peer, Ping(), Pong, PROBE_WAIT)

    # ---- answers --------------------------------------------------------------------------

    async def answer(self, peer: str, data: bytes) -> bytes:
        """The reply to a control message that came from `peer`."""
        self._heard(peer)
        return await self._endpoint.answer(peer, data)

    async def _answer_ping(self, sender: str, request: Ping) -> Pong:
        return Pong(
            sequence=request.sequence,
            incarnation=self.incarnation,
            now_ms=int(self._now() * 1000),
        )

    async def _answer_locate(self, sender: str, request: Locate) -> LocateReply:
        if request.peer_id == self.peer_id:
            return LocateReply(alive=True)
        if not self.addresses_of(request.peer_id):
            if request.peer_id not in await self.connections():
                return LocateReply(alive=False)
        try:
            await self.introduce(request.peer_id)
        except SwarmError:
            return LocateReply(alive=False)
        return LocateReply(alive=True)

    # ---- connections ----------------------------------------------------------------------

    async def connections(self) -> dict[str, list[str]]:
        """Remote multiaddrs of the live connections of each connected peer."""
        return await self._life().running()[0].connections()

    async def recent_connections(self) -> dict[str, list[str]]:
        """As `connections`, up to a second old."""
        return await self._life().running()[0].recent_connections()

    async def connect(self, peer: str, limit: timedelta) -> None:
        """Make sure of a connection. Raises `PEER_UNREACHABLE`."""
        await self._life().running()[0].connect(peer, self.addresses_of(peer), limit)

    async def reconnect(self, peer: str, limit: timedelta) -> None:
        """Make a new connection in place of those there are, unless bulk data is on them."""
        if peer not in self.busy():
            await self._life().running()[0].disconnect(peer)
            with suppress(SwarmError):
                await self.connect(peer, limit)

    async def drop(self, peer: str) -> None:
        """End the connections to a peer, if p2pd runs."""
        if (daemon := self._life().daemon) is not None:
            await daemon.disconnect(peer)

    def addresses_of(self, peer: str) -> list[str]:
        """Known addresses of a peer."""
        return self._contacts.addresses(peer)

    @property
    def hop(self) -> Streams:
        """Streams to relays."""
        return self._life().running()[0].streams(HOP)
