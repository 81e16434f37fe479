"""A public node that trains nothing: the way into a run, and the relay of peers behind NAT.

    asyncio.run(run_relay(config, print))       # until cancelled, which stops it cleanly

It has no model and no torch, so it fits into the smallest rented machine. Peers find one another
through it; the collective does not count it as a member. Its data plane serves no calls: it only
tells who opens a lane how the router in between shows the caller's port, for hole punching.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

from node.company import CompanyReporter
from node.control_server import NodeControl, control_server
from node.daemon_status import State, Status
from node.joining import load_admission
from node.known_peers import load_addresses, save_addresses
from node.metrics.server import metrics_server
from node.network_view import add_network
from node.node_files import node_lock
from node.paths import PRIVATE_MASK
from node.tasks import together, uninterrupted
from swarm import __version__
from swarm.config import RunManifest
from swarm.errors import SwarmError
from swarm.identity import Identity
from swarm.network.addresses import data_addresses
from swarm.network.data_plane import DataPlane
from swarm.network.p2p import NetworkConfig, PeerNetwork
from swarm.network.records import RELAY
from swarm.wire import node_pb2
from swarm.wire.membership_pb2 import PeerRecord

LOOK_EVERY_S = 2.0
SAVE_EVERY_LOOKS = 10
LEASE_MS = 60_000
LANE_LIMIT = timedelta(seconds=15)  # as long as a hole is being punched
Report = Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class RelayConfig:
    """Settings of one relay node."""

    manifest_path: Path
    """The run's manifest, RUN.toml."""

    directory: Path
    """Holds the key, the known peers, and the socket."""

    name: str
    """Display name."""

    network: NetworkConfig
    """Where to listen and whom to join; without the cached peers."""

    data_port: int = 0
    """TCP port of the data plane; 0 picks a free one."""

    metrics: tuple[str, int] | None = None
    """Host and port of `/metrics` and `/healthz`; None: not served."""


async def run_relay(config: RelayConfig, report: Report) -> None:
    """Serve until this task is cancelled or `node stop` is called.

    Raises a typed error when it can not start; nothing is left behind then.
    """
    os.umask(PRIVATE_MASK)
    with node_lock(config.directory):
        relay = RelayNode(config, RunManifest.load(config.manifest_path), report)
        with metrics_server(config.metrics, relay.snapshot, report):
            work = asyncio.create_task(relay.run())
            relay.on_stop = work.cancel
            with contextlib.suppress(asyncio.CancelledError):
                await work


class RelayNode:
    """See the module docstring."""

    def __init__(self, config: RelayConfig, manifest: RunManifest, report: Report) -> None:
        self.config = config
        self.manifest = manifest
        self.status = Status(report)
        self.on_stop: Callable[[], object] = lambda: None
        self.network: PeerNetwork | None = None
        self.data_plane: DataPlane | None = None
        self._paths: Mapping[str, str] = {}
        self._records: Mapping[str, PeerRecord] = {}

    async def run(self) -> None:
        """Start, then serve until cancelled."""
        async with control_server(
            self.config.directory, NodeControl(self.status, self.snapshot, self._stop)
        ):
            try:
                network = await self._start()
                company = CompanyReporter(network, tuple, dict, self.status.report)
                await together(self._look(network), company.run())
            finally:
                await uninterrupted(self._finish())

    async def snapshot(self) -> node_pb2.StatusReply:
        """The truth about this node, for `node status`; answers at once."""
        status, network = self.status, self.network
        reply = node_pb2.StatusReply(
            run_id=self.manifest.run_id.hex(),
            run_name=self.manifest.name,
            peer_id=network.peer_id if network is not None else "",
            display_name=self.config.name,
            state=status.state.value,
            reason=status.reason,
            since_ms=round(1000 * status.since_s),
            pid=os.getpid(),
            version=__version__,
            role="relay",
        )
        if network is not None:
            add_network(reply, network)
            reply.refused.update(network.refused)
            reply.peers.extend(self._row(peer) for peer in sorted({*self._records, *self._paths}))
        return reply

    def _row(self, peer: str) -> node_pb2.PeerStatus:
        assert self.network is not None
        record = self._records.get(peer, PeerRecord())
        return node_pb2.PeerStatus(
            peer_id=peer,
            display_name=record.display_name,
            domain=record.domain,
            path="self" if peer == self.network.peer_id else self._paths.get(peer, "none"),
            tokens_per_second=record.tokens_per_second,
            held_experts=record.held_experts,
            alive=peer in self._records,
            round=record.round,
            device=record.device,
            state=record.state,
            nat=record.nat,
            version=record.software_version,
        )

    async def _start(self) -> PeerNetwork:
        config, status = self.config, self.status
        status.enter(State.STARTING, f"run {self.manifest.run_id.hex()[:16]}")
        identity = Identity.load_or_create(config.directory / "identity.key")
        admission = load_admission(config.directory, self.manifest, identity.peer_id)
        self.data_plane = plane = DataPlane(
            identity, self.manifest.run_id, idle_limit=LANE_LIMIT, admission=admission
        )
        port = int(plane.start(config.network.host, config.data_port).rpartition(":")[2])
        cached = load_addresses(config.directory)
        network = await PeerNetwork.start(
            config.directory / "identity.key",
            self.manifest.run_id,
            dataclasses.replace(config.network, known_peers=cached, may_be_first=True),
            on_stage=lambda name, message: status.report(f"{name}: {message}"),
            admission=admission,
        )
        self.network = network
        hosts = [*network.data_hosts, *config.network.announce]
        await network.publish(
            PeerRecord(
                display_name=config.name,
                software_version=__version__,
                data_addresses=data_addresses(hosts, port),
                tls_certificate=plane.certificate_pem,
                state=RELAY,
                lease_ttl_ms=LEASE_MS,
            )
        )
        status.enter(State.RELAYING, "serving peers")
        for address in network.addresses:
            status.report(f"others join with: --peer {address}")
        return network

    async def _look(self, network: PeerNetwork) -> None:
        looks = 0
        while True:
            try:
                self._records = await network.records()
                self._paths = await network.recent_paths()
                if looks % SAVE_EVERY_LOOKS == 0:
                    save_addresses(self.config.directory, network.known_addresses)
            except SwarmError as error:
                self.status.note_trouble("keeping in touch with the swarm", error)
            else:
                self.status.note_trouble("keeping in touch with the swarm", None)
            looks += 1
            await asyncio.sleep(LOOK_EVERY_S)

    async def _finish(self) -> None:
        self.status.enter(State.FINISHING, "leaving")
        if self.data_plane is not None:
            self.data_plane.stop()
        if self.network is not None:
            with contextlib.suppress(SwarmError):
                save_addresses(self.config.directory, self.network.known_addresses)
            await self.network.shutdown()
        self.status.enter(State.STOPPED, "")

    def _stop(self, reason: str) -> None:
        self.status.report(f"stopping: {reason or 'asked to'}")
        self.on_stop()
