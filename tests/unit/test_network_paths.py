"""Which addresses are tried, what a path is called, and when a better one is looked for."""

from __future__ import annotations

from swarm.network.addresses import data_addresses_to_try, own_addresses, to_dial
from swarm.network.paths import (
    RETRIES_S,
    Chance,
    Upgrades,
    chance_of,
    expected_path,
    path_of,
    punchable,
    relayed_parts,
)
from swarm.network.reachability import Nat, Reachability
from swarm.wire.membership_pb2 import PeerRecord

RELAYED = "/ip4/11.7.0.11/tcp/4700/p2p/R/p2p-circuit"
FAR = "/ip4/11.7.0.102/tcp/4700"
NEAR = "/ip4/192.168.1.9/tcp/4700"
HASH = b"h" * 16
LISTENING = ("/ip4/127.0.0.1/tcp/4700", "/ip4/192.168.1.5/tcp/4700")


def reach(nat: Nat, observers: int = 4) -> Reachability:
    return Reachability(nat.value, observers=observers)


def record(nat: Nat, observers: int = 4, *addresses: str, **fields) -> PeerRecord:
    return PeerRecord(
        peer_id="zz", nat=nat.value, observers=observers, p2p_addresses=addresses, **fields
    )


def test_the_best_connection_names_the_path() -> None:
    def name(*addresses: str, hidden: bool = True, peer_hidden: bool = True) -> str:
        return path_of(addresses, hidden=hidden, peer_hidden=peer_hidden)

    assert name() == "none"
    assert name(RELAYED) == "relay"
    assert name(RELAYED, FAR) == "punched"
    assert name(RELAYED, FAR, peer_hidden=False) == "direct"
    assert name(RELAYED, FAR, hidden=False) == "direct"
    assert name(FAR, NEAR, RELAYED) == "lan"


def test_two_records_tell_the_best_path_of_the_pair() -> None:
    home = record(Nat.ENDPOINT_INDEPENDENT, lan_addresses=[NEAR], network_hash=HASH)
    public, symmetric, unknown = record(Nat.PUBLIC), record(Nat.SYMMETRIC), record(Nat.UNKNOWN)
    assert expected_path(home, home) == "lan"
    assert expected_path(home, record(Nat.FIREWALLED)) == "punched"
    assert expected_path(home, symmetric) == expected_path(symmetric, home) == "relay"
    assert expected_path(symmetric, symmetric) == "relay"
    for other in (home, public, symmetric, unknown, PeerRecord()):
        assert expected_path(public, other) == expected_path(other, unknown) == "direct"

    swarm = {"p": public, "q": public, "s": symmetric, "t": symmetric, "h": home}
    assert relayed_parts(swarm) == {"p": 0, "q": 0, "s": 0.5, "t": 0.5, "h": 0.5}
    assert relayed_parts({"s": symmetric}) == {"s": 0}
    assert relayed_parts({}) == {}


def test_lan_addresses_are_tried_only_behind_the_same_public_address() -> None:
    theirs = record(Nat.SYMMETRIC, 4, RELAYED, lan_addresses=[NEAR], network_hash=HASH)
    assert to_dial(theirs, HASH) == [NEAR, RELAYED]
    assert to_dial(theirs, b"x" * 16) == [RELAYED]
    assert to_dial(theirs, b"") == [RELAYED]
    theirs.data_addresses[:] = ["192.168.1.9:5000", "11.7.0.102:5000"]
    assert data_addresses_to_try(theirs, HASH) == ["192.168.1.9:5000", "11.7.0.102:5000"]
    assert data_addresses_to_try(theirs, b"x" * 16) == ["11.7.0.102:5000"]


def test_a_peer_that_knows_no_public_address_announces_all_it_has() -> None:
    own = own_addresses(LISTENING, Reachability(), ())
    assert set(own.direct) == set(LISTENING)
    assert own.lan == ()


def test_a_hidden_peer_announces_its_lan_apart_and_nothing_that_strangers_can_not_reach() -> None:
    hidden = Reachability("symmetric", observed=("11.7.0.101:999",), behind_nat=True)
    own = own_addresses((*LISTENING, "/ip4/11.7.0.101/tcp/999"), hidden, ())
    assert own.direct == ()
    assert own.lan == ("/ip4/192.168.1.5/tcp/4700",)


