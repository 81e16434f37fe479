"""What a node tells the swarm about itself, and what it last heard of the others.

publisher = RecordPublisher(config, network, directory, ledger, status, data_plane, data_port)
await publisher.begin()            # once at the start
await publisher.run()              # keeps it true until cancelled
publisher.known, publisher.paths   # for `node status`, which must not wait for the DHT
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from datetime import timedelta

from node.daemon_config import DaemonConfig
from node.daemon_status import State, Status
from node.known_peers import save_addresses
from swarm import __version__
from swarm.collective.ledger import Ledger
from swarm.errors import Code, SwarmError
from swarm.network.addresses import data_addresses
from swarm.network.data_plane import DataPlane
from swarm.network.membership import PeerDirectory
from swarm.network.p2p import PeerNetwork
from swarm.wire.membership_pb2 import PeerRecord

RECORD_LEASE = timedelta(seconds=60)
LOOK_EVERY_S = 1.0
KEEPING = "keeping in touch with the swarm"


class RecordPublisher:
    """See the module docstring.

    Attributes:
        known: ids of the live peers, as of the last look.
        paths: how each connected peer is reached.
    """

    def __init__(
        self,
        config: DaemonConfig,
        network: PeerNetwork,
        directory: PeerDirectory,
        ledger: Ledger,
        status: Status,
        data_plane: DataPlane,
        data_port: int,
    ) -> None:
        self.known: frozenset[str] = frozenset()
        self.paths: Mapping[str, str] = {}
        self._config = config
        self._network = network
        self._directory = directory
        self._ledger = ledger
        self._status = status
        self._data_plane = data_plane
        self._data_port = data_port
        self._published: tuple[object, ...] = ()
        self._published_s = 0.0

    async def run(self) -> None:
        """Publish after each commit and every third of the lease; look at the others in between."""
        loop = asyncio.get_running_loop()
        while True:
            try:
                self.known = frozenset(await self._directory.records())
                self.paths = await self._network.recent_paths()
                late = loop.time() - self._published_s > RECORD_LEASE.total_seconds() / 3
                if late or self._content() != self._published:
                    await self.publish()
                    save_addresses(self._config.directory, self._network.known_addresses)
            except SwarmError as error:
                self._published = ()  # where the DHT's peers are others now, the record is gone
                self._status.note_trouble(KEEPING, error)
            else:
                self._status.note_trouble(KEEPING, None)
            await asyncio.sleep(LOOK_EVERY_S)

    async def begin(self) -> None:
        """Publish for the first time; a DHT that does not answer is asked again by `run`."""
        try:
            await self.publish()
        except SwarmError as error:
            if error.code is not Code.PEER_UNREACHABLE:
                raise
            self._status.note_trouble(KEEPING, error)

    def record_of(self, peer: str) -> PeerRecord | None:
        """The newest record of a peer from anywhere, if its lease still holds."""
        return self._directory.record(peer)

    def _content(self) -> tuple[object, ...]:
        """What the record must not be wrong about for long."""
        paused = self._status.state is State.PAUSED
        hosts = tuple(self._network.data_hosts)
        return self._ledger.commit_id, self._status.device, paused, hosts

    async def publish(self) -> None:
        """Put this node's record into the DHT and into its own directory."""
        content, begun_s = self._content(), asyncio.get_running_loop().time()
        record = self._ledger.record
        await self._network.publish(
            PeerRecord(
                display_name=self._config.name,
                software_version=__version__,
                data_addresses=data_addresses(self._network.data_hosts, self._data_port),
                tls_certificate=self._data_plane.certificate_pem,
                device=self._status.device,
                tokens_per_second=self._status.tokens_per_second,
                bandwidth_bps=self._data_plane.rates.upload_bps,
                domain=self._config.domain,
                held_experts=self._status.held_experts,
                branch=self._ledger.branch,
                round=record.round if record is not None else 0,
                committed_tokens=record.committed_tokens if record is not None else 0,
                commit_id=self._ledger.commit_id,
                state=self._status.state.value,
                lease_ttl_ms=round(1000 * RECORD_LEASE.total_seconds()),
            )
        )
        self._published, self._published_s = content, begun_s
        if self._network.signed_record is not None:
            self._directory.note(self._network.signed_record)
