from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from swarm.errors import Code, SwarmError
from swarm.identity import Identity
from swarm.network.records import (
    MAX_LEASE,
    MAX_RECORD_BYTES,
    expires_at_ms,
    issue,
    sign_record,
    sign_value,
    verify_record,
    verify_value,
)
from swarm.wire.membership_pb2 import NamedValue, PeerRecord, SignedRecord

RUN = b"r" * 32
NOW_MS = 1_800_000_000_000
ALICE, BOB = Identity.generate(), Identity.generate()


def record(**changes) -> PeerRecord:
    fields = {
        "peer_id": ALICE.peer_id,
        "run_id": RUN,
        "display_name": "alice",
        "issued_at_ms": NOW_MS,
        "lease_ttl_ms": 30_000,
    }
    return PeerRecord(**{**fields, **changes})


def code_of(signed: SignedRecord, now_ms: int | None = NOW_MS, peer_id: str | None = None) -> Code:
    with pytest.raises(SwarmError) as caught:
        verify_record(signed, run_id=RUN, now_ms=now_ms, peer_id=peer_id)
    return caught.value.code


def test_signed_record_is_read_back():
    signed = sign_record(ALICE, record())
    assert verify_record(signed, run_id=RUN, now_ms=NOW_MS, peer_id=ALICE.peer_id) == record()


def test_record_lives_exactly_as_long_as_its_lease():
    signed = sign_record(ALICE, record())
    verify_record(signed, run_id=RUN, now_ms=NOW_MS + 29_999)
    assert code_of(signed, NOW_MS + 30_000) is Code.MESSAGE_EXPIRED
    verify_record(signed, run_id=RUN, now_ms=None)


def test_a_record_that_was_genuine_once_vouches_for_no_other_and_still_expires():
    """Signatures that were found genuine are remembered; nothing else is."""
    signed = sign_record(ALICE, record())
    verify_record(signed, run_id=RUN, now_ms=NOW_MS)
    assert code_of(signed, NOW_MS + 30_000) is Code.MESSAGE_EXPIRED
    other = SignedRecord(payload=signed.payload, signature=bytes(64))
    assert code_of(other) is Code.SIGNATURE_INVALID
    other = SignedRecord(
        payload=record(display_name="mallory").SerializeToString(), signature=signed.signature
    )
    assert code_of(other) is Code.SIGNATURE_INVALID


def test_changed_or_forged_record_is_refused():
    signed = sign_record(ALICE, record())
    signed.payload = record(display_name="mallory").SerializeToString()
    assert code_of(signed) is Code.SIGNATURE_INVALID
    signed = sign_record(BOB, record(peer_id=BOB.peer_id))
    signed.payload = record().SerializeToString()
    assert code_of(signed) is Code.SIGNATURE_INVALID


def test_record_under_another_name_or_run_is_refused():
    signed = sign_record(ALICE, record())
    assert code_of(signed, peer_id=BOB.peer_id) is Code.MESSAGE_MALFORMED
    other = sign_record(ALICE, record(run_id=b"s" * 32))
    assert code_of(other) is Code.MESSAGE_WRONG_RUN


@pytest.mark.parametrize("lease_ms", [0, -1, int(MAX_LEASE.total_seconds() * 1000) + 1])
def test_lease_must_be_positive_and_short(lease_ms):
    assert code_of(sign_record(ALICE, record(lease_ttl_ms=lease_ms))) is Code.MESSAGE_MALFORMED


def test_record_from_the_future_is_refused():
    signed = sign_record(ALICE, record(issued_at_ms=NOW_MS + 61_000))
    assert code_of(signed) is Code.MESSAGE_EXPIRED


def test_oversized_record_is_refused():
    signed = sign_record(ALICE, record(display_name="x" * MAX_RECORD_BYTES))
    assert code_of(signed) is Code.MESSAGE_OVERSIZED


def test_named_value_can_not_pass_as_a_record():
    value = NamedValue(
        peer_id=ALICE.peer_id,
        run_id=RUN,
        name="commit",
        value=b"x",
        issued_at_ms=NOW_MS,
        lease_ttl_ms=1000,
    )
    signed = sign_value(ALICE, value)
    assert verify_value(signed, run_id=RUN, now_ms=NOW_MS) == value
    with pytest.raises(SwarmError):
        verify_record(signed, run_id=RUN, now_ms=NOW_MS)


def test_successor_outlives_what_it_replaces_even_with_a_shorter_lease():
    long = issue(record(lease_ttl_ms=60_000), NOW_MS)
    short = issue(record(lease_ttl_ms=5_000), NOW_MS + 10, expires_at_ms(long))
    assert expires_at_ms(short) > expires_at_ms(long)
    later = issue(record(lease_ttl_ms=5_000), NOW_MS + 100_000, expires_at_ms(short))
    assert later.lease_ttl_ms == 5_000


@given(st.binary(max_size=200), st.binary(max_size=70))
def test_random_records_are_refused_and_nothing_else_happens(payload, signature):
    code_of(SignedRecord(payload=payload, signature=signature))
