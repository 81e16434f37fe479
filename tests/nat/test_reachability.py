"""Peers behind routers of every kind find each other, and each pair takes its best path."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.nat import topology
from tests.nat.conditions import Conditions, between
from tests.nat.lab_peer import (
    BOOTSTRAP,
    MIB,
    WEB_SERVING,
    LabPeer,
    LabSwarm,
    eventually,
    together,
)
from tests.nat.netlab import Lab

HIDDEN = ("a", "a2", "b", "c", "d", "e", "f", "g", "h", "i")
SYMMETRIC = ("c", "d")
KINDS = {
    **dict.fromkeys(BOOTSTRAP, "public"),
    **dict.fromkeys(("a", "a2", "b", "g", "h", "i"), "endpoint-independent"),
    **dict.fromkeys(SYMMETRIC, "symmetric"),
    "e": "port-forwarded",
    "f": "firewalled",
}
NEAR = Conditions()
FAR = between(round_trip_ms=50, loss=0.01)
PUNCHED_WITHIN_S = 15.0


def expected_path(one: str, other: str) -> str:
    """The best path that the routers between two hosts allow."""
    if topology.site_of(one) == topology.site_of(other):
        return "lan"
    pair = {one, other}
    if "i" in pair:  # it can call nobody but web servers, so there is nobody to punch to
        return "direct" if pair & set(WEB_SERVING) else "relay"
    if pair & {*BOOTSTRAP, "e"}:  # what arrives at the full cone is let in
        return "direct"
    return "relay" if pair & set(SYMMETRIC) else "punched"


@pytest.fixture(scope="module", params=[NEAR, FAR], ids=["near", "far"])
def swarm(
    lab: Lab, tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest
) -> Iterator[LabSwarm]:
    """Four public peers and one of every kind; everybody has joined."""
    swarm = LabSwarm(lab, tmp_path_factory.mktemp("peers"))
    try:
        if request.param != NEAR:
            lab.set_conditions(request.param)
        swarm.start(*BOOTSTRAP[:1])
        swarm.start(*BOOTSTRAP[1:])
        swarm.start(*HIDDEN)
        yield swarm
    finally:
        swarm.stop()
        lab.clear_conditions()


def test_every_kind_of_peer_joins_and_finds_the_records_of_all(swarm: LabSwarm) -> None:
    swarm.meet(limit_s=15)
    assert max(peer.ready_s for peer in swarm.peers.values()) < 15


def test_each_peer_finds_out_what_is_between_it_and_the_others(swarm: LabSwarm) -> None:
    eventually(lambda: {h: p.network.reachability.kind for h, p in swarm.peers.items()}, KINDS, 20)
    for peer in swarm.peers.values():
        public = topology.public_address_of(topology.site_of(peer.host))
        assert all(a.startswith(f"{public}:") for a in peer.network.reachability.observed)
        assert peer.network.reachability.reason


def test_who_can_not_be_called_holds_places_with_two_relays(swarm: LabSwarm) -> None:
    public = {swarm[host].id for host in BOOTSTRAP}

    def held() -> dict[str, int]:
        return {h: len(public & set(swarm[h].network.reachability.relays)) for h in HIDDEN}

    eventually(lambda: {h: n for h, n in held().items() if n < 2}, {}, 20)


def test_every_pair_talks_at_once_and_then_takes_its_best_path(swarm: LabSwarm) -> None:
    pairs = [(a, b) for a in swarm.peers.values() for b in swarm.peers.values() if a is not b]
    problems = dict(
        zip(names(pairs), together(lambda pair: pair[0].ping(pair[1]), pairs), strict=True)
    )
    assert not {pair: problem for pair, problem in problems.items() if problem}

    def wrong() -> dict[str, str]:
        paths = together(lambda peer: peer.paths(), swarm.peers.values())
        found = dict(zip(swarm.peers, paths, strict=True))
        return {
            f"{one.host}-{other.host}": f"{path}, not {wanted}"
            for one, other in pairs
            if (path := found[one.host].get(other.id, "none"))
            != (wanted := expected_path(one.host, other.host))
        }

    eventually(wrong, {}, PUNCHED_WITHIN_S)


@pytest.mark.parametrize("pair", ["a-b", "b-g", "a-f", "h-b"])
def test_a_punched_pair_does_not_burden_the_relays(swarm: LabSwarm, pair: str) -> None:
    one, other = (swarm[host] for host in pair.split("-"))
    eventually(lambda: one.path_to(other), "punched", PUNCHED_WITHIN_S)
    before = swarm.lab.traffic(*BOOTSTRAP)
    one.fetch(other, 32 * MIB)
    assert swarm.lab.traffic(*BOOTSTRAP) - before < MIB


@pytest.mark.parametrize("pair", ["c-d", "a-c", "i-a"])
def test_a_pair_that_can_not_be_punched_has_the_relay_for_good(swarm: LabSwarm, pair: str) -> None:
    one, other = (swarm[host] for host in pair.split("-"))
    before = swarm.lab.traffic(*BOOTSTRAP)
    one.fetch(other, 64 * MIB)
    assert swarm.lab.traffic(*BOOTSTRAP) - before > 128 * MIB  # in, and out again
    assert one.path_to(other) == other.path_to(one) == "relay"


def test_two_peers_of_one_lan_do_not_leave_it(swarm: LabSwarm) -> None:
    before = swarm.lab.traffic("a")
    swarm["a"].fetch(swarm["a2"], 32 * MIB)
    assert swarm.lab.traffic("a") - before < MIB


def names(pairs: list[tuple[LabPeer, LabPeer]]) -> list[str]:
    return [f"{one.host}-{other.host}" for one, other in pairs]
