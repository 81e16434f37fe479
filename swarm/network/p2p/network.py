"""`PeerNetwork`: join the swarm in stages, call peers, publish records, stay connected.

Start-up stages, each with its own time limit and error code:
key (IDENTITY_*), port (PORT_IN_USE), p2pd (P2P_START_FAILED, STAGE_TIMEOUT, IDENTITY_IN_USE),
bootstrap (BOOTSTRAP_UNREACHABLE, RUN_MISMATCH), dht, reachability.
"""

from __future__ import annotations

import asyncio
import logging
import random
import secrets
import socket
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Collection, Sequence
from concurrent.futures import CancelledError
from concurrent.futures import TimeoutError as FutureTimeoutError  # another one before 3.11
from contextlib import suppress
from datetime import timedelta
from pathlib import Path

from google.protobuf.message import Message

from swarm.aio import in_time
from swarm.config import PROTOCOL_VERSION
from swarm.errors import SwarmError
from swarm.identity import Identity
from swarm.network.admission import Admission, open_to_all
from swarm.network.clocks import ClockOffsets
from swarm.network.company import CompanyKeeper
from swarm.network.contacts import Contacts, by_peer, peer_of
from swarm.network.data_plane import DataPlane
from swarm.network.isolation import PROBE_LIMIT_S, View
from swarm.network.limits import MESSAGES, RequestLimits
from swarm.network.p2p.bootstrap import bootstrap
from swarm.network.p2p.circuit import HOP
from swarm.network.p2p.config import NetworkConfig
from swarm.network.p2p.daemon import Daemon, unreachable
from swarm.network.p2p.directory import Directory
from swarm.network.p2p.lan import LanDiscovery
from swarm.network.p2p.places import wait_for_port
from swarm.network.p2p.publisher import Publisher
from swarm.network.p2p.routes import Routes
from swarm.network.p2p.streams import Accept, Streams
from swarm.network.p2p.twin import CONTROL_PROTOCOL, look_for_twin
from swarm.network.reachability import Reachability
from swarm.network.records import LEFT
from swarm.network.speed import SpeedService
from swarm.network.transport import Clock, Endpoint, Reply, Request
from swarm.wire.control_pb2 import (
    DialBack,
    Locate,
    LocateReply,
    Observe,
    Ping,
    Pong,
    Punch,
    SpeedTest,
)
from swarm.wire.membership_pb2 import PeerRecord, SignedRecord

logger = logging.getLogger(__name__)

LANE_PROTOCOL = f"/expertswarm/lane/{PROTOCOL_VERSION}"
CONNECT_WAIT = timedelta(seconds=5)
GREET_WAIT = timedelta(seconds=3)
LAN_WAIT = timedelta(seconds=1.5)  # to be found there, of a peer that was given nobody
PROBE_WAIT = timedelta(seconds=2)
FAREWELL_WAIT = timedelta(seconds=1.5)
WATCH_INTERVAL = timedelta(seconds=1)
ROUTES_WAIT = timedelta(seconds=5)

StageCallback = Callable[[str, str], None]


