"""`PeerNetwork`: join the swarm in stages, call peers, publish records, stay connected.

Start-up stages, each with its own time limit and error code:
key (IDENTITY_*), port (PORT_IN_USE), p2pd (P2P_START_FAILED, STAGE_TIMEOUT, IDENTITY_IN_USE),
bootstrap (BOOTSTRAP_UNREACHABLE, RUN_MISMATCH), dht, reachability.
"""

from __future__ import annotations

import asyncio
import random
import socket
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Collection
from contextlib import suppress
from datetime import timedelta
from pathlib import Path

from google.protobuf.message import Message

from swarm.aio import in_time
from swarm.errors import SwarmError
from swarm.identity import Identity
from swarm.network.admission import Admission, open_to_all
from swarm.network.clocks import ClockOffsets
from swarm.network.company import CompanyKeeper
from swarm.network.contacts import Contacts, by_peer
from swarm.network.data_plane import DataPlane
from swarm.network.isolation import View
from swarm.network.limits import MESSAGES, RequestLimits
from swarm.network.p2p.channel import Channel
from swarm.network.p2p.config import NetworkConfig
from swarm.network.p2p.life import Calls, Life, Parts, StageCallback
from swarm.network.p2p.publisher import Publisher
from swarm.network.p2p.routes import Routes
from swarm.network.p2p.streams import Accept
from swarm.network.p2p.tunnels import Tunnels
from swarm.network.reachability import Reachability
from swarm.network.records import LEFT
from swarm.network.speed import SpeedService
from swarm.network.transport import Clock, Endpoint, Reply, Request
from swarm.wire.control_pb2 import DialBack, Observe, Punch, SpeedTest
from swarm.wire.membership_pb2 import PeerRecord, SignedRecord

FAREWELL_WAIT = timedelta(seconds=1.5)


