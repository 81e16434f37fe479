"""Peers stay together when relays and bootstrap nodes die and when their own network fails."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator

import pytest

from swarm.network.isolation import Company
from tests.nat.conditions import between
from tests.nat.lab_peer import BOOTSTRAP, MIB, LabPeer, LabSwarm, eventually, together
from tests.nat.netlab import Lab

LAST = "pub5"  # public, and nobody's way in
HIDDEN = ("a", "b", "c", "d", "g")
CUT_S = 60.0
SAID_WITHIN_S = 10.0
BACK_WITHIN_S = 20.0
FAILOVER_S = 20.0


@pytest.fixture(autouse=True)
def no_process_is_left_behind() -> None:
    """In place of the check after each test: peers outlive their test, `LabSwarm.stop` checks."""


@pytest.fixture(scope="module")
def swarm(lab: Lab, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LabSwarm]:
    """Four bootstrap nodes, another public peer, and five behind routers; the tests use them up."""
    swarm = LabSwarm(lab, tmp_path_factory.mktemp("peers"))
    try:
        lab.set_conditions(between(round_trip_ms=20, loss=0))
        swarm.start(*BOOTSTRAP[:1])
        swarm.start(*BOOTSTRAP[1:], LAST)
        swarm.start(*HIDDEN)
        swarm.meet()
        yield swarm
    finally:
        swarm.stop()
        lab.clear_conditions()


def test_a_peer_whose_network_fails_for_a_minute_says_so_and_comes_back(swarm: LabSwarm) -> None:
    peer, others = swarm["g"], [p for p in swarm.peers.values() if p.host != "g"]
    eventually(lambda: peer.network.company.company, Company.TOGETHER, 10)
    cut_at = time.monotonic()
    swarm.lab.cut("g")
    try:
        eventually(lambda: peer.network.company.company, Company.ISOLATED, SAID_WITHIN_S)
        assert not failures([(others[0], other) for other in others[1:]])
        time.sleep(CUT_S - (time.monotonic() - cut_at))
    finally:
        swarm.lab.restore("g")
    back_s = eventually(lambda: peer.network.company.company, Company.TOGETHER, BACK_WITHIN_S)
    pairs = [(peer, other) for other in others] + [(other, peer) for other in others]
    eventually(lambda: failures(pairs), {}, BACK_WITHIN_S - back_s)


def test_when_the_relay_in_use_dies_the_pair_goes_on_through_another(swarm: LabSwarm) -> None:
    one, other = swarm["c"], swarm["d"]
    assert not failures([(one, other)])
    relays = [swarm[host] for host in (*BOOTSTRAP, LAST)]
    in_use = max(BOOTSTRAP[1:], key=lambda host: bulk_through(swarm, host, one, other))
    swarm[in_use].kill()
    began = time.monotonic()
    eventually(lambda: failures([(one, other), (other, one)]), {}, FAILOVER_S)
    assert time.monotonic() - began < FAILOVER_S
    one.fetch(other, 4 * MIB)

    def held() -> set[str]:
        return {p.host for p in relays if p.runs and p.id in other.network.reachability.relays}

    eventually(lambda: len(held()) >= 2 or held(), True, 30)


def test_the_swarm_outlives_all_its_bootstrap_nodes(swarm: LabSwarm) -> None:
    cached = tuple(swarm["b"].network.known_addresses)
    together(lambda host: swarm[host].kill(), [h for h in BOOTSTRAP if swarm[h].runs])
    rest = [swarm[host] for host in (LAST, *HIDDEN)]
    pairs = [(one, other) for one in rest for other in rest if one is not other]
    eventually(lambda: failures(pairs), {}, 60)

    swarm.start("h", known_peers=(swarm[LAST].address,))
    swarm["b"].stop()
    swarm.start("b", known_peers=cached)
    swarm.meet(limit_s=30)
    newcomers = [swarm["h"], swarm["b"]]
    pairs = [(new, other) for new in newcomers for other in rest if other.runs and new is not other]
    eventually(lambda: failures(pairs), {}, 30)


def failures(pairs: Iterable[tuple[LabPeer, LabPeer]]) -> dict[str, str]:
    """Calls that fail, and why."""
    pairs = list(pairs)
    problems = together(lambda pair: pair[0].ping(pair[1]), pairs)
    return {f"{a.host}-{b.host}": p for (a, b), p in zip(pairs, problems, strict=True) if p}


def bulk_through(swarm: LabSwarm, host: str, one: LabPeer, other: LabPeer) -> int:
    """Bytes on a public host's link while one peer downloads from the other."""
    before = swarm.lab.traffic(host)
    one.fetch(other, 2 * MIB)
    return swarm.lab.traffic(host) - before
