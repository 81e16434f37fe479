"""The ways between this peer and the others: its addresses, its relays, the path to each peer.

    routes = Routes(link, config, run_id, admits, trusted)     # `trusted`: see `RequestLimits`
    await routes.attach(daemon)          # a p2pd has come up; `detach` when it goes
    await routes.look()                  # once at the start, then `run` until cancelled
    routes.describe(record)              # fills in what others need to reach this peer

The ladder to another peer: an existing connection, its LAN addresses if both have one public
address, its direct ones, its relays at once; and better ways are looked for in the background.
"""

from __future__ import annotations

import asyncio
import functools
import logging
import time
from collections.abc import Awaitable, Callable, Collection
from contextlib import suppress
from datetime import timedelta

from swarm.errors import SwarmError
from swarm.network.addresses import (
    OwnAddresses,
    data_addresses_to_try,
    host_of,
    own_addresses,
    plain,
    to_dial,
)
from swarm.network.p2p.config import NetworkConfig
from swarm.network.p2p.daemon import Daemon, unreachable
from swarm.network.p2p.observing import Answers, Connections
from swarm.network.p2p.puncher import Puncher
from swarm.network.p2p.reach import Link, ReachKeeper
from swarm.network.p2p.relaying import RelayHost
from swarm.network.paths import NONE, Upgrades, chance_of, is_hidden, path_of
from swarm.network.reachability import HIDDEN, Nat, Reachability, is_public, network_hash
from swarm.network.relay_budget import RelayMeter
from swarm.wire.membership_pb2 import PeerRecord

logger = logging.getLogger(__name__)

STEP_S = 1.0
LISTEN_AGAIN_S = 5.0  # between questions to p2pd where it listens: a laptop may have moved
AGAIN_WAIT = timedelta(seconds=5)
MAX_RECORDS = 1024
REACH_WAIT = timedelta(seconds=1.5)
REACH_AGAIN_S = 10.0