class PeerNetwork:
    """A `Transport` over libp2p, with the run's directory of peers. Made by `start`.

    Its `life` dials again whoever is missing, renews this peer's record at a third of its lease,
    and starts p2pd again if it dies.

    Attributes:
        identity: this peer's key.
        channel: calls of other peers, and answers to theirs.
        routes: the ways between this peer and the others.
        life: p2pd and the DHT, up or down.
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
        admission = admission or open_to_all(run_id)
        self.identity = identity
        limits = RequestLimits(MESSAGES, self._is_member)
        self._endpoint = Endpoint(identity, run_id, now, limits, admission)
        rng = random.Random()
        self._contacts = Contacts(identity.peer_id, rng)
        self.channel = channel = Channel(
            self._endpoint, self._contacts, now, lambda: self.life, self.heard
        )
        self._company = CompanyKeeper(
            identity.peer_id, self._contacts, channel.look_for, channel.drop, time.monotonic, rng
        )
        self._publisher = Publisher(identity, run_id, channel.incarnation, now, admission.own)
        self.routes = Routes(channel, config, run_id, admission.admits, self._is_member)
        self.routes.on_change = self._tell_everybody
        self._tunnels = Tunnels(self._connect)
        parts = Parts(
            identity, key_file, run_id, config, now, admission, self._endpoint, self._contacts,
            self._company, self._publisher, self.routes, self._tunnels, self._is_member,
        )  # fmt: skip
        calls = Calls(channel.answer, channel.look_for, channel.introduce, self._announce)
        self.life = Life(parts, calls, on_stage)
        self.serve(Observe, self.routes.answers.observe)
        self.serve(DialBack, self.routes.answers.dial_back)
        self.serve(Punch, self.routes.puncher.answer)
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
            await network.life.begin(check_twin=not is_new)
        except BaseException:
            await network.shutdown()
            raise
        return network

    async def shutdown(self) -> None:
        """Say goodbye, leave the DHT, end p2pd, remove its sockets. Never raises for peers."""
        await self.life.rest()
        if self._publisher.record is not None and self.life.directory is not None:
            farewell = PeerRecord()
            farewell.CopyFrom(self._publisher.record)
            farewell.state = LEFT
            with suppress(SwarmError, asyncio.TimeoutError):
                await in_time(self.publish(farewell), FAREWELL_WAIT.total_seconds())
        await self.life.take_down()

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
    def incarnation(self) -> bytes:
        """16 random bytes of this start; they go into the peer record."""
        return self.channel.incarnation

    @property
    def clocks(self) -> ClockOffsets:
        """How far the clocks of other peers are from this one's."""
        return self.channel.clocks

    @property
    def port(self) -> int:
        """TCP port of p2pd."""
        return self.life.port

    @property
    def addresses(self) -> list[str]:
        """Multiaddrs to give to other peers."""
        return self.routes.addresses

    @property
    def reachability(self) -> Reachability:
        """Who can reach this peer, and why; and its relays."""
        return self.routes.reachability

    async def call(
        self, peer: str, request: Message, reply_type: type[Reply], timeout: timedelta
    ) -> Reply:
        """See `swarm.network.transport.Transport.call`."""
        return await self.channel.call(peer, request, reply_type, timeout)

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
        self.channel.busy = self.routes.busy = lambda: plane.tunnelled
        self.routes.on_better = plane.renew
        self.routes.puncher.seen_from = plane.seen_from

    async def serve_streams(self, accept: Accept) -> None:
        """Take streams for lanes: `accept(peer, sock)` in a thread, `peer` known by libp2p.

        Raises `P2P_START_FAILED`.
        """
        await self._tunnels.serve(accept)

    def open_stream(self, record: PeerRecord, limit: timedelta) -> socket.socket:
        """A raw stream to the peer of a record by any way that libp2p finds; blocking.

        To be called in a thread, never in the event loop. Raises `PEER_UNREACHABLE`.
        """
        return self._tunnels.open(record, limit)

    async def _connect(self, record: PeerRecord, limit: timedelta) -> None:
        self.learn(record)
        await self.channel.connect(record.peer_id, limit)

    # ---- paths ----------------------------------------------------------------------------

    async def paths(self) -> dict[str, str]:
        """How each connected peer is reached: "lan", "direct", "punched" or "relay"."""
        return self.routes.paths_by(await self.channel.connections())

    async def recent_paths(self) -> dict[str, str]:
        """As `paths`, up to a second old, for those who look again and again."""
        return self.routes.paths_by(await self.channel.recent_connections())

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
        directory = self.life.directory
        return directory.known() if directory is not None else set()

    # ---- records ----

    async def publish(self, record: PeerRecord) -> None:
        """Put this peer's record into the DHT and keep it there until the next `publish`.

        Fills in peer_id, run_id, protocol, incarnation, p2p_addresses and the time of issue.
        Raises `IDENTITY_IN_USE` if another process publishes under this id since our start.
        """
        self.routes.describe(record)
        await self._publisher.publish(self.life.running()[1], record, self.addresses)

    async def _announce(self) -> None:
        if self._publisher.record is not None:
            await self.publish(self._publisher.record)

    async def _tell_everybody(self) -> None:
        """Others reach this peer in another way from now on."""
        await self.life.tell_lan()
        await self._announce()

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
        await self._publisher.store_value(self.life.running()[1], name, value, lease)

    async def get_values(self, name: str) -> dict[str, bytes]:
        """Each peer's value under `name`, by peer id; signatures and leases are checked."""
        found = await self.life.running()[1].values(name)
        return {peer: value.value for peer, value in found.items()}

    async def _present(self) -> dict[str, tuple[SignedRecord, PeerRecord]]:
        found = await self.life.running()[1].peers()
        for peer, (_, record) in list(found.items()):
            if record.state == LEFT:
                self._contacts.forget(peer)
                del found[peer]
            else:
                self.learn(record)
        return found
