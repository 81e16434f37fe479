from __future__ import annotations

import random

import pytest

from swarm.errors import Code, SwarmError
from swarm.identity import Identity
from swarm.network.contacts import (
    KEPT_ADDRESSES,
    KEPT_PEERS,
    MAX_CONTACTS,
    Contacts,
    path_of,
    peer_of,
)

ME, ALICE, BOB = (Identity.generate().peer_id for _ in range(3))


class Steady(random.Random):
    """No jitter."""

    def uniform(self, a: float, b: float) -> float:
        return 0.0


STEADY = Steady()


def address(peer: str, port: int = 4700) -> str:
    return f"/ip4/127.0.0.1/tcp/{port}/p2p/{peer}"


def test_missing_contacts_are_due_and_known_ones_are_not():
    contacts = Contacts(ME, STEADY)
    contacts.add(address(ALICE))
    contacts.learn(BOB, [address(BOB)])
    contacts.learn(ME, [address(ME)])
    assert set(contacts.due(set(), set(), 0.0)) == {ALICE, BOB}
    assert contacts.due({ALICE}, {ALICE}, 0.0) == [BOB]
    assert contacts.due({ALICE, BOB}, {ALICE}, 0.0) == []


def test_contact_of_the_user_that_lost_its_connection_is_due_at_once():
    contacts = Contacts(ME, STEADY)
    contacts.add(address(ALICE))
    assert contacts.due({ALICE}, set(), 0.0) == [ALICE]


def test_large_swarm_is_not_made_a_full_mesh():
    contacts = Contacts(ME, STEADY)
    contacts.add(address(ALICE))
    contacts.learn(BOB, [address(BOB)])
    others = {f"peer{n}" for n in range(16)}
    assert contacts.due(others, others, 0.0) == [ALICE]


def test_waits_between_tries_grow_and_start_anew_after_a_success():
    contacts = Contacts(ME, STEADY)
    contacts.add(address(ALICE))
    contacts.learn(BOB, [address(BOB)])
    waits = {ALICE: [], BOB: []}
    for peer in waits:
        now = 0.0
        for _ in range(7):
            contacts.failed(peer, now)
            began = now
            while peer not in contacts.due(set(), set(), now):
                now += 0.5
            waits[peer].append(now - began)
    assert waits == {ALICE: [1, 2, 4, 5, 5, 5, 5], BOB: [1, 2, 4, 8, 16, 30, 30]}
    contacts.met(ALICE, now)
    contacts.failed(ALICE, now)
    assert ALICE in contacts.due(set(), set(), now + 1)


def test_learned_contact_is_given_up_after_ten_minutes_but_never_one_of_the_user():
    contacts = Contacts(ME, STEADY)
    contacts.add(address(ALICE))
    contacts.learn(BOB, [address(BOB)])
    for now in (0.0, 300.0, 601.0):
        contacts.failed(ALICE, now)
        contacts.failed(BOB, now)
    assert contacts.due(set(), set(), 10_000.0) == [ALICE]


def test_peer_that_said_goodbye_is_forgotten_unless_the_user_named_it():
    contacts = Contacts(ME, STEADY)
    contacts.add(address(ALICE))
    contacts.learn(BOB, [address(BOB)])
    contacts.forget(ALICE)
    contacts.forget(BOB)
    assert contacts.addresses(ALICE) and not contacts.addresses(BOB)


def test_announced_addresses_replace_old_ones_and_must_name_the_peer():
    contacts = Contacts(ME, STEADY)
    contacts.learn(ALICE, [address(ALICE, 1)])
    contacts.learn(ALICE, [address(ALICE, 2), address(BOB, 3)])
    assert contacts.addresses(ALICE) == [address(ALICE, 2)]


def test_hostile_record_with_many_addresses_is_bounded():
    contacts = Contacts(ME, STEADY)
    contacts.add(address(ALICE))
    for batch in range(10):
        contacts.learn(ALICE, [address(ALICE, 100 * batch + n) for n in range(50)])
    assert len(contacts.addresses(ALICE)) <= 32
    assert contacts.addresses(ALICE)[0] == address(ALICE)


def test_addresses_to_keep_over_a_restart_leave_oneself_out():
    contacts = Contacts(ME, STEADY)
    contacts.learn(ME, [address(ME)])
    contacts.learn(BOB, [address(BOB)])
    assert contacts.worth_keeping() == [address(BOB)]