class PeerNetwork:
    """A `Transport` over libp2p, with the run's directory of peers. Made by `start`.

    A background task dials again whoever is missing, renews this peer's record at a third of
    its lease, and starts p2pd again if it dies.

    Attributes:
        identity: this peer's key.
        incarnation: 16 random bytes of this start; goes into the peer record.
        refused: messages and records that were not let in, by error code.
        addresses: multiaddrs to give to other peers.
        clocks: how far the clocks of other peers are from this one's.
    """

    def __init__(
        self,
        identity: Identity,
        key_file: Path,
        run_id: bytes,
        config: NetworkConfig,
        on_stage: StageCallback,
        now: Clock,
        admission: Admission | None = None,
    ) -> None:
        self.identity = identity
        self._admission = admission or open_to_all(run_id)
        self.incarnation = secrets.token_bytes(16)
        self.addresses: list[str] = []
        self.clocks = ClockOffsets()
        self._key_file = key_file
        self._run_id = run_id
        self._config = config
        self._port = config.port
        self._on_stage = on_stage
        self._now = now
        limits = RequestLimits(MESSAGES, self._is_member)
        self._endpoint = Endpoint(identity, run_id, now, limits, self._admission)
        rng = random.Random()
        self._contacts = Contacts(identity.peer_id, rng)
        self._company = CompanyKeeper(
            identity.peer_id, self._contacts, self._look_for, self._drop, time.monotonic, rng
        )
        self._publisher = Publisher(identity, run_id, self.incarnation, now, self._admission.own)
        self.routes = Routes(self, config, run_id, self._admission.admits, self._is_member)
        self.routes.on_change = self._announce
        hides = not config.mdns or config.relay == "only"
        self._lan = None if hides else LanDiscovery(self.peer_id, run_id, self._contacts.hint)
        self._daemon: Daemon | None = None
        self._directory: Directory | None = None
        self._watcher: asyncio.Task[None] | None = None
        self._keepers: list[asyncio.Task[None]] = []
        self._streams: Streams | None = None
        self._accept_stream: Accept | None = None
        self._loop = asyncio.get_running_loop()
        self.serve(Observe, self.routes.answers.observe)
        self.serve(DialBack, self.routes.answers.dial_back)
        self.serve(Punch, self.routes.puncher.answer)
        self.serve(Ping, self._answer_ping)
        self.serve(Locate, self._answer_locate)
        self.serve(SpeedTest, SpeedService(self._is_member).answer)

    # ---- start and stop ----

    @classmethod
    async def start(
        cls,
        key_file: Path,
        run_id: bytes,
        config: NetworkConfig,
        *,
        on_stage: StageCallback = lambda name, message: None,
        now: Clock = time.time,
        admission: Admission | None = None,
    ) -> PeerNetwork:
        """Load or make the key, start p2pd, and join the run's DHT.

        `admission`: of a closed run, with this peer's own permission in it.

        `on_stage(name, message)` is called at the end of each stage. Raises the errors of the
        module's first lines; nothing is left running then.
        """
        is_new = not key_file.exists()
        identity = Identity.load_or_create(key_file)
        on_stage("key", identity.peer_id)
        network = cls(identity, key_file, run_id, config, on_stage, now, admission)
        try:
            for peer, addresses in by_peer((*config.initial_peers, *config.known_peers)).items():
                network._contacts.learn(peer, addresses)
            for address in config.initial_peers:
                network._contacts.add(address)
            await network._bring_up(check_twin=not is_new)
            await network._bootstrap()
            await network._look_at_routes()
        except BaseException:
            await network.shutdown()
            raise
        network._watcher = asyncio.create_task(network._watch())
        network._keepers = [
            asyncio.create_task(network._company.run()),
            asyncio.create_task(network.routes.run()),
        ]
        return network

    async def shutdown(self) -> None:
        """Say goodbye, leave the DHT, end p2pd, remove its sockets. Never raises for peers."""
        tasks = [task for task in (self._watcher, *self._keepers) if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if self._lan is not None:
            await self._lan.stop()
        if self._publisher.record is not None and self._directory is not None:
            farewell = PeerRecord()
            farewell.CopyFrom(self._publisher.record)
            farewell.state = LEFT
            with suppress(SwarmError, asyncio.TimeoutError):
                await in_time(self.publish(farewell), FAREWELL_WAIT.total_seconds())
        await self._take_down()

    async def _bring_up(self, *, check_twin: bool) -> None:
        config = self._config
        if self._port:
            await wait_for_port(config.host, self._port)
            self._on_stage("port", f"{config.host}:{self._port} is free")
        if check_twin:
            await look_for_twin(
                self.peer_id,
                self._run_id,
                self._targets(),
                config.start_timeout,
                self._admission,
            )
        self._daemon = await Daemon.start(
            self._key_file, config.host, self._port, listen=True, timeout=config.start_timeout
        )
        listening = await self._daemon.addresses()
        _, self._port = self._daemon.listener
        self._on_stage("p2pd", f"listening on {', '.join(listening)}")
        await self.routes.attach(self._daemon)
        self.addresses = self.routes.addresses
        self._directory = await Directory.start(
            self._daemon,
            self._run_id,
            self._now,
            self._endpoint.refused,
            self._is_member,
            self._admission,
            lambda peer: self.call(peer, Ping(), Pong, PROBE_WAIT),
        )
        await self._daemon.serve(CONTROL_PROTOCOL, self._answer)
        self._streams = self._daemon.streams(LANE_PROTOCOL)
        if self._accept_stream is not None:
            await self.serve_streams(self._accept_stream)
        await self._tell_lan()

    async def _take_down(self) -> None:
        if self._streams is not None:
            self._streams.stop()
            self._streams = None
        self.routes.detach()
        daemon, directory = self._daemon, self._directory
        self._daemon = self._directory = None
        if daemon is not None:
            if directory is not None and not daemon.exited.is_set():
                await directory.stop()
            await daemon.stop()

    # ---- joining and staying connected ----

    async def _bootstrap(self) -> None:
        targets = [a for a in self._targets() if peer_of(a) != self.peer_id]
        if not targets and self._lan is not None and await self._lan.first(LAN_WAIT):
            targets = [a for peer in self._contacts.peers() for a in self.addresses_of(peer)]
        if not targets:
            self._on_stage("bootstrap", "no peers given: the first peer of the swarm")
            return
        required = bool(self._config.initial_peers) and not self._config.may_be_first
        limit = self._config.bootstrap_timeout if required else GREET_WAIT
        met = await bootstrap(
            lambda address: self._greet(peer_of(address), [address]),
            targets,
            limit,
            required=required,
        )
        self._on_stage("bootstrap", f"{met} of {len(targets)} peers answered")
        assert self._directory is not None
        await self._directory.explore()
        self._on_stage("dht", f"{len(self._directory.known())} peers known")

    async def _greet(self, peer: str, addresses: Sequence[str]) -> None:
        """Connect, check that both are of one run, and enter each other's routing table."""
        daemon, directory = self._running()
        await daemon.connect(peer, addresses, CONNECT_WAIT)
        await self._look_for(peer)
        await directory.meet(peer)
        self._contacts.met(peer, time.monotonic())

    async def _look_at_routes(self) -> None:
        """Find out who reaches this peer before it tells anybody where it is."""
        with suppress(SwarmError, asyncio.TimeoutError):
            await in_time(self.routes.look(), ROUTES_WAIT.total_seconds())
        self.addresses = self.routes.addresses
        reach = self.reachability
        through = f"; reached through {len(reach.relays)} relays" if reach.relays else ""
        self._on_stage("reachability", f"{reach.kind}: {reach.reason}{through}")

    async def _announce(self) -> None:
        """Tell the others how to reach this peer from now on."""
        await self._tell_lan()
        self.addresses = self.routes.addresses
        if self._publisher.record is not None:
            await self.publish(self._publisher.record)

    async def _tell_lan(self) -> None:
        if self._lan is not None:
            await self._lan.update(self.data_hosts, self._port)

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(WATCH_INTERVAL.total_seconds())
            try:
                await self._mend()
                await self._dial_missing()
                if (record := self._publisher.due()) is not None:
                    await self.publish(record)
            except SwarmError as error:
                logger.warning("network watch: %s", error)
            except Exception:
                logger.exception("network watch")  # it must go on whatever hivemind throws

    async def _mend(self) -> None:
        """Start p2pd and the DHT again, on the same port, if p2pd has died."""
        if self._daemon and self._directory and not self._daemon.exited.is_set():
            return
        logger.warning("p2pd has ended; starting it again")
        await self._take_down()
        await self._bring_up(check_twin=False)
        if self._publisher.record is not None:
            await self.publish(self._publisher.record)

    async def _dial_missing(self) -> None:
        daemon, directory = self._running()
        silent = self._company.silent
        connected = set(await daemon.connections()) - silent
        due = self._contacts.due(directory.known() - silent, connected, time.monotonic())
        if any(await asyncio.gather(*(self._dial(peer) for peer in due))):
            await directory.explore()
            if self._publisher.record is not None:
                await self.publish(self._publisher.record)

    async def _dial(self, peer: str) -> bool:
        try:
            await self._greet(peer, self._contacts.addresses(peer))
        except SwarmError as error:
            logger.debug("dialling %s: %s", peer, error)
            self._contacts.failed(peer, time.monotonic())
            return False
        logger.info("connected to %s", peer)
        return True

    # ---- control messages ----

    @property
    def peer_id(self) -> str:
        """This peer's id."""
        return self.identity.peer_id

    @property
    def refused(self) -> Counter[str]:
        """Messages and records that were not let in, by error code."""
        return self._endpoint.refused

    @property
    def port(self) -> int:
        """TCP port of p2pd."""
        return self._port

    @property
    def reachability(self) -> Reachability:
        """Who can reach this peer, and why; and its relays."""
        return self.routes.reachability

    async def call(
        self, peer: str, request: Message, reply_type: type[Reply], timeout: timedelta
    ) -> Reply:
        """See `swarm.network.transport.Transport.call`."""
        data = self._endpoint.seal(peer, request)
        if peer == self.peer_id:
            answer = await self._endpoint.answer(peer, data)
            return self._endpoint.open_reply(peer, answer, reply_type)
        deadline_s = time.monotonic() + timeout.total_seconds()
        daemon, _ = self._running()
        # By its announced addresses: p2pd alone may try stale ones, for 10 s and more.
        await daemon.connect(peer, self._contacts.addresses(peer), timeout)
        left = timedelta(seconds=max(0.05, deadline_s - time.monotonic()))
        answer = await daemon.call(peer, CONTROL_PROTOCOL, data, left)
        self._company.heard(peer)
        return self._endpoint.open_reply(peer, answer, reply_type)

    async def _answer(self, peer: str, data: bytes) -> bytes:
        self._company.heard(peer)
        return await self._endpoint.answer(peer, data)

    def serve(
        self, request_type: type[Request], handler: Callable[[str, Request], Awaitable[Message]]
    ) -> None:
        """See `swarm.network.transport.Transport.serve`. Ping and Locate are answered already."""
        self._endpoint.serve(request_type, handler)

    # ---- streams --------------------------------------------------------------------------

    def carry(self, plane: DataPlane) -> None:
        """Be the way of a data plane to peers that no address reaches, and tell it of better ones.

        `serve_streams(plane.accept_tunnel)` is the other half.
        """
        plane.set_tunnel(self.open_stream)
        plane.set_addresses(self.routes.data_addresses)
        self.routes.busy = lambda: plane.tunnelled
        self.routes.on_better = plane.renew
        self.routes.puncher.seen_from = plane.seen_from

    async def serve_streams(self, accept: Accept) -> None:
        """Take streams for lanes: `accept(peer, sock)` in a thread, `peer` known by libp2p.

        Raises `P2P_START_FAILED`.
        """
        self._accept_stream = accept
        if self._streams is not None:
            await asyncio.to_thread(self._streams.serve, accept)

    def open_stream(self, record: PeerRecord, limit: timedelta) -> socket.socket:
        """A raw stream to the peer of a record by any way that libp2p finds; blocking.

        To be called in a thread, never in the event loop. Raises `PEER_UNREACHABLE`.
        """
        peer, deadline_s = record.peer_id, time.monotonic() + limit.total_seconds()
        connecting = self._connect(record, limit)
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

    async def _connect(self, record: PeerRecord, limit: timedelta) -> Streams:
        daemon, _ = self._running()
        self.learn(record)
        peer = record.peer_id
        await daemon.connect(peer, self._contacts.addresses(peer), limit)
        assert self._streams is not None
        return self._streams

    # ---- paths ----------------------------------------------------------------------------

    async def paths(self) -> dict[str, str]:
        """How each connected peer is reached: "lan", "direct", "punched" or "relay"."""
        return await self.routes.paths()

    async def path_of(self, peer: str) -> str:
        """How `peer` is reached: "self", "none", or as in `paths`."""
        return "self" if peer == self.peer_id else (await self.paths()).get(peer, "none")

    # ---- company --------------------------------------------------------------------------

    def expect(self, roster: Callable[[], Collection[str]]) -> None:
        """Name the members of the run, who should answer; asked again at each look."""
        self._company.roster = roster

    @property
    def company(self) -> View:
        """Whether this node is among others, as of the last second."""
        return self._company.view

    def heard(self, peer: str) -> None:
        """Bulk data of `peer` came, by another way than this network's calls."""
        self._company.heard(peer)

    def _is_member(self, peer: str) -> bool:
        return peer == self.peer_id or peer in self._company.roster()

    async def _look_for(self, peer: str) -> None:
        sent_s = self._now()
        pong = await self.call(peer, Ping(), Pong, timedelta(seconds=PROBE_LIMIT_S))
        self.clocks.note(peer, sent_s, self._now(), pong.now_ms)

    async def _drop(self, peer: str) -> None:
        if self._daemon is not None:
            await self._daemon.disconnect(peer)

    @property
    def data_hosts(self) -> list[str]:
        """Multiaddrs of the interfaces at which others may reach a data plane, in a LAN too."""
        return self.routes.data_hosts

    @property
    def known_addresses(self) -> list[str]:
        """Addresses worth keeping over a restart (`NetworkConfig.known_peers`), best first."""
        return self._contacts.worth_keeping()

    @property
    def peers_known(self) -> set[str]:
        """Peers in the DHT's routing table; empty means alone or cut off."""
        return self._directory.known() if self._directory is not None else set()

    async def _answer_ping(self, sender: str, request: Ping) -> Pong:
        return Pong(
            sequence=request.sequence,
            incarnation=self.incarnation,
            now_ms=int(self._now() * 1000),
        )

    async def _answer_locate(self, sender: str, request: Locate) -> LocateReply:
        if request.peer_id == self.peer_id:
            return LocateReply(alive=True)
        daemon, _ = self._running()
        if not self._contacts.addresses(request.peer_id):
            if request.peer_id not in await daemon.connections():
                return LocateReply(alive=False)
        try:
            await self.call(request.peer_id, Ping(), Pong, PROBE_WAIT)
        except SwarmError:
            return LocateReply(alive=False)
        return LocateReply(alive=True)

    # ---- records ----

    async def publish(self, record: PeerRecord) -> None:
        """Put this peer's record into the DHT and keep it there until the next `publish`.

        Fills in peer_id, run_id, protocol, incarnation, p2p_addresses and the time of issue.
        Raises `IDENTITY_IN_USE` if another process publishes under this id since our start.
        """
        self.routes.describe(record)
        await self._publisher.publish(self._running()[1], record, self.addresses)

    async def records(self) -> dict[str, PeerRecord]:
        """Valid records of all peers that are in the run now, this one's included."""
        return {peer: record for peer, (_, record) in (await self._present()).items()}

    async def signed_records(self) -> dict[str, SignedRecord]:
        """As `records`, with the signatures, to be passed on to others."""
        return {peer: signed for peer, (signed, _) in (await self._present()).items()}

    @property
    def signed_record(self) -> SignedRecord | None:
        """This peer's own record as last published."""
        return self._publisher.signed

    def learn(self, record: PeerRecord) -> None:
        """Remember the addresses of a verified record that came by another way."""
        self._contacts.learn(record.peer_id, self.routes.learn(record))

    async def store_value(self, name: str, value: bytes, lease: timedelta) -> None:
        """Put this peer's value under `name`, up to 1 MiB, in place of its earlier one.

        It is not renewed: store it again before `lease` (1 hour at most) ends.
        """
        await self._publisher.store_value(self._running()[1], name, value, lease)

    async def get_values(self, name: str) -> dict[str, bytes]:
        """Each peer's value under `name`, by peer id; signatures and leases are checked."""
        found = await self._running()[1].values(name)
        return {peer: value.value for peer, value in found.items()}

    async def _present(self) -> dict[str, tuple[SignedRecord, PeerRecord]]:
        found = await self._running()[1].peers()
        for peer, (_, record) in list(found.items()):
            if record.state == LEFT:
                self._contacts.forget(peer)
                del found[peer]
            else:
                self.learn(record)
        return found

    # ---- for the routes ----

    async def connections(self) -> dict[str, list[str]]:
        """Remote multiaddrs of the live connections of each connected peer."""
        return await self._running()[0].connections()

    async def connect(self, peer: str, limit: timedelta) -> None:
        """Make sure of a connection. Raises `PEER_UNREACHABLE`."""
        await self._running()[0].connect(peer, self._contacts.addresses(peer), limit)

    async def reconnect(self, peer: str, limit: timedelta) -> None:
        """Make a new connection in place of those there are, unless bulk data is on them."""
        if peer not in self.routes.busy():
            await self._running()[0].disconnect(peer)
            with suppress(SwarmError):
                await self.connect(peer, limit)

    def addresses_of(self, peer: str) -> list[str]:
        """Known addresses of a peer."""
        return self._contacts.addresses(peer)

    @property
    def hop(self) -> Streams:
        """Streams to relays."""
        return self._running()[0].streams(HOP)

    # ---- small helpers ----

    def _running(self) -> tuple[Daemon, Directory]:
        if self._daemon is None or self._directory is None:
            raise unreachable(self.peer_id, "this node's network is not running")
        return self._daemon, self._directory

    def _targets(self) -> list[str]:
        return list(dict.fromkeys((*self._config.initial_peers, *self._config.known_peers)))
