"""A whole run among peers behind routers of many kinds: nodes train, sync, lose a relay, join."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

from swarm.config import RunManifest
from tests.integration.tiny_run import tiny_manifest, tiny_peers
from tests.nat.conditions import between
from tests.nat.lab_node import LabNodes
from tests.nat.lab_peer import eventually, together
from tests.nat.netlab import Lab

RELAYS = ("pub3", "pub4")
FOUNDERS = ("pub1", "pub2", "a", "b", "c", "g")  # public, independent, symmetric, carrier-grade
ROUNDS = 20
TRAINING_WITHIN_S = 30.0  # on a quiet machine
BUSY = 2.0  # how much slower the machine may be that runs the tests
NEWCOMERS = (("e", "f"), ("h", "i"))  # full cone, firewalled; without UDP, web only
ACTIVE = ("TRAINING", "AVERAGING")


@pytest.fixture(autouse=True)
def no_process_is_left_behind() -> None:
    """In place of the check after each test: nodes outlive their test, `LabNodes.stop` checks."""


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> RunManifest:
    return tiny_manifest(
        tmp_path_factory.getbasetemp() / "RUN.toml", peers=len(FOUNDERS), inner_steps=4
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
        entries = [nodes.address(relay) for relay in RELAYS]
        for host in FOUNDERS:
            nodes.start(host, *entries, options=("--relay", "off") if "pub" in host else ())
        yield nodes
    finally:
        nodes.stop()
        lab.clear_conditions()


def test_peers_behind_all_kinds_of_routers_commit_twenty_rounds_in_a_row(nodes: LabNodes) -> None:
    for host in FOUNDERS:
        nodes[host].wait(lambda status: status.round >= 1, "first round", 60)
    first = max(nodes[host].history()[0].round for host in FOUNDERS)
    for host in FOUNDERS:
        nodes[host].wait(lambda s: s.round >= first + ROUNDS, "twenty rounds", 120)
    accounts = [{r.round: r for r in nodes[host].history()} for host in FOUNDERS]
    for number in range(first, first + ROUNDS):
        assert len({account[number].commit_id for account in accounts}) == 1
        assert accounts[0][number].outcome == "full", accounts[0][number]
        assert len(accounts[0][number].contributors) == len(FOUNDERS)


def test_killing_the_relay_in_use_costs_no_round_more_than_its_deadline(
    lab: Lab, nodes: LabNodes, manifest: RunManifest
) -> None:
    in_use = max(RELAYS, key=lambda relay: busyness(lab, relay))
    before = max(nodes[host].history()[-1].round for host in FOUNDERS)
    nodes[in_use].kill()
    for host in FOUNDERS:
        nodes[host].wait(lambda s: s.round >= before + 6, "rounds without the relay", 60)
    accounts = [{r.round: r for r in nodes[host].history()} for host in FOUNDERS]
    for number in range(before, before + 6):
        assert len({account[number].commit_id for account in accounts}) == 1
        assert accounts[0][number].seconds < manifest.timeouts.round_s
    last = accounts[0][before + 5]
    assert len(last.contributors) == len(FOUNDERS), last


@pytest.mark.parametrize("hosts", NEWCOMERS, ids="-".join)
def test_each_other_kind_joins_trains_and_is_counted(
    nodes: LabNodes, hosts: tuple[str, str]
) -> None:
    entries = [nodes.address(relay) for relay in RELAYS if nodes[relay].process.poll() is None]
    for host in hosts:
        nodes.start(host, *entries)

    def joined(host: str) -> tuple[float, str]:
        limit_s = BUSY * TRAINING_WITHIN_S
        took_s = nodes[host].wait(lambda s: s.state in ACTIVE, "training", limit_s)
        nodes[host].wait(lambda s: s.last_counted_round > 0, "round that counts it", 60)
        return took_s, nodes[host].peer_id()

    found = dict(zip(hosts, together(joined, hosts), strict=True))
    for host, (took_s, _) in found.items():
        print(f"\n{host}: training {took_s:.1f} s after its start")

    def uncounted() -> set[str]:
        rounds = nodes[FOUNDERS[0]].history()[-5:]
        counted = {peer for summary in rounds for peer in summary.contributors}
        return {host for host, (_, peer) in found.items() if peer not in counted}

    eventually(uncounted, set(), 30)
    together(lambda host: nodes[host].interrupt(), hosts)


def busyness(lab: Lab, relay: str) -> int:
    """Bytes on its link in two seconds."""
    before = lab.traffic(relay)
    time.sleep(2)
    return lab.traffic(relay) - before
