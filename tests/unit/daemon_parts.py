"""A daemon that was never started, for tests of its parts."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from node.daemon import Daemon
from node.daemon_config import DaemonConfig
from node.daemon_status import Status
from node.publishing import RecordPublisher
from swarm.collective.ledger import Ledger
from swarm.config import RunManifest
from swarm.errors import Code, SwarmError
from swarm.model.config import ModelConfig
from swarm.wire.membership_pb2 import PeerRecord

LIMIT_S = 10.0
MANIFEST = RunManifest(
    model=ModelConfig(d_model=16, num_layers=2, num_heads=2, num_kv_heads=2, d_ff=16, num_experts=2)
)
UNREACHABLE = SwarmError(Code.PEER_UNREACHABLE, "the DHT did not answer")


def config_in(directory: Path) -> DaemonConfig:
    return DaemonConfig(
        manifest_path=directory / "RUN.toml", data="texts", domain="law", peers=(),
        directory=directory, name="anna", host="127.0.0.1", port=0, threads=1, device="auto",
        allow_solo=True,
    )  # fmt: skip


def daemon_in(directory: Path, report: Callable[[str], None] = lambda line: None) -> Daemon:
    return Daemon(config_in(directory), MANIFEST, report)


class FakeNetwork:
    addresses = ("/ip4/127.0.0.1/tcp/1/p2p/X",)
    data_hosts = addresses
    known_addresses: tuple[str, ...] = ()
    signed_record = None

    def __init__(self) -> None:
        self.published: list[PeerRecord] = []
        self.failure: Exception | None = None

    async def recent_paths(self) -> dict[str, str]:
        if self.failure is not None:
            raise self.failure
        return {"bert": "lan"}

    async def publish(self, record: PeerRecord) -> None:
        self.published.append(record)


def publisher_in(
    directory: Path, network: Any, records: Callable[[], Any], status: Status
) -> RecordPublisher:
    rates = SimpleNamespace(upload_bps=1e6)
    plane = SimpleNamespace(certificate_pem=b"certificate", rates=rates)
    peers: Any = SimpleNamespace(
        records=records,
        note=lambda signed: None,
        record=lambda peer: PeerRecord(peer_id=peer, display_name=peer.title()),
    )
    return RecordPublisher(config_in(directory), network, peers, Ledger(None), status, plane, 7)  # type: ignore[arg-type]
