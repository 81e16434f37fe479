"""Nodes that lose the network, or all who let them in: real daemons on hosts whose cable is pulled.

Needs network namespaces, that is, root on Linux.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from bridged_hosts import BridgedHosts, why_not
from running_node import RunningNode
from tiny_run import tiny_manifest, tiny_peers

pytestmark = pytest.mark.skipif(bool(why_not()), reason=why_not())


class HostNode(RunningNode):
    """`node start` on a host, or another verb that runs a node."""

    def __init__(self, place: Path, hosts: BridgedHosts, number: int, *options: str) -> None:
        verb, *rest = options or ("start",)
        words = [verb, "--run", str(place / "RUN.toml"), "--listen", hosts.listen(number), *rest]
        if verb == "start":
            words += ["--data", str(place / f"text-{number}"), "--name", f"node-{number}"]
        directory, output = place / f"node-{number}", place / f"output-{number}.txt"
        super().__init__(directory, output, words, hosts.inside(number))


@pytest.fixture
def hosts() -> Iterator[BridgedHosts]:
    with BridgedHosts(4) as made:
        yield made


@pytest.fixture
def start(tmp_path: Path, hosts: BridgedHosts) -> Iterator[Callable[..., HostNode]]:
    """Start nodes that are gone at the end of the test."""
    nodes: list[HostNode] = []
    tiny_peers(tmp_path, 4)

    def start_node(number: int, *options: str) -> HostNode:
        nodes.append(HostNode(tmp_path, hosts, number, *options))
        return nodes[-1]

    yield start_node
    for node in nodes:
        node.kill()


def trio(start: Callable[..., HostNode], place: Path) -> list[HostNode]:
    """Three nodes that train together."""
    tiny_manifest(place / "RUN.toml", peers=3, inner_steps=100)  # in a minute less than 256 rounds
    nodes = [start(0)]
    nodes += [start(n, "start", "--peer", nodes[0].address()) for n in (1, 2)]
    for node in nodes:
        node.wait(lambda s: s.last_counted_round >= 2, "two rounds with its update")
    return nodes


@pytest.mark.heavy
def test_a_node_without_network_says_so_in_ten_seconds_and_is_back_in_twenty(
    tmp_path: Path, hosts: BridgedHosts, start: Callable[..., HostNode]
) -> None:
    nodes = trio(start, tmp_path)
    lost, others = nodes[2], nodes[:2]
    hosts.pull(2)
    cut = time.monotonic()
    before = lost.wait(lambda s: s.company == "isolated", "says that it is isolated", 10)
    lost.wait(lambda s: s.state != "TRAINING", "does not train on alone", 30)
    for node in others:
        node.wait(lambda s: s.round >= before.round + 3, "the others go on without it")
        assert node.status().company == "together"
    time.sleep(max(0.0, cut + 60 - time.monotonic()))
    alone = lost.status()
    assert alone is not None and alone.round <= before.round + 1
    assert alone.state != "TRAINING"
    hosts.plug(2)
    restored = time.monotonic()
    lost.wait(lambda s: s.company == "together", "finds the others again", 20)
    there = others[0].status()
    assert there is not None
    lost.wait(
        lambda s: s.round >= there.round and s.branch == there.branch,
        "has what the others have",
        restored + 20 - time.monotonic(),
    )
    lost.wait(lambda s: s.last_counted_round > there.round, "its updates count again")
    text = lost.output.read_text()
    assert "warning: isolated: 0 of 2 watched peers answer" in text
    assert "in touch again after" in text


@pytest.mark.heavy
def test_the_swarm_outlives_all_the_nodes_that_it_was_joined_through(
    tmp_path: Path, start: Callable[..., HostNode]
) -> None:
    tiny_manifest(tmp_path / "RUN.toml", peers=2)
    relay = start(3, "relay")
    through_relay = ("start", "--peer", relay.address())
    nodes = [start(number, *through_relay) for number in (0, 1)]
    for node in nodes:
        node.wait(lambda s: s.last_counted_round >= 2, "two rounds with its update")
    both = {"node-0", "node-1"}
    status = relay.wait(
        lambda s: both <= {peer.display_name for peer in s.peers if peer.alive}, "sees both nodes"
    )
    assert status.role == "relay"
    relay.kill()

    here = nodes[0].wait(lambda s: s.round >= 1, "its round")
    nodes[0].wait(lambda s: s.round >= here.round + 3, "goes on without the relay")

    nodes[1].kill()
    again = start(1, *through_relay)  # the only address that it is told of is dead
    again.wait(lambda s: s.last_counted_round > here.round + 3, "is back, by whom it knew")

    newcomer = start(2, "start", "--peer", nodes[0].address())
    newcomer.wait(lambda s: s.last_counted_round > 0, "joined through one peer", 90)
    for node in (nodes[0], again, newcomer):
        status = node.wait(lambda s: s.company == "together", "is in company")
        assert sum(peer.in_roster for peer in status.peers) == 3


def test_a_relay_starts_although_the_others_are_gone_and_meets_them_when_they_are_back(
    tmp_path: Path, start: Callable[..., HostNode]
) -> None:
    tiny_manifest(tmp_path / "RUN.toml", peers=2)
    first = start(0, "relay")
    address = first.address()
    first.kill()
    second = start(1, "relay", "--peer", address)
    second.wait(lambda s: s.state == "RELAYING", "serves alone")
    second.wait(lambda s: s.company == "isolated", "says that nobody answers", 15)
    start(0, "relay")
    second.wait(lambda s: s.company == "together", "has found the other", 20)
    status = second.wait(lambda s: sum(p.alive for p in s.peers) == 2, "both are listed", 20)
    assert status.worker_pid == 0
    resident = int(
        next(
            line.split()[1]
            for line in (Path("/proc") / str(status.pid) / "status").read_text().splitlines()
            if line.startswith("VmRSS")
        )
    )
    assert resident < 150 * 1024  # KiB: without torch, without a model
