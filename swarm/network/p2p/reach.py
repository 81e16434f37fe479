"""Keeps a peer reachable: measures whether it is, and holds relays where it is not.

keeper = ReachKeeper(link, config)
await keeper.step()        # once at the start, then every second
keeper.reachability, keeper.circuits
"""

from __future__ import annotations

import asyncio
import dataclasses
import logging
import time
from collections.abc import Callable, Iterable
from datetime import timedelta
from typing import Protocol

from google.protobuf.message import Message

from swarm.errors import SwarmError
from swarm.network.addresses import plain
from swarm.network.p2p.circuit import circuit_address, reserve
from swarm.network.p2p.config import NetworkConfig
from swarm.network.p2p.looking import local_host_towards
from swarm.network.p2p.observing import Connections, ask_observers, observers
from swarm.network.p2p.streams import Streams
from swarm.network.reachability import OPEN, PUNCH_OBSERVERS, Nat, Observation, Reachability, judge
from swarm.network.relays import WEB_PORTS, RelayBook
from swarm.network.transport import Reply
from swarm.wire.membership_pb2 import PeerRecord

logger = logging.getLogger(__name__)

MEASURE_EVERY_S = 60.0
AGAIN_S = 3.0  # at the earliest, when there is a reason
RESERVE_WAIT = timedelta(seconds=2)
PORT_FREE_S = 65.0  # after which Linux lets a closed connection's ports be used again
HIDDEN_WANTS = 2
RELAY_ADDRESSES = 2  # of one relay that are announced


class Link(Protocol):
    """What the keeper needs of the network."""

    @property
    def peer_id(self) -> str:
        """This peer's id."""
        ...

    @property
    def port(self) -> int:
        """TCP port on which p2pd listens."""
        ...

    @property
    def hop(self) -> Streams:
        """Streams to relays."""
        ...

    async def connections(self) -> Connections:
        """Remote addresses of the live connections of each connected peer."""
        ...

    async def recent_connections(self) -> Connections:
        """As `connections`, up to a second old."""
        ...

    async def call(
        self, peer: str, request: Message, reply_type: type[Reply], timeout: timedelta
    ) -> Reply:
        """See `Transport.call`."""
        ...

    async def connect(self, peer: str, limit: timedelta) -> None:
        """Make sure of a connection. Raises `PEER_UNREACHABLE`."""
        ...

    async def reconnect(self, peer: str, limit: timedelta) -> None:
        """Make a new connection in place of those there are, unless bulk data is on them."""
        ...

    def addresses_of(self, peer: str) -> list[str]:
        """Known addresses of a peer."""
        ...


