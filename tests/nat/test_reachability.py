"""Peers behind routers of every kind find each other, and each pair takes its best path."""

from __future__ import annotations

from collections.abc import Collection, Iterator

import pytest

from tests.nat import topology
from tests.nat.conditions import between
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
CONDITIONS = {"near": None, "far": between(round_trip_ms=50, loss=0.01)}
# A public peer needs no relay, and if its port is no web server's, the web-only network can not
# call it: there is a path between them once the public one has called.
CALLED_BACK = {("i", host) for host in BOOTSTRAP if host not in WEB_SERVING}
INDEPENDENT = ("a", "b", "g", "h")
TALKS_WITHIN_S = 10.0
PUNCHED_WITHIN_S = 15.0
ALL_WITHIN_S = 45.0
FAILOVER_S = 20.0


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


@pytest.fixture(scope="module", params=CONDITIONS)
def swarm(
    lab: Lab, tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest
) -> Iterator[LabSwarm]:
    """Four public peers and one of every kind; everybody has joined."""
    swarm = LabSwarm(lab, tmp_path_factory.mktemp("peers"))
    swarm.far = request.param == "far"
    try:
        if (conditions := CONDITIONS[request.param]) is not None:
            lab.set_conditions(conditions)
        swarm.start(*BOOTSTRAP[:1])
        swarm.start(*BOOTSTRAP[1:])
        swarm.start(*HIDDEN)
        yield swarm
    finally:
        swarm.stop()
        lab.clear_conditions()


def test_every_kind_of_peer_joins_and_finds_the_records_of_all(swarm: LabSwarm) -> None:
    swarm.meet(limit_s=15)
    assert max(peer.ready_s for peer in swarm.peers.values()) < 30


def test_each_peer_finds_out_what_is_between_it_and_the_others(swarm: LabSwarm) -> None:
    def wrong() -> dict[str, str]:
        found = {host: peer.network.reachability for host, peer in swarm.peers.items()}
        return {h: f"{r.kind}: {r.reason}" for h, r in found.items() if r.kind != KINDS[h]}

    eventually(wrong, {}, 30)
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
    callable_ = [(a, b) for a, b in pairs if (a.host, b.host) not in CALLED_BACK]
    # So many at once are too much for a busy machine, and who failed may have to wait for libp2p.
    together(lambda pair: eventually(lambda: pair[0].ping(pair[1]), "", TALKS_WITHIN_S), callable_)

    def wrong(hosts: Collection[str]) -> dict[str, str]:
        paths = together(lambda peer: peer.paths(), swarm.peers.values())
        found = dict(zip(swarm.peers, paths, strict=True))
        return {
            f"{one.host}-{other.host}": f"{path}, not {wanted}"
            for one, other in pairs
            if {one.host, other.host} <= set(hosts)
            and (path := found[one.host].get(other.id, "none"))
            != (wanted := expected_path(one.host, other.host))
        }

    eventually(lambda: wrong(INDEPENDENT), {}, PUNCHED_WITHIN_S)
    eventually(lambda: wrong(swarm.peers), {}, ALL_WITHIN_S)


def test_punched_pairs_do_not_burden_the_relays(swarm: LabSwarm) -> None:
    for pair in ("a-b",) if swarm.far else ("a-b", "b-g", "a-f", "h-b"):
        one, other = (swarm[host] for host in pair.split("-"))
        eventually(lambda: one.path_to(other), "punched", PUNCHED_WITHIN_S)  # noqa: B023
        forwarded, links = relayed(swarm, one.id), swarm.lab.traffic(*BOOTSTRAP)
        one.fetch(other, 32 * MIB)
        assert relayed(swarm, one.id) - forwarded < MIB, pair
        # Everybody talks to the public peers meanwhile, in bursts.
        assert swarm.lab.traffic(*BOOTSTRAP) - links < 16 * MIB, pair


def test_pairs_that_can_not_be_punched_have_the_relay_for_good(swarm: LabSwarm) -> None:
    moved = {"c-d": 8} if swarm.far else {"c-d": 64, "a-c": 8, "i-a": 8}
    for pair, mib in moved.items():
        one, other = (swarm[host] for host in pair.split("-"))
        before = swarm.lab.traffic(*BOOTSTRAP)
        one.fetch(other, mib * MIB)
        assert swarm.lab.traffic(*BOOTSTRAP) - before > 2 * mib * MIB  # in, and out again
        assert one.path_to(other) == other.path_to(one) == "relay"


def test_two_peers_of_one_lan_do_not_leave_it(swarm: LabSwarm) -> None:
    before = swarm.lab.traffic("a")
    swarm["a"].fetch(swarm["a2"], 32 * MIB)
    assert swarm.lab.traffic("a") - before < 4 * MIB  # both talk to the others meanwhile


def test_when_the_relay_in_use_dies_the_pair_goes_on_through_another(swarm: LabSwarm) -> None:
    one, other = swarm["c"], swarm["d"]
    in_use = max(BOOTSTRAP[1:], key=lambda host: bulk_through(swarm, host, one, other))
    swarm[in_use].kill()
    left = {swarm[host].id for host in BOOTSTRAP if swarm[host].runs}
    eventually(lambda: one.ping(other) + other.ping(one), "", FAILOVER_S)
    one.fetch(other, 4 * MIB)
    eventually(lambda: len(left & set(other.network.reachability.relays)) >= 2, True, 30)


def bulk_through(swarm: LabSwarm, host: str, one: LabPeer, other: LabPeer) -> int:
    """Bytes on a public host's link while one peer downloads from the other."""
    before = swarm.lab.traffic(host)
    one.fetch(other, 2 * MIB)
    return swarm.lab.traffic(host) - before


def relayed(swarm: LabSwarm, peer: str) -> int:
    """Bytes that all relays have forwarded for a peer, to it and from it."""
    meters = [swarm[host].network.routes.meter for host in BOOTSTRAP]
    return sum(meter.forwarded().get(peer, 0) for meter in meters)
