"""A whole run among peers behind routers of every kind: they train, and lose what can be lost."""

from __future__ import annotations

import time
from collections.abc import Collection, Iterator

import pytest

from swarm.config import RunManifest
from swarm.wire.node_pb2 import RoundSummary
from tests.integration.tiny_run import tiny_manifest, tiny_peers
from tests.nat.conditions import between
from tests.nat.lab_node import LabNodes
from tests.nat.lab_peer import eventually, together
from tests.nat.netlab import Lab

RELAYS = ("pub3", "pub4")  # and bootstrap nodes
LAST_RELAY = "pub5"  # nobody's way in
FOUNDERS = ("pub1", "pub2", "a", "b", "c", "g")  # public, independent, symmetric, carrier-grade
NEWCOMERS = (("e", "f"), ("h", "i"))  # full cone, firewalled; without UDP, web only
ROUNDS = 20
TRAINING_WITHIN_S = 30.0
CUT = "b"
CUT_S = 60.0
SAID_WITHIN_S = 10.0
BACK_WITHIN_S = 20.0
ACTIVE = ("TRAINING", "AVERAGING")


@pytest.fixture(autouse=True)
def no_process_is_left_behind() -> None:
    """In place of the check after each test: nodes outlive their test, `LabNodes.stop` checks."""


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> RunManifest:
    return tiny_manifest(
        tmp_path_factory.getbasetemp() / "RUN.toml", peers=len(FOUNDERS), inner_steps=6
    )