def test_what_is_kept_over_a_restart_is_bounded_and_begins_with_who_answered_last():
    contacts = Contacts(ME, STEADY)
    for number in range(2 * KEPT_PEERS):
        peer = f"peer{number:03}"
        contacts.learn(peer, [address(peer, port) for port in range(2 * KEPT_ADDRESSES)])
    contacts.met("peer100", 5.0)
    contacts.met("peer017", 9.0)
    kept = contacts.worth_keeping()
    assert len(kept) == KEPT_PEERS * KEPT_ADDRESSES
    assert kept[0] == address("peer017", 0) and kept[KEPT_ADDRESSES] == address("peer100", 0)


def test_who_is_cut_off_forgets_nobody_and_dials_all_of_them_every_few_seconds():
    contacts = Contacts(ME, STEADY)
    contacts.learn(BOB, [address(BOB)])
    contacts.cut_off = True
    now = 0.0
    for _ in range(1000):
        contacts.failed(BOB, now)
        now += 5.0
        assert contacts.due(set(), set(), now) == [BOB]
    contacts.cut_off = False  # somebody else answers again: ten minutes run from here
    contacts.failed(BOB, now)
    assert contacts.addresses(BOB)


def test_who_finds_itself_cut_off_waits_for_nothing_before_it_dials():
    contacts = Contacts(ME, STEADY)
    contacts.learn(BOB, [address(BOB)])
    for now in (0.0, 10.0, 20.0, 40.0):
        contacts.failed(BOB, now)
    assert contacts.due(set(), set(), 41.0) == []
    contacts.dial_all()
    assert contacts.due(set(), set(), 41.0) == [BOB]


def test_peers_that_answered_lately_do_not_wait_for_those_long_dead():
    contacts = Contacts(ME, STEADY)
    for number in range(100):
        contacts.learn(f"dead{number}", [address(f"dead{number}")])
    contacts.learn(BOB, [address(BOB)])
    contacts.met(BOB, 1.0)
    contacts.cut_off = True
    assert BOB in contacts.due(set(), set(), 2.0)


def test_delays_differ_between_peers_that_lost_one_another_together():
    waits = set()
    for seed in range(5):
        contacts = Contacts(ME, random.Random(seed))
        contacts.learn(BOB, [address(BOB)])
        contacts.failed(BOB, 0.0)
        waits.add(next(t for t in range(740, 1001) if contacts.due(set(), set(), t / 1000)))
    assert len(waits) > 1


def test_the_book_is_bounded_and_a_flood_does_not_push_out_who_answers():
    contacts = Contacts(ME, STEADY)
    contacts.learn(BOB, [address(BOB)])
    for number in range(2 * MAX_CONTACTS):
        contacts.learn(f"peer{number}", [address(f"peer{number}")])
    assert len(contacts.peers()) == MAX_CONTACTS and contacts.addresses(BOB)
    contacts.failed("peer3", 1.0)
    contacts.learn(ALICE, [address(ALICE)])
    assert contacts.addresses(ALICE) and not contacts.addresses("peer3")
    assert len(contacts.peers()) == MAX_CONTACTS


@pytest.mark.parametrize(
    "text",
    ["", "127.0.0.1:4700", "/ip4/127.0.0.1/tcp/4700", "/ip4/1.2.3.4/tcp/1/p2p/Qm", ALICE],
    ids=["empty", "host and port", "no peer", "cut peer", "peer alone"],
)
def test_address_without_a_peer_id_is_refused_with_an_example(text):
    with pytest.raises(SwarmError) as caught:
        peer_of(text)
    assert caught.value.code is Code.CONFIG_INVALID
    assert "/p2p/12D3Koo" in caught.value.hint


@pytest.mark.parametrize(
    ("connections", "path"),
    [
        ([], "none"),
        (["/ip4/127.0.0.1/tcp/1"], "lan"),
        (["/ip4/192.168.1.5/tcp/1"], "lan"),
        (["/ip4/9.9.9.9/tcp/1"], "direct"),
        (["/dns4/example.org/tcp/1"], "direct"),
        ([f"/ip4/9.9.9.9/tcp/1/p2p/{ALICE}/p2p-circuit"], "relay"),
        ([f"/ip4/9.9.9.9/tcp/1/p2p/{ALICE}/p2p-circuit", "/ip4/9.9.9.8/tcp/1"], "direct"),
    ],
)
def test_path_is_read_off_the_best_connection(connections, path):
    assert path_of(connections) == path
