"""One peer's life in the swarm: p2pd comes up, joins the run's DHT, stays connected, and goes.

life = Life(parts, calls, on_stage)
await life.begin()                       # the stages of `PeerNetwork.start`, then the watch
daemon, directory = life.running()
await life.end()
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

from swarm.aio import in_time
from swarm.errors import SwarmError
from swarm.identity import Identity
from swarm.network.admission import Admission
from swarm.network.company import CompanyKeeper
from swarm.network.contacts import Contacts, peer_of
from swarm.network.p2p.bootstrap import bootstrap
from swarm.network.p2p.config import NetworkConfig
from swarm.network.p2p.daemon import Daemon, unreachable
from swarm.network.p2p.directory import Directory
from swarm.network.p2p.lan import LanDiscovery
from swarm.network.p2p.places import wait_for_port
from swarm.network.p2p.publisher import Publisher
from swarm.network.p2p.routes import Routes
from swarm.network.p2p.tunnels import Tunnels
from swarm.network.p2p.twin import CONTROL_PROTOCOL, look_for_twin
from swarm.network.transport import Clock, Endpoint

logger = logging.getLogger(__name__)

CONNECT_WAIT = timedelta(seconds=5)
GREET_WAIT = timedelta(seconds=3)
LAN_WAIT = timedelta(seconds=1.5)  # to be found there, of a peer that was given nobody
WATCH_INTERVAL = timedelta(seconds=1)
ROUTES_WAIT = timedelta(seconds=5)

StageCallback = Callable[[str, str], None]


@dataclass(frozen=True)
class Parts:
    """What a peer's network is made of, whether its p2pd runs or not."""

    identity: Identity
    key_file: Path
    run_id: bytes
    config: NetworkConfig
    now: Clock
    admission: Admission
    endpoint: Endpoint
    contacts: Contacts
    company: CompanyKeeper
    publisher: Publisher
    routes: Routes
    tunnels: Tunnels
    is_member: Callable[[str], bool]


@dataclass(frozen=True)
class Calls:
    """What a life asks of the network that it keeps alive.

    Attributes:
        answer: the reply to a control message of a peer.
        look_for: call a peer; it is of this run, and its clock is noted.
        introduce: call a peer, so that it shows its permission.
        announce: publish this peer's record again, if it has one.
    """

    answer: Callable[[str, bytes], Awaitable[bytes]]
    look_for: Callable[[str], Awaitable[None]]
    introduce: Callable[[str], Awaitable[object]]
    announce: Callable[[], Awaitable[None]]