class ReachKeeper:
    """See the module docstring.

    Attributes:
        reachability: as of the last step.
        circuits: addresses at which others reach this peer through its relays.
    """

    def __init__(
        self, link: Link, config: NetworkConfig, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.reachability = Reachability()
        self.circuits: list[str] = []
        self._link = link
        self._config = config
        self._clock = clock
        self._book = RelayBook(link.peer_id)
        self._started_s = clock()
        self._measured_s = float("-inf")
        self._asked: frozenset[str] = frozenset()  # hosts of the observers of the last time
        self._local_host = ""
        self._vain = 0  # measurements in a row that told nothing

    def learn(self, record: PeerRecord) -> None:
        """Hear of a peer that may relay."""
        if record.relay:
            self._book.offer(record.peer_id, web=_on_web_port(record.p2p_addresses))
        else:
            self._book.withdraw(record.peer_id)

    async def step(self) -> None:
        """Measure if it is time, and see to the relays."""
        before = self.reachability
        connections = await self._link.recent_connections()
        if self._due(connections):
            await self._measure(connections)
        await self._keep_relays(connections)
        self.reachability = dataclasses.replace(
            self.reachability, relays=tuple(self._book.held(self._clock()))
        )
        if self.reachability != before:
            logger.info("reachability: %s: %s", self.reachability.kind, self.reachability.reason)

    # ---- measuring ------------------------------------------------------------------------

    def _due(self, connections: Connections) -> bool:
        """Every minute; sooner when this peer's own address has changed, when all connections
        were lost, or when there are more peers to ask than the few of the last time."""
        since_s = self._clock() - self._measured_s
        found = observers(connections)
        if not found:
            self._asked = frozenset()
            return False
        hosts = frozenset(host for host, _ in found.values())
        moved = local_host_towards(next(iter(hosts))) != self._local_host
        more = len(self._asked) < PUNCH_OBSERVERS and not hosts <= self._asked
        # Nobody answered in time, or too few: with longer and longer pauses, for good on a network
        # from which only one observer can be reached.
        unknown = self.reachability.nat is Nat.UNKNOWN and since_s >= AGAIN_S * 2**self._vain
        return since_s >= MEASURE_EVERY_S or (since_s >= AGAIN_S and (moved or more)) or unknown

    async def _measure(self, connections: Connections) -> None:
        asked = observers(connections)
        seen = await ask_observers(self._link.call, asked, self._link.port)
        self._measured_s = self._clock()
        self._asked = frozenset(host for host, _ in asked.values())
        self._local_host = local_host_towards(next(iter(self._asked), ""))
        for answer in seen:
            if answer.relay:
                web = _on_web_port(self._link.addresses_of(answer.peer))
                self._book.offer(answer.peer, web=web)
        observations: list[Observation] = [o for answer in seen for o in answer.observations]
        if observations or not seen:
            self.reachability = judge(observations, self._link.port, self._config.announce)
        self._vain = self._vain + 1 if self.reachability.nat is Nat.UNKNOWN else 0
        others = [a.peer for a in seen if not any(o.listening for o in a.observations)]
        if others and self._clock() - self._started_s > PORT_FREE_S:
            # From the listening port again, now that the kernel lets it: for hole punching.
            await asyncio.gather(*(self._link.reconnect(peer, RESERVE_WAIT) for peer in others))

    # ---- relays ---------------------------------------------------------------------------

    @property
    def _wanted(self) -> int:
        """How many relays to hold. A public peer holds one too, on a web port, unless it listens
        on one itself: for those whose network lets them dial no other port."""
        if self._config.relay == "only":
            return HIDDEN_WANTS
        if self._config.relay == "off":
            return 0
        if self.reachability.hidden and not self._config.announce:
            return HIDDEN_WANTS
        public = self.reachability.nat in OPEN
        return 1 if public and self._link.port not in WEB_PORTS else 0

    async def _keep_relays(self, connections: Connections) -> None:
        wanted = self._wanted
        if not wanted:
            self.circuits = []
            return
        now_s = self._clock()
        for relay in self._book.held(now_s):
            if not plain(connections.get(relay, ())):
                self._book.lost(relay, now_s)
        await asyncio.gather(
            *(
                self._reserve(relay)
                for relay in self._book.to_ask(now_s, wanted, web_only=wanted < HIDDEN_WANTS)
            )
        )
        self.circuits = [
            circuit_address(address, self._link.peer_id)
            for relay in self._book.held(self._clock())
            for address in plain(self._link.addresses_of(relay))[:RELAY_ADDRESSES]
        ]

    async def _reserve(self, relay: str) -> None:
        try:
            await self._link.connect(relay, RESERVE_WAIT)
            ttl_s = await asyncio.to_thread(reserve, self._link.hop, relay, RESERVE_WAIT)
        except SwarmError as error:
            logger.info("relay %s: %s", relay, error)
            self._book.failed(relay, self._clock())
        else:
            self._book.granted(relay, ttl_s, self._clock())


def _on_web_port(addresses: Iterable[str]) -> bool:
    """Whether one of the multiaddrs, circuits aside, is on a port for the web."""
    ports = [part for a in plain(addresses) for part in a.split("/tcp/")[1:]]
    return any(part.partition("/")[0] in {str(port) for port in WEB_PORTS} for part in ports)