def test_a_forwarded_port_and_what_the_user_announces_are_for_everybody() -> None:
    forwarded = Reachability(
        "port-forwarded",
        observed=("11.7.0.101:4700",),
        direct=(("11.7.0.101", 4700),),
        behind_nat=True,
    )
    assert own_addresses(LISTENING, forwarded, ()).direct == ("/ip4/11.7.0.101/tcp/4700",)
    named = own_addresses(LISTENING, forwarded, ("/dns4/me.example/tcp/1",))
    assert named.direct == ("/dns4/me.example/tcp/1",)


def test_holes_are_punched_between_routers_that_are_not_symmetric() -> None:
    alike = Nat.ENDPOINT_INDEPENDENT
    assert punchable(reach(alike), record(alike))
    assert punchable(reach(alike, 1), record(Nat.FIREWALLED, 1))
    for other in (Nat.SYMMETRIC, Nat.PUBLIC, Nat.UNKNOWN, Nat.LOCAL):
        assert not punchable(reach(alike), record(other))
        assert not punchable(reach(other), record(alike))


def chance(own: Nat, theirs: PeerRecord, path: str, network_hash: bytes = b"") -> Chance:
    return chance_of("aa", reach(own), network_hash, theirs, path, ())


def test_a_better_path_is_looked_for_where_there_may_be_one() -> None:
    alike = Nat.ENDPOINT_INDEPENDENT
    assert chance(alike, record(alike, 4, RELAYED), "relay").better
    assert not chance(alike, record(alike, 4, RELAYED), "punched").better
    assert not chance(alike, record(Nat.SYMMETRIC, 4, RELAYED), "relay").better
    assert chance(alike, record(alike, 4, RELAYED), "relay").punch
    assert not chance(alike, record(Nat.PUBLIC, 4, FAR), "relay").punch


def test_who_can_be_called_waits_and_who_can_call_does() -> None:
    hidden, public = record(Nat.FIREWALLED, 4, RELAYED), record(Nat.PUBLIC, 4, FAR)
    public.peer_id = "a"  # of the two that call each other, the one with the smaller id leads
    assert chance(Nat.FIREWALLED, public, "relay").lead
    assert not chance(Nat.PUBLIC, hidden, "relay").better


def test_neighbours_leave_the_relay_and_the_router() -> None:
    alike = Nat.ENDPOINT_INDEPENDENT
    neighbour = record(alike, 4, RELAYED, lan_addresses=[NEAR], network_hash=HASH)
    assert chance(Nat.SYMMETRIC, neighbour, "relay", HASH).better
    assert chance(Nat.SYMMETRIC, neighbour, "punched", HASH).better
    assert not chance(alike, neighbour, "relay", HASH).punch
    assert not chance(Nat.SYMMETRIC, neighbour, "lan", HASH).better


def test_a_pair_is_connected_anew_a_few_times_and_then_left_with_its_relay() -> None:
    upgrades = Upgrades()
    poor = {"zz": Chance("relay", better=True, lead=True, busy=False)}
    tries = [now_s for now_s in range(2000) if upgrades.due(poor, float(now_s))]
    assert tries == [1, 5, 12, 30, 120, 600]


def test_running_transfers_are_not_cut_for_a_better_path() -> None:
    upgrades = Upgrades()
    busy = {"zz": Chance("relay", better=True, lead=True, busy=True)}
    assert not any(upgrades.due(busy, float(now_s)) for now_s in range(100))
    at_rest = {"zz": Chance("relay", better=True, lead=True, busy=False)}
    assert upgrades.due(at_rest, 100.0) == ["zz"]


def test_one_side_of_a_pair_tries_and_a_pair_that_fell_back_starts_afresh() -> None:
    upgrades = Upgrades()
    theirs = {"zz": Chance("relay", better=True, lead=False, busy=False)}
    assert not any(upgrades.due(theirs, float(now_s)) for now_s in range(100))
    mine = {"zz": Chance("relay", better=True, lead=True, busy=False)}
    assert upgrades.due(mine, 100.0) == ["zz"]
    assert upgrades.due({"zz": Chance("punched", better=False, lead=True, busy=False)}, 101.0) == []
    assert upgrades.due(mine, 102.0) == []
    assert upgrades.due(mine, 102.0 + RETRIES_S[0]) == ["zz"]