class Life:
    """See the module docstring.

    Attributes:
        daemon, directory: p2pd and the DHT; None while they are down.
        port: TCP port of p2pd.
        watcher: the task that dials who is missing, renews the record, and starts p2pd again.
    """

    def __init__(self, parts: Parts, calls: Calls, on_stage: StageCallback) -> None:
        self.daemon: Daemon | None = None
        self.directory: Directory | None = None
        self.port = parts.config.port
        self.watcher: asyncio.Task[None] | None = None
        self._parts = parts
        self._calls = calls
        self._on_stage = on_stage
        self._keepers: list[asyncio.Task[None]] = []
        hides = not parts.config.mdns or parts.config.relay == "only"
        own_id = parts.identity.peer_id
        self._lan = None if hides else LanDiscovery(own_id, parts.run_id, parts.contacts.hint)

    def running(self) -> tuple[Daemon, Directory]:
        """p2pd and the DHT. Raises `PEER_UNREACHABLE` while they are down."""
        if self.daemon is None or self.directory is None:
            peer = self._parts.identity.peer_id
            raise unreachable(peer, "this node's network is not running")
        return self.daemon, self.directory

    async def begin(self, *, check_twin: bool) -> None:
        """Come up and join. Raises the errors of `PeerNetwork.start`; then `end` has to be called.

        `check_twin`: the key is not new, so another process may run with it.
        """
        await self._bring_up(check_twin=check_twin)
        await self._bootstrap()
        with suppress(SwarmError, asyncio.TimeoutError):
            await in_time(self._parts.routes.look(), ROUTES_WAIT.total_seconds())
        reach = self._parts.routes.reachability
        through = f"; reached through {len(reach.relays)} relays" if reach.relays else ""
        self._on_stage("reachability", f"{reach.kind}: {reach.reason}{through}")
        self.watcher = asyncio.create_task(self._watch())
        self._keepers = [
            asyncio.create_task(self._parts.company.run()),
            asyncio.create_task(self._parts.routes.run()),
        ]

    async def rest(self) -> None:
        """Watch no more, and be found in the LAN no more; p2pd still runs."""
        tasks = [task for task in (self.watcher, *self._keepers) if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if self._lan is not None:
            await self._lan.stop()

    async def take_down(self) -> None:
        """Leave the DHT and end p2pd."""
        self._parts.tunnels.detach()
        self._parts.routes.detach()
        daemon, directory = self.daemon, self.directory
        self.daemon = self.directory = None
        if daemon is not None:
            if directory is not None and not daemon.exited.is_set():
                await directory.stop()
            await daemon.stop()

    async def tell_lan(self) -> None:
        """Announce the addresses of now in the LAN."""
        if self._lan is not None:
            await self._lan.update(self._parts.routes.data_hosts, self.port)

    # ---- coming up ------------------------------------------------------------------------

    async def _bring_up(self, *, check_twin: bool) -> None:
        parts, config = self._parts, self._parts.config
        if self.port:
            await wait_for_port(config.host, self.port)
            self._on_stage("port", f"{config.host}:{self.port} is free")
        if check_twin:
            await look_for_twin(
                parts.identity.peer_id,
                parts.run_id,
                self._targets(),
                config.start_timeout,
                parts.admission,
            )
        self.daemon = await Daemon.start(
            parts.key_file, config.host, self.port, listen=True, timeout=config.start_timeout
        )
        listening = await self.daemon.addresses()
        _, self.port = self.daemon.listener
        self._on_stage("p2pd", f"listening on {', '.join(listening)}")
        await parts.routes.attach(self.daemon)
        self.directory = await Directory.start(
            self.daemon,
            parts.run_id,
            parts.now,
            parts.endpoint.refused,
            parts.is_member,
            parts.admission,
            self._calls.introduce,
        )
        await self.daemon.serve(CONTROL_PROTOCOL, self._calls.answer)
        await parts.tunnels.attach(self.daemon)
        await self.tell_lan()

    async def _bootstrap(self) -> None:
        config, contacts = self._parts.config, self._parts.contacts
        targets = [a for a in self._targets() if peer_of(a) != self._parts.identity.peer_id]
        if not targets and self._lan is not None and await self._lan.first(LAN_WAIT):
            targets = [a for peer in contacts.peers() for a in contacts.addresses(peer)]
        if not targets:
            self._on_stage("bootstrap", "no peers given: the first peer of the swarm")
            return
        required = bool(config.initial_peers) and not config.may_be_first
        limit = config.bootstrap_timeout if required else GREET_WAIT
        met = await bootstrap(
            lambda address: self._greet(peer_of(address), [address]),
            targets,
            limit,
            required=required,
        )
        self._on_stage("bootstrap", f"{met} of {len(targets)} peers answered")
        _, directory = self.running()
        await directory.explore()
        self._on_stage("dht", f"{len(directory.known())} peers known")

    def _targets(self) -> list[str]:
        config = self._parts.config
        return list(dict.fromkeys((*config.initial_peers, *config.known_peers)))

    # ---- staying --------------------------------------------------------------------------

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(WATCH_INTERVAL.total_seconds())
            try:
                await self._mend()
                await self._dial_missing()
                if self._parts.publisher.due() is not None:
                    await self._calls.announce()
            except SwarmError as error:
                logger.warning("network watch: %s", error)
            except Exception:
                logger.exception("network watch")  # it must go on whatever hivemind throws

    async def _mend(self) -> None:
        """Start p2pd and the DHT again, on the same port, if p2pd has died."""
        if self.daemon and self.directory and not self.daemon.exited.is_set():
            return
        logger.warning("p2pd has ended; starting it again")
        await self.take_down()
        await self._bring_up(check_twin=False)
        await self._calls.announce()

    async def _dial_missing(self) -> None:
        daemon, directory = self.running()
        silent = self._parts.company.silent
        connected = set(await daemon.recent_connections()) - silent
        known = directory.known() - silent
        due = self._parts.contacts.due(known, connected, time.monotonic())
        if any(await asyncio.gather(*(self._dial(peer) for peer in due))):
            await directory.explore()
            await self._calls.announce()

    async def _dial(self, peer: str) -> bool:
        contacts = self._parts.contacts
        try:
            await self._greet(peer, contacts.addresses(peer))
        except SwarmError as error:
            logger.debug("dialling %s: %s", peer, error)
            contacts.failed(peer, time.monotonic())
            return False
        logger.info("connected to %s", peer)
        return True

    async def _greet(self, peer: str, addresses: Sequence[str]) -> None:
        """Connect, check that both are of one run, and enter each other's routing table."""
        daemon, directory = self.running()
        await daemon.connect(peer, addresses, CONNECT_WAIT)
        await self._calls.look_for(peer)
        await directory.meet(peer)
        self._parts.contacts.met(peer, time.monotonic())
