"""Tickets of a closed run: what lets a peer in, and all that does not."""

from __future__ import annotations

import dataclasses

import pytest

from swarm.config import MembershipConfig, RunManifest
from swarm.errors import Code, SwarmError
from swarm.identity import Identity, public_key_of
from swarm.network.admission import Admission, open_to_all, rules_of
from swarm.network.tickets import Ticket, make_ticket, permission_for, read_ticket
from swarm.wire.membership_pb2 import Permission

NOW_MS = 1_800_000_000_000
DAY_MS = 86_400_000
RUN_KEY, ALICE, BOB, MALLORY = (Identity.generate() for _ in range(4))
ADDRESS = f"/ip4/11.7.0.11/tcp/4001/p2p/{BOB.peer_id}"


def closed(key: Identity = RUN_KEY, **membership) -> RunManifest:
    return RunManifest(
        run_public_key=public_key_of(key.peer_id).public_bytes_raw().hex(),
        membership=MembershipConfig(admission="ticket", **membership),
    )


RUN = closed()


def ticket_for(manifest: RunManifest = RUN, key: Identity = RUN_KEY, **terms) -> Ticket:
    terms = {"expires_at_ms": NOW_MS + DAY_MS, **terms}
    return read_ticket(make_ticket(manifest, key, [ADDRESS], **terms))


class Door:
    """A member's admission, whose clock can be set."""

    def __init__(self, manifest: RunManifest = RUN) -> None:
        self.now_ms = NOW_MS
        self.admission = Admission(manifest.run_id, rules_of(manifest), lambda: self.now_ms / 1000)

    def lets_in(self, peer: Identity, shown: bytes) -> bool:
        try:
            self.admission.check(peer.peer_id, shown)
        except SwarmError as error:
            assert error.code is Code.NOT_ADMITTED
            return False
        return True


def shown_by(peer: Identity, ticket: Ticket) -> bytes:
    return permission_for(ticket, peer.peer_id, NOW_MS)


def test_a_ticket_is_one_line_with_the_run_and_whom_to_join_through() -> None:
    manifest = dataclasses.replace(RUN, name="law")
    text = make_ticket(manifest, RUN_KEY, [ADDRESS], expires_at_ms=NOW_MS + DAY_MS)
    assert text.isprintable() and " " not in text and len(text) < 2000
    broken = "\n> ".join([text[:50], text[50:]]).replace("> ", "")  # as mail programs do
    ticket = read_ticket(broken)
    assert ticket.manifest == manifest and ticket.manifest.run_id == manifest.run_id
    assert ticket.peers == (ADDRESS,)


def test_who_has_a_ticket_is_let_in_and_a_stranger_is_not() -> None:
    door, ticket = Door(), ticket_for()
    assert not door.lets_in(ALICE, b"")
    assert not door.admission.admits(ALICE.peer_id)
    assert door.lets_in(ALICE, shown_by(ALICE, ticket))
    assert door.admission.admits(ALICE.peer_id)
    assert not door.admission.admits(MALLORY.peer_id)


def test_what_a_peer_shows_is_of_no_use_to_those_who_see_it() -> None:
    door, ticket = Door(), ticket_for(max_peers=9)
    seen = shown_by(ALICE, ticket)
    assert not door.lets_in(MALLORY, seen)
    forged = Permission.FromString(seen)
    forged.peer_id = MALLORY.peer_id
    assert not door.lets_in(MALLORY, forged.SerializeToString())


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("run_id", b"r" * 32),
        ("expires_at_ms", NOW_MS + 1000 * DAY_MS),
        ("max_peers", 1000),
        ("only_peer", ALICE.peer_id),
        ("ticket_key", b"k" * 32),
        ("ticket_key", b""),
        ("run_signature", b""),
        ("ticket_signature", b"s" * 64),
    ],
    ids=range(8),  # keys are new in each process
)
def test_no_field_of_a_permission_can_be_changed(field: str, value: object) -> None:
    changed = Permission.FromString(shown_by(ALICE, ticket_for()))
    setattr(changed, field, value)
    assert not Door().lets_in(ALICE, changed.SerializeToString())