@pytest.fixture(scope="module")
def nodes(
    lab: Lab, manifest: RunManifest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[LabNodes]:
    """Two relays and six founders; the tests use them up."""
    place = tmp_path_factory.getbasetemp()
    tiny_peers(place, 4)
    nodes = LabNodes(lab, place)
    try:
        lab.set_conditions(between(round_trip_ms=20, loss=0))
        nodes.relay(RELAYS[0])
        nodes.relay(RELAYS[1], nodes.address(RELAYS[0]))
        for host in FOUNDERS:
            options = ("--relay", "off") if "pub" in host else ()
            nodes.start(host, *ways_in(nodes), options=options)
        yield nodes
    finally:
        nodes.stop()
        lab.clear_conditions()


@pytest.fixture(scope="module")
def cut_s(lab: Lab, nodes: LabNodes) -> float:
    """When the network of one peer was cut, by the monotonic clock."""
    lab.cut(CUT)
    return time.monotonic()


def test_peers_behind_all_kinds_of_routers_train_soon_and_commit_twenty_rounds_in_a_row(
    nodes: LabNodes,
) -> None:
    train_soon(nodes, FOUNDERS)
    for host in FOUNDERS:
        nodes[host].wait(lambda s: s.last_counted_round > 0, "round that counts it", 60)
    for rounds in account(nodes, FOUNDERS, newest_round(nodes, FOUNDERS) + 1, ROUNDS):
        assert len(rounds) == len(FOUNDERS)
        assert rounds[0].outcome == "full", rounds[0]
        assert len(rounds[0].contributors) == len(FOUNDERS)


def test_killing_the_relay_in_use_costs_no_round_more_than_its_deadline(
    lab: Lab, nodes: LabNodes, manifest: RunManifest
) -> None:
    in_use = max(RELAYS, key=lambda relay: busyness(lab, relay))
    before = newest_round(nodes, FOUNDERS)
    nodes[in_use].kill()
    accounts = account(nodes, FOUNDERS, before, 6)
    for rounds in accounts:
        assert rounds[0].seconds < manifest.timeouts.round_s
    assert len(accounts[-1][0].contributors) == len(FOUNDERS), accounts[-1][0]


def test_a_peer_without_network_says_so_in_ten_seconds_and_trains_no_further(
    nodes: LabNodes, cut_s: float
) -> None:
    lost, others = nodes[CUT], [host for host in FOUNDERS if host != CUT]
    before = newest_round(nodes, others)
    left_s = cut_s + SAID_WITHIN_S - time.monotonic()
    lost.wait(lambda s: s.company == "isolated", "isolation", left_s)
    lost.wait(lambda s: s.state != "TRAINING", "end of its training", 30)
    account(nodes, others, before + 1, 3)
    for host in others:
        nodes[host].wait(lambda s: s.company == "together", "company", 5)


@pytest.mark.parametrize("hosts", NEWCOMERS, ids="-".join)
def test_each_other_kind_joins_trains_soon_and_is_counted(
    nodes: LabNodes, hosts: tuple[str, str]
) -> None:
    for host in hosts:
        nodes.start(host, *ways_in(nodes))
    train_soon(nodes, hosts)
    are_counted(nodes, hosts)
    together(lambda host: nodes[host].interrupt(), hosts)


def test_a_peer_is_back_within_twenty_seconds_and_matches(
    lab: Lab, nodes: LabNodes, cut_s: float
) -> None:
    lost, others = nodes[CUT], [host for host in FOUNDERS if host != CUT]
    time.sleep(max(0.0, cut_s + CUT_S - time.monotonic()))
    status = lost.status()
    assert status is not None and status.state != "TRAINING"
    lab.restore(CUT)
    back_by_s = time.monotonic() + BACK_WITHIN_S
    lost.wait(lambda s: s.company == "together", "company", BACK_WITHIN_S)
    there = newest_round(nodes, others)
    lost.wait(lambda s: s.round >= there, "the others' rounds", back_by_s - time.monotonic())
    lost.wait(lambda s: s.last_counted_round > there, "round that counts it", 30)
    account(nodes, FOUNDERS, newest_round(nodes, FOUNDERS) + 1, 3)
    said = lost.output.read_text()
    assert "warning: isolated" in said and "in touch again after" in said


def test_the_swarm_outlives_all_its_bootstrap_nodes(nodes: LabNodes) -> None:
    nodes.relay(LAST_RELAY, *ways_in(nodes))
    last = nodes[LAST_RELAY].peer_id()
    for host in ("c", "g"):
        nodes[host].wait(lambda s: last in s.relays, "place with the last relay", 60)
    gone = ways_in(nodes)
    for relay in RELAYS:
        nodes[relay].kill()
    before = newest_round(nodes, FOUNDERS)
    for host in FOUNDERS:
        nodes[host].wait(lambda s: s.last_counted_round > before + 1, "round that counts it", 60)

    nodes["a"].kill()
    nodes.start("a", *gone)  # knows no other address but those in its own peers.txt
    nodes.start("d", nodes.address("pub1"))
    are_counted(nodes, ("a", "d"))


def ways_in(nodes: LabNodes) -> list[str]:
    """The addresses of the bootstrap nodes that run."""
    return [nodes.address(r) for r in RELAYS if r in nodes.nodes and nodes[r].runs]


def train_soon(nodes: LabNodes, hosts: Collection[str]) -> None:
    """Wait until these nodes train; it has to be soon after their start."""

    def trains(host: str) -> float:
        return nodes[host].wait(lambda s: s.state in ACTIVE, "training", 2 * TRAINING_WITHIN_S)

    took_s = dict(zip(hosts, together(trains, hosts), strict=True))
    print("\ntraining after", ", ".join(f"{host} {s:.1f} s" for host, s in took_s.items()))
    assert max(took_s.values()) < TRAINING_WITHIN_S


def are_counted(nodes: LabNodes, hosts: Collection[str]) -> None:
    """Wait until the first of the founders has committed a round with the updates of all these."""
    for host in hosts:
        nodes[host].wait(lambda s: s.last_counted_round > 0, "round that counts it", 60)

    def uncounted() -> set[str]:
        rounds = nodes[FOUNDERS[0]].history()[-5:]
        counted = {peer for summary in rounds for peer in summary.contributors}
        return {host for host in hosts if nodes[host].peer_id() not in counted}

    eventually(uncounted, set(), 30)


def newest_round(nodes: LabNodes, hosts: Collection[str]) -> int:
    """The newest round that one of these nodes knows to be committed."""
    told = [nodes[host].status() for host in hosts]
    return max(status.round for status in told if status is not None)


def account(
    nodes: LabNodes, hosts: Collection[str], first: int, count: int
) -> list[list[RoundSummary]]:
    """What these nodes tell of each of so many rounds; they agree on the commits' hashes.

    Who was not there, and adopted a later commit, has nothing to tell of a round.
    """
    for host in hosts:
        nodes[host].wait(lambda s: s.round >= first + count, f"{count} rounds", 120)
    told = [{r.round: r for r in nodes[host].history()} for host in hosts]
    numbers = range(first, first + count)
    rounds = [[one[number] for one in told if number in one] for number in numbers]
    for number, each in zip(numbers, rounds, strict=True):
        assert len({summary.commit_id for summary in each}) == 1, (number, each)
    return rounds


def busyness(lab: Lab, relay: str) -> int:
    """Bytes on its link in two seconds."""
    before = lab.traffic(relay)
    time.sleep(2)
    return lab.traffic(relay) - before
