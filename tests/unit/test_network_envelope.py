from __future__ import annotations

from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from swarm.config import PROTOCOL_VERSION
from swarm.errors import Code, SwarmError
from swarm.identity import Identity
from swarm.network.envelope import (
    MAX_ENVELOPE_BYTES,
    Opened,
    open_envelope,
    seal,
    signed_text,
    unpack,
)
from swarm.network.transport import Endpoint
from swarm.wire.control_pb2 import Envelope, Ping, Pong, Refusal

RUN = b"r" * 32
NOW_MS = 1_800_000_000_000
ALICE, BOB = Identity.generate(), Identity.generate()


def sealed(message=None, **changes) -> Envelope:
    """Envelope from Alice to Bob with some fields changed before it is signed."""
    data = seal(
        ALICE, message or Ping(sequence=7), run_id=RUN, recipient=BOB.peer_id, now_ms=NOW_MS
    )
    envelope = Envelope.FromString(data)
    for name, value in changes.items():
        setattr(envelope, name, value)
    envelope.signature = ALICE.sign(signed_text(envelope))
    return envelope


def open_for_bob(data: bytes, now_ms: int = NOW_MS) -> Opened:
    return open_envelope(data, run_id=RUN, recipient=BOB.peer_id, now_ms=now_ms)


def refusal_of(data: bytes, now_ms: int = NOW_MS) -> SwarmError:
    with pytest.raises(SwarmError) as caught:
        open_for_bob(data, now_ms)
    return caught.value


def test_what_is_sealed_opens_for_its_recipient():
    opened = open_for_bob(sealed().SerializeToString())
    assert opened.sender == ALICE.peer_id
    assert unpack(opened, {"swarm.v1.Ping": Ping}) == Ping(sequence=7)


def test_other_protocol_version_is_refused_with_both_versions():
    error = refusal_of(sealed(protocol=99).SerializeToString())
    assert error.code is Code.MESSAGE_VERSION
    assert "99" in error.message and str(PROTOCOL_VERSION) in error.message


def test_message_of_another_run_is_refused_with_both_run_ids():
    error = refusal_of(sealed(run_id=b"s" * 32).SerializeToString())
    assert error.code is Code.MESSAGE_WRONG_RUN
    assert (b"s" * 32).hex() in error.message and RUN.hex() in error.message


def test_message_for_somebody_else_is_refused():
    error = refusal_of(sealed(recipient=ALICE.peer_id).SerializeToString())
    assert error.code is Code.MESSAGE_MALFORMED


def test_message_without_signature_is_refused():
    envelope = sealed()
    envelope.signature = b""
    assert refusal_of(envelope.SerializeToString()).code is Code.MESSAGE_UNSIGNED


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("kind", "swarm.v1.Pong"),
        ("sender", BOB.peer_id),
        ("sent_at_ms", NOW_MS + 1),
        ("payload", b"\x08\x08"),
        ("signature", b"x" * 64),
        ("signature", b"x"),
        ("sender", "nobody"),
    ],
    ids=["kind", "other sender", "time", "payload", "signature", "short signature", "no sender"],
)
def test_any_change_after_signing_is_noticed(field, value):
    envelope = sealed()
    setattr(envelope, field, value)
    assert refusal_of(envelope.SerializeToString()).code is Code.SIGNATURE_INVALID


def test_bytes_can_not_move_from_one_signed_field_to_the_next():
    envelope = sealed()
    envelope.kind, envelope.sender = envelope.kind + envelope.sender[:1], envelope.sender[1:]
    assert refusal_of(envelope.SerializeToString()).code is Code.SIGNATURE_INVALID


@pytest.mark.parametrize("drift", [timedelta(seconds=61), timedelta(seconds=-61)])
def test_stale_message_and_one_from_the_future_are_refused(drift):
    now_ms = NOW_MS + int(drift.total_seconds() * 1000)
    assert refusal_of(sealed().SerializeToString(), now_ms).code is Code.MESSAGE_EXPIRED


def test_message_is_good_within_the_window_for_either_clock():
    for drift_ms in (-59_000, 59_000):
        open_for_bob(sealed().SerializeToString(), NOW_MS + drift_ms)


def test_oversized_message_is_neither_sent_nor_parsed():
    with pytest.raises(SwarmError) as caught:
        sealed(Refusal(message="x" * MAX_ENVELOPE_BYTES))
    assert caught.value.code is Code.MESSAGE_OVERSIZED
    assert refusal_of(b"\0" * (MAX_ENVELOPE_BYTES + 1)).code is Code.MESSAGE_OVERSIZED


def test_largest_message_passes():
    open_for_bob(sealed(Refusal(message="x" * (MAX_ENVELOPE_BYTES - 500))).SerializeToString())


def test_unknown_kind_and_broken_payload_are_told_apart():
    with pytest.raises(SwarmError) as caught:
        unpack(Opened(ALICE.peer_id, "swarm.v2.Ping", b""), {"swarm.v1.Ping": Ping})
    assert caught.value.code is Code.MESSAGE_UNKNOWN
    with pytest.raises(SwarmError) as caught:
        unpack(Opened(ALICE.peer_id, "swarm.v1.Ping", b"\xff"), {"swarm.v1.Ping": Ping})
    assert caught.value.code is Code.MESSAGE_MALFORMED


@given(st.binary(max_size=300))
def test_random_bytes_are_refused_and_nothing_else_happens(data):
    refusal_of(data)


@given(st.integers(min_value=0), st.binary(min_size=1, max_size=8))
def test_envelope_with_bytes_overwritten_is_refused_or_unchanged(position, noise):
    data = sealed().SerializeToString()
    position %= len(data)
    damaged = data[:position] + noise + data[position + len(noise) :]
    try:
        opened = open_for_bob(damaged)
    except SwarmError:
        return
    assert opened == open_for_bob(data)


@given(
    st.builds(
        Envelope,
        protocol=st.just(PROTOCOL_VERSION),
        run_id=st.just(RUN),
        kind=st.text(max_size=20),
        sender=st.one_of(st.text(max_size=60), st.just(ALICE.peer_id)),
        recipient=st.just(BOB.peer_id),
        sent_at_ms=st.integers(-(2**63), 2**63 - 1),
        payload=st.binary(max_size=40),
        signature=st.binary(max_size=70),
    )
)
def test_well_formed_forgeries_are_refused(envelope):
    assert refusal_of(envelope.SerializeToString()).code in (
        Code.MESSAGE_UNSIGNED,
        Code.SIGNATURE_INVALID,
    )


def test_a_refusal_that_can_not_be_read_is_malformed_and_no_crash():
    endpoint = Endpoint(BOB, RUN, lambda: NOW_MS / 1000)
    answer = sealed(Refusal(), payload=b"\xff").SerializeToString()
    with pytest.raises(SwarmError) as caught:
        endpoint.open_reply(ALICE.peer_id, answer, Pong)
    assert caught.value.code is Code.MESSAGE_MALFORMED


def test_reply_is_an_envelope_too():
    data = seal(BOB, Pong(sequence=7), run_id=RUN, recipient=ALICE.peer_id, now_ms=NOW_MS)
    opened = open_envelope(data, run_id=RUN, recipient=ALICE.peer_id, now_ms=NOW_MS)
    assert opened.kind == "swarm.v1.Pong"