def test_a_ticket_signed_by_another_key_or_of_another_run_lets_nobody_in() -> None:
    theirs = ticket_for(closed(MALLORY), MALLORY)
    assert not Door().lets_in(MALLORY, shown_by(MALLORY, theirs))
    with pytest.raises(SwarmError) as caught:
        ticket_for(RUN, MALLORY)
    assert caught.value.code is Code.CONFIG_INVALID


@pytest.mark.parametrize("shown", [b"\xff", b"x" * 5000, b"\x0a\x02ab"])
def test_garbage_is_no_permission(shown: bytes) -> None:
    assert not Door().lets_in(ALICE, shown)


def test_a_ticket_is_good_for_as_many_peers_as_it_says() -> None:
    door, ticket = Door(), ticket_for(max_peers=2)
    assert door.lets_in(ALICE, shown_by(ALICE, ticket))
    assert door.lets_in(BOB, shown_by(BOB, ticket))
    assert not door.lets_in(MALLORY, shown_by(MALLORY, ticket))
    assert door.lets_in(ALICE, shown_by(ALICE, ticket))


def test_a_ticket_for_one_peer_is_of_no_use_to_another() -> None:
    ticket = ticket_for(only_peer=ALICE.peer_id)
    assert Door().lets_in(ALICE, shown_by(ALICE, ticket))
    with pytest.raises(SwarmError) as caught:
        shown_by(MALLORY, ticket)
    assert caught.value.code is Code.TICKET_INVALID


def test_a_permission_ends_with_its_ticket() -> None:
    door, ticket = Door(), ticket_for()
    shown = shown_by(ALICE, ticket)
    assert door.lets_in(ALICE, shown)
    door.now_ms += 2 * DAY_MS
    assert not door.lets_in(ALICE, shown) and not door.admission.admits(ALICE.peer_id)
    with pytest.raises(SwarmError) as caught:
        permission_for(ticket, ALICE.peer_id, door.now_ms)
    assert caught.value.code is Code.TICKET_INVALID


def test_peers_on_the_list_of_the_manifest_need_no_ticket() -> None:
    door = Door(closed(allow=(ALICE.peer_id,)))
    assert door.lets_in(ALICE, b"") and door.admission.admits(ALICE.peer_id)
    assert not door.lets_in(MALLORY, b"")


def test_an_open_run_admits_everybody_and_its_tickets_need_no_key() -> None:
    manifest = RunManifest()
    text = make_ticket(manifest, None, [ADDRESS], expires_at_ms=0)
    ticket = read_ticket(text)
    assert permission_for(ticket, ALICE.peer_id, NOW_MS) == b""
    open_to_all(manifest.run_id).check(MALLORY.peer_id, b"")
    assert rules_of(manifest) is None


DAMAGES = [lambda text: text[:-9], lambda text: text[9:], lambda text: text + "!", str.upper]


@pytest.mark.parametrize("damage", DAMAGES, ids=["end cut", "begin cut", "sign added", "upper"])
def test_a_damaged_ticket_says_so(damage) -> None:
    text = make_ticket(RUN, RUN_KEY, [ADDRESS], expires_at_ms=NOW_MS)
    with pytest.raises(SwarmError) as caught:
        read_ticket(damage(text))
    assert caught.value.code is Code.TICKET_INVALID


def test_a_closed_run_without_a_key_is_no_run() -> None:
    with pytest.raises(SwarmError) as caught:
        RunManifest(membership=MembershipConfig(admission="ticket"))
    assert caught.value.code is Code.CONFIG_INVALID


def test_a_list_of_peers_survives_the_manifest_file(tmp_path) -> None:
    manifest = closed(allow=(ALICE.peer_id, BOB.peer_id))
    (tmp_path / "RUN.toml").write_text(manifest.to_toml(), encoding="utf-8")
    assert RunManifest.load(tmp_path / "RUN.toml") == manifest
