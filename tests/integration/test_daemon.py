"""The daemon as a real process: private files, a state that outlives a kill, a quick stop."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import socket
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path

import pytest
from node_disk import is_on_disk, newest_record
from running_node import LIMIT_S, TinyNode
from tiny_run import tiny_manifest, tiny_peers

from swarm.config import RunManifest
from swarm.network.data_plane import DataPlane
from swarm.network.lane import Kind
from swarm.network.p2p import NetworkConfig, PeerNetwork
from swarm.wire.data_pb2 import Call, ReduceHello
from swarm.wire.membership_pb2 import PeerRecord

STOP_LIMIT_S = 3.0  # on a quiet machine
STUCK_MS = 500  # longer than any undisturbed averaging
BUSY = 3.0  # how much slower the machine may be that runs the tests


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., TinyNode]]:
    """Start nodes that are gone at the end of the test."""
    nodes: list[TinyNode] = []
    tiny_peers(tmp_path, 2)

    def start_node(number: int, *options: str, host: str = "127.0.0.1") -> TinyNode:
        nodes.append(TinyNode(tmp_path, number, *options, host=host))
        return nodes[-1]

    yield start_node
    for node in nodes:
        node.kill()


def test_a_node_keeps_its_files_to_itself_and_goes_on_after_a_kill_where_it_was(
    tmp_path: Path, start: Callable[..., TinyNode]
) -> None:
    tiny_manifest(tmp_path / "RUN.toml", peers=1, inner_steps=60)
    (tmp_path / "node-0").mkdir(mode=0o755)
    first = start(0)
    status = first.wait(lambda s: s.round >= 3, "three rounds")
    assert status.device == "cpu"
    # Every commit of the first seconds must be there, not only the first one.
    deadline = time.monotonic() + 5
    while not is_on_disk(first.directory, kept := newest_record(first.directory)):
        assert time.monotonic() < deadline, "the newest commit is not on disk"
        time.sleep(0.01)
    first.kill()
    assert kept.round >= 3

    again = start(0)
    status = again.wait(lambda s: s.round > kept.round, "one more round")
    assert status.branch == kept.branch.hex()
    assert again.interrupt() < STOP_LIMIT_S * BUSY
    assert first.output.read_text().count("founded") == 1
    assert "warning" not in first.output.read_text()

    directory = again.directory
    assert directory.stat().st_mode & 0o777 == 0o700
    names = {path.name for path in directory.rglob("*")}
    assert {"commit.bin", "worker.log", "trainer", "identity.key", "shards"} <= names
    open_to_others = [p for p in directory.rglob("*") if p.stat().st_mode & 0o077]
    assert open_to_others == []
    assert is_on_disk(directory, newest_record(directory))


def test_ctrl_c_is_obeyed_at_once_also_while_a_node_starts(
    tmp_path: Path, start: Callable[..., TinyNode]
) -> None:
    tiny_manifest(tmp_path / "RUN.toml", peers=1)
    node = start(0)
    node.wait(lambda s: s.state == "STARTING", "its socket")
    assert node.interrupt() < STOP_LIMIT_S * BUSY
    assert "STOPPED" in node.output.read_text()


async def record_of(manifest: RunManifest, address: str, key: Path) -> tuple[DataPlane, PeerRecord]:
    """A stranger's data plane, and the record of the node at `address`."""
    network = await PeerNetwork.start(key, manifest.run_id, NetworkConfig(initial_peers=(address,)))
    try:
        peer = address.rpartition("/")[2]
        return DataPlane(network.identity, manifest.run_id), (await network.records())[peer]
    finally:
        await network.shutdown()


def test_a_stop_does_not_wait_for_a_thread_that_serves_a_silent_peer(
    tmp_path: Path, start: Callable[..., TinyNode]
) -> None:
    manifest = tiny_manifest(tmp_path / "RUN.toml", peers=1)
    node = start(0)
    status = node.wait(lambda s: s.round >= 1, "a round")
    plane, record = asyncio.run(record_of(manifest, status.addresses[0], tmp_path / "key"))
    hello = ReduceHello(branch=b"?", round=10**6, lanes=1)  # an attempt that never is
    call = Call(reduce=hello).SerializeToString()
    try:
        lane = plane.open_lane(record, timedelta(seconds=LIMIT_S))
        lane.send(Kind.CALL, 0, call)
        node.wait(lambda s: s.bytes_received >= len(call), "the call")
        # The node's handler waits for the attempt for `timeouts.chunk_s`.
        assert node.interrupt() < min(STOP_LIMIT_S, manifest.timeouts.chunk_s - 1)
    finally:
        plane.stop()


def loopback_host() -> str:
    """`::1` where the machine has IPv6."""
    with contextlib.suppress(OSError), socket.socket(socket.AF_INET6) as probe:
        probe.bind(("::1", 0))
        return "[::1]"
    return "127.0.0.1"


def test_two_nodes_average_over_ipv6_and_one_stops_although_the_other_is_frozen(
    tmp_path: Path, start: Callable[..., TinyNode]
) -> None:
    tiny_manifest(tmp_path / "RUN.toml", peers=2)
    host = loopback_host()
    frozen = start(0, "--allow-solo", host=host)
    node = start(1, "--allow-solo", "--peer", frozen.address(), host=host)
    status = node.wait(lambda s: s.last_counted_round >= 2, "two rounds with its update")
    assert {(p.display_name, p.alive) for p in status.peers} == {
        ("node-0", True), ("node-1", True),
    }  # fmt: skip
    frozen.signal(signal.SIGSTOP)
    node.wait(
        lambda s: s.state == "AVERAGING" and 1000 * time.time() - s.since_ms > STUCK_MS,
        "the round that the frozen one holds up",
    )
    asked = time.monotonic()
    assert node.status() is not None
    assert time.monotonic() - asked < 1.0
    assert node.interrupt() < 10.0
    assert "STOPPED" in node.output.read_text()
