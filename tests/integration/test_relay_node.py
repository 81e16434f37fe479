"""What a relay node does for peers that want to punch a hole: it tells how it sees their ports."""

from __future__ import annotations

import asyncio
import time
from datetime import timedelta
from pathlib import Path

import pytest
from tiny_run import tiny_manifest

from node.relay import RelayConfig, RelayNode
from swarm.config import RunManifest
from swarm.errors import Code, SwarmError
from swarm.network.data_plane import DataPlane
from swarm.network.p2p import NetworkConfig, PeerNetwork
from swarm.network.punching import Source
from swarm.network.records import RELAY
from swarm.wire.membership_pb2 import PeerRecord

WAIT = timedelta(seconds=5)


async def record_of_the_relay(network: PeerNetwork) -> PeerRecord:
    deadline_s = time.monotonic() + 10
    while time.monotonic() < deadline_s:
        for record in (await network.records()).values():
            if record.state == RELAY:
                return record
        await asyncio.sleep(0.05)
    raise AssertionError("no relay")


async def addresses_of(relay: RelayNode) -> tuple[str, ...]:
    deadline_s = time.monotonic() + 10
    while not (relay.network is not None and relay.network.addresses):
        assert time.monotonic() < deadline_s
        await asyncio.sleep(0.05)
    return tuple(relay.network.addresses)


def asked(relay: PeerRecord, plane: DataPlane) -> None:
    """A peer asks about a port of its own, and then for more than there is."""
    source = Source.bind("127.0.0.1")
    try:
        assert plane.seen_from(source, relay, WAIT) == f"127.0.0.1:{source.port}"
    finally:
        source.close()
    with pytest.raises(SwarmError) as caught:
        plane.download_blob([relay], bytes(32), memoryview(bytearray(8)), WAIT)
    assert caught.value.code is Code.PEER_REFUSED
    assert "nothing of that kind is served here" in caught.value.message


def test_a_relay_tells_a_peer_how_it_sees_a_port_and_serves_nothing_else(tmp_path: Path) -> None:
    tiny_manifest(tmp_path / "RUN.toml", peers=2)
    run_id = RunManifest.load(tmp_path / "RUN.toml").run_id
    (tmp_path / "relay").mkdir()
    config = RelayConfig(
        manifest_path=tmp_path / "RUN.toml",
        directory=tmp_path / "relay",
        name="relay",
        network=NetworkConfig(),
    )

    async def story() -> None:
        relay = RelayNode(config, RunManifest.load(config.manifest_path), lambda line: None)
        serving = asyncio.create_task(relay.run())
        try:
            config_of_peer = NetworkConfig(initial_peers=await addresses_of(relay))
            network = await PeerNetwork.start(tmp_path / "key", run_id, config_of_peer)
            plane = DataPlane(network.identity, run_id)
            try:
                await asyncio.to_thread(asked, await record_of_the_relay(network), plane)
            finally:
                plane.stop()
                await network.shutdown()
        finally:
            serving.cancel()
            await asyncio.wait([serving])

    asyncio.run(story())
