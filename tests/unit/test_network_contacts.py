from __future__ import annotations

import pytest

from swarm.errors import Code, SwarmError
from swarm.identity import Identity
from swarm.network.contacts import Contacts, path_of, peer_of

ME, ALICE, BOB = (Identity.generate().peer_id for _ in range(3))


def address(peer: str, port: int = 4700) -> str:
    return f"/ip4/127.0.0.1/tcp/{port}/p2p/{peer}"


def test_missing_contacts_are_due_and_known_ones_are_not():
    contacts = Contacts(ME)
    contacts.add(address(ALICE))
    contacts.learn(BOB, [address(BOB)])
    contacts.learn(ME, [address(ME)])
    assert set(contacts.due(set(), set(), 0.0)) == {ALICE, BOB}
    assert contacts.due({ALICE}, {ALICE}, 0.0) == [BOB]
    assert contacts.due({ALICE, BOB}, {ALICE}, 0.0) == []


def test_contact_of_the_user_that_lost_its_connection_is_due_at_once():
    contacts = Contacts(ME)
    contacts.add(address(ALICE))
    assert contacts.due({ALICE}, set(), 0.0) == [ALICE]


def test_large_swarm_is_not_made_a_full_mesh():
    contacts = Contacts(ME)
    contacts.add(address(ALICE))
    contacts.learn(BOB, [address(BOB)])
    others = {f"peer{n}" for n in range(16)}
    assert contacts.due(others, others, 0.0) == [ALICE]


def test_waits_between_tries_grow_and_start_anew_after_a_success():
    contacts = Contacts(ME)
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
    contacts.met(ALICE)
    contacts.failed(ALICE, now)
    assert ALICE in contacts.due(set(), set(), now + 1)


def test_learned_contact_is_given_up_after_ten_minutes_but_never_one_of_the_user():
    contacts = Contacts(ME)
    contacts.add(address(ALICE))
    contacts.learn(BOB, [address(BOB)])
    for now in (0.0, 300.0, 601.0):
        contacts.failed(ALICE, now)
        contacts.failed(BOB, now)
    assert contacts.due(set(), set(), 10_000.0) == [ALICE]


def test_peer_that_said_goodbye_is_forgotten_unless_the_user_named_it():
    contacts = Contacts(ME)
    contacts.add(address(ALICE))
    contacts.learn(BOB, [address(BOB)])
    contacts.forget(ALICE)
    contacts.forget(BOB)
    assert contacts.addresses(ALICE) and not contacts.addresses(BOB)


def test_announced_addresses_replace_old_ones_and_must_name_the_peer():
    contacts = Contacts(ME)
    contacts.learn(ALICE, [address(ALICE, 1)])
    contacts.learn(ALICE, [address(ALICE, 2), address(BOB, 3)])
    assert contacts.addresses(ALICE) == [address(ALICE, 2)]


def test_hostile_record_with_many_addresses_is_bounded():
    contacts = Contacts(ME)
    contacts.add(address(ALICE))
    for batch in range(10):
        contacts.learn(ALICE, [address(ALICE, 100 * batch + n) for n in range(50)])
    assert len(contacts.addresses(ALICE)) <= 32
    assert contacts.addresses(ALICE)[0] == address(ALICE)


def test_addresses_to_keep_over_a_restart_leave_oneself_out():
    contacts = Contacts(ME)
    contacts.learn(ME, [address(ME)])
    contacts.learn(BOB, [address(BOB)])
    assert contacts.all_addresses() == [address(BOB)]


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