class Routes:
    """See the module docstring.

    Attributes:
        own: this peer's addresses.
        answers: what it tells others about how it sees them.
        meter: what it has forwarded for others.
        busy: gives the peers with whom bulk data is moving through p2pd.
        puncher: makes direct connections where both sides are behind routers.
        on_better: called with a peer to which a better path has appeared.
        on_change: called when the addresses of this peer have changed.
    """

    def __init__(
        self,
        link: Link,
        config: NetworkConfig,
        run_id: bytes,
        admits: Callable[[str], bool],
        trusted: Callable[[str], bool],
    ) -> None:
        self.own = OwnAddresses()
        self.meter = RelayMeter(config.relay_budget)
        self.busy: Callable[[], Collection[str]] = tuple
        self.on_better: Callable[[str], object] = lambda peer: None
        self.on_change: Callable[[], Awaitable[object]] | None = None
        self._link = link
        self._config = config
        self._run_id = run_id
        self._admits = admits
        self._keeper = ReachKeeper(link, config)
        self._upgrades = Upgrades()
        self._daemon: Daemon | None = None
        self._relay: RelayHost | None = None
        self._records: dict[str, PeerRecord] = {}
        self._paths: dict[str, str] = {}
        self._out_of_reach: dict[str, float] = {}  # until when nobody tries
        self._announced: tuple[object, ...] = ()
        self._listening: list[str] = []
        self._listening_until_s = 0.0
        self._trying: dict[str, asyncio.Task[None]] = {}
        self.puncher = Puncher(
            link,
            run_id,
            config.host,
            lambda: self.reachability,
            lambda: self._records.values(),
            trusted,
        )
        self.answers = Answers(link.connections, lambda: self.relaying, trusted)

    # ---- life -----------------------------------------------------------------------------

    async def attach(self, daemon: Daemon) -> None:
        """Work with this p2pd from now on."""
        self._daemon = daemon
        self._listening_until_s = 0.0
        daemon.p2p.reach = self.reach
        self.puncher.attach(daemon)
        self._relay = RelayHost(daemon, self.meter, self._admits)
        await self._relay.take_place()
        await self._refresh()

    def detach(self) -> None:
        """The p2pd ends."""
        if self._relay is not None:
            self._relay.stop()
        self.puncher.detach()
        for task in self._trying.values():
            task.cancel()
        self._daemon = self._relay = None

    async def run(self) -> None:
        """Step after step, for ever."""
        while True:
            await asyncio.sleep(STEP_S)
            try:
                await self.step()
            except SwarmError as error:
                logger.warning("routes: %s", error)
            except Exception:
                logger.exception("routes")  # it must go on whatever hivemind throws

    async def step(self) -> None:
        """See who reaches this peer, to its relays, to being one, and to the paths."""
        if self._daemon is None:
            return
        await self.look()
        if self._relay is not None:
            await self._relay.update(wanted=self._may_relay())
        announced = (self.addresses, self.own, self.relaying, self.reachability.kind)
        if announced != self._announced:
            self._announced = announced
            if self.on_change is not None:
                await self.on_change()
        await self._improve()

    async def look(self) -> None:
        """The first half of a step: who reaches this peer, and its relays."""
        await self._keeper.step()
        await self._refresh()

    async def _refresh(self) -> None:
        assert self._daemon is not None
        suffix = f"/p2p/{self._link.peer_id}"
        if time.monotonic() >= self._listening_until_s:
            self._listening = [a.removesuffix(suffix) for a in await self._daemon.addresses()]
            self._listening_until_s = time.monotonic() + LISTEN_AGAIN_S
        announced = [a.removesuffix(suffix) for a in self._config.announce]
        self.own = own_addresses(self._listening, self._keeper.reachability, announced)

    # ---- this peer ------------------------------------------------------------------------

    @property
    def reachability(self) -> Reachability:
        """Who reaches this peer, and why."""
        return self._keeper.reachability

    @property
    def relaying(self) -> bool:
        """Whether this peer forwards for others."""
        return self._relay is not None and self._relay.serving

    @property
    def addresses(self) -> list[str]:
        """Multiaddrs to give to others."""
        direct = () if self._config.relay == "only" else self.own.direct
        own = [f"{address}/p2p/{self._link.peer_id}" for address in direct]
        return [*own, *self._keeper.circuits]

    @property
    def data_hosts(self) -> list[str]:
        """Multiaddrs of own interfaces that others may reach, in a LAN too."""
        return [] if self._config.relay == "only" else [*self.own.own, *self.own.lan]

    def describe(self, record: PeerRecord) -> None:
        """Fill in how this peer is reached."""
        del record.lan_addresses[:]
        if self._config.relay != "only":
            record.lan_addresses.extend(f"{a}/p2p/{self._link.peer_id}" for a in self.own.lan)
        record.nat = self.reachability.kind
        record.observers = self.reachability.observers
        record.network_hash = self._network_hash
        record.relay = self.relaying

    @property
    def _network_hash(self) -> bytes:
        return network_hash(self._run_id, self.reachability.public_host)

    def _may_relay(self) -> bool:
        """Strangers reach this peer for sure, or nobody has told and its own address is public:
        the first one of a swarm has nobody to ask."""
        nat = self.reachability.nat
        if self._config.relay != "on":
            return False
        if nat is Nat.PUBLIC or self._config.announce:
            return True
        own_public = any(is_public(host_of(address)) for address in self.own.own)
        return nat is Nat.UNKNOWN and own_public and not self.reachability.behind_nat

    # ---- the others -----------------------------------------------------------------------

    def learn(self, record: PeerRecord) -> list[str]:
        """Remember a verified record; the addresses to dial, the best first."""
        known = self._records.get(record.peer_id)
        if known is not None and known.issued_at_ms > record.issued_at_ms:
            return to_dial(known, self._network_hash)  # the DHT may have an older one
        self._keeper.learn(record)
        self._out_of_reach.pop(record.peer_id, None)
        self._records.pop(record.peer_id, None)
        self._records[record.peer_id] = record
        while len(self._records) > MAX_RECORDS:
            del self._records[next(iter(self._records))]
        return to_dial(record, self._network_hash)

    def data_addresses(self, record: PeerRecord) -> list[str]:
        """The "host:port" of a peer's data plane that are worth a try."""
        return data_addresses_to_try(record, self._network_hash)

    def paths_by(self, connections: Connections) -> dict[str, str]:
        """How each connected peer is reached."""
        return {
            peer: path_of(
                addresses,
                hidden=self.reachability.nat in HIDDEN,
                peer_hidden=is_hidden(self._records.get(peer)),
            )
            for peer, addresses in connections.items()
        }

    async def reach(self, peer: str) -> None:
        """Make sure of a connection for the DHT, which asks whoever was named to it.

        Raises `PEER_UNREACHABLE`; who could not be reached is not tried again for a while.
        """
        now_s = time.monotonic()
        if self._out_of_reach.get(peer, 0.0) > now_s:
            raise unreachable(peer, "it could not be reached a moment ago")
        try:
            await self._link.connect(peer, REACH_WAIT)
        except SwarmError:
            if len(self._out_of_reach) >= MAX_RECORDS:
                self._out_of_reach.clear()
            self._out_of_reach[peer] = now_s + REACH_AGAIN_S
            raise

    async def _improve(self) -> None:
        """Look for better paths, and tell of those that have appeared."""
        paths = self.paths_by(await self._link.recent_connections())
        for peer, path in paths.items():
            if self._paths.get(peer, NONE) not in (NONE, path):
                logger.info("path to %s: %s, was %s", peer, path, self._paths[peer])
                self.on_better(peer)
        self._paths = paths
        if self._config.relay == "only":
            return
        chances = {
            peer: chance_of(
                self._link.peer_id,
                self.reachability,
                self._network_hash,
                self._records[peer],
                path,
                self.busy(),
            )
            for peer, path in paths.items()
            if peer in self._records
        }
        for peer in self._upgrades.due(chances, time.monotonic()):
            if peer not in self._trying:
                task = asyncio.create_task(self._try(self._records[peer], chances[peer].punch))
                self._trying[peer] = task
                task.add_done_callback(functools.partial(self._tried, peer))

    def _tried(self, peer: str, task: asyncio.Task[None]) -> None:
        del self._trying[peer]
        if not task.cancelled() and (error := task.exception()) is not None:
            logger.error("a better path to %s", peer, exc_info=error)

    async def _try(self, record: PeerRecord, punch: bool) -> None:
        """Once, to get a better path to a peer."""
        try:
            if punch:
                await self.puncher.punch(record)
            else:
                addresses = plain(to_dial(record, self._network_hash))
                await self.puncher.dial(record.peer_id, addresses)
        except SwarmError as error:
            logger.info("no better path to %s: %s", record.peer_id, error)
            with suppress(SwarmError):  # the old one may be gone
                await self._link.connect(record.peer_id, AGAIN_WAIT)
