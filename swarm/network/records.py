"""Signed, leased records that peers keep in the DHT (pure: the clock is passed in).

    signed = sign_record(identity, record)                       # PeerRecord -> SignedRecord
    record = verify_record(signed, run_id=run_id, now_ms=now)    # or a SwarmError

A record lives from `issued_at_ms` for `lease_ttl_ms`. Both are under the signature, so nobody can
keep an old record alive. A peer that leaves replaces its record by one in state "LEFT".
"""

from __future__ import annotations

import hashlib
import struct
from datetime import timedelta
from typing import TypeVar

from google.protobuf.message import DecodeError

from swarm.errors import Code, SwarmError
from swarm.identity import Identity, verify
from swarm.wire.membership_pb2 import NamedValue, PeerRecord, SignedRecord

MAX_RECORD_BYTES = 16 * 1024
MAX_VALUE_BYTES = 1024 * 1024
MAX_LEASE = timedelta(hours=1)
CLOCK_SKEW = timedelta(seconds=60)
DEFAULT_LEASE = timedelta(seconds=60)
LEFT = "LEFT"
RELAY = "RELAY"  # helps peers to reach one another and is no member
MAX_GENUINE = 4096  # hashes of records whose signatures were checked
_genuine: set[bytes] = set()
Leased = TypeVar("Leased", PeerRecord, NamedValue)


def sign_record(identity: Identity, record: PeerRecord) -> SignedRecord:
    """Sign `record` as it is; `record.peer_id` must be the signer's."""
    return _sign(identity, record)


def verify_record(
    signed: SignedRecord, *, run_id: bytes, now_ms: int | None, peer_id: str | None = None
) -> PeerRecord:
    """The record inside, if it is signed by the peer it names, of this run, and not expired.

    `now_ms=None` leaves the lease unchecked. `peer_id`: whose record it must be.
    Raises `MESSAGE_OVERSIZED`, `MESSAGE_MALFORMED`, `SIGNATURE_INVALID`, `MESSAGE_WRONG_RUN` or
    `MESSAGE_EXPIRED`.
    """
    record = _open(signed, PeerRecord, MAX_RECORD_BYTES)
    _check(signed, record, run_id, now_ms, peer_id)
    return record


def sign_value(identity: Identity, value: NamedValue) -> SignedRecord:
    """Sign a named value; `value.peer_id` must be the signer's."""
    return _sign(identity, value)


def verify_value(
    signed: SignedRecord, *, run_id: bytes, now_ms: int | None, peer_id: str | None = None
) -> NamedValue:
    """The named value inside; checks and errors as of `verify_record`."""
    value = _open(signed, NamedValue, MAX_VALUE_BYTES)
    _check(signed, value, run_id, now_ms, peer_id)
    return value


def expires_at_ms(record: PeerRecord | NamedValue) -> int:
    """Unix time in milliseconds from which the record is void."""
    return record.issued_at_ms + record.lease_ttl_ms


def issue(record: Leased, now_ms: int, after_ms: int = 0) -> Leased:
    """Copy of `record` issued at `now_ms`, with a lease that ends later than `after_ms`.

    The DHT keeps the value that expires last, so a successor must outlive what it replaces
    (`after_ms` = `expires_at_ms` of the predecessor), a farewell included.
    """
    issued = type(record)()
    issued.CopyFrom(record)
    lease_ms = record.lease_ttl_ms or int(DEFAULT_LEASE.total_seconds() * 1000)
    issued.issued_at_ms = now_ms
    issued.lease_ttl_ms = max(lease_ms, after_ms + 1 - now_ms)
    return issued


def _sign(identity: Identity, record: PeerRecord | NamedValue) -> SignedRecord:
    assert record.peer_id == identity.peer_id
    payload = record.SerializeToString()
    return SignedRecord(payload=payload, signature=identity.sign(_signed_text(record, payload)))


def _signed_text(record: PeerRecord | NamedValue, payload: bytes) -> bytes:
    # The type is signed too: bytes of one message may parse as another.
    return f"expertswarm-{record.DESCRIPTOR.full_name}\0".encode() + payload


def _open(signed: SignedRecord, kind: type[Leased], limit: int) -> Leased:
    if len(signed.payload) > limit:
        raise SwarmError(
            Code.MESSAGE_OVERSIZED, f"record of {len(signed.payload)} bytes, limit {limit}"
        )
    try:
        return kind.FromString(signed.payload)
    except DecodeError as error:
        raise SwarmError(Code.MESSAGE_MALFORMED, f"not a {kind.DESCRIPTOR.full_name}") from error


def _check(
    signed: SignedRecord,
    record: PeerRecord | NamedValue,
    run_id: bytes,
    now_ms: int | None,
    peer_id: str | None,
) -> None:
    owner = record.peer_id[:80]
    if peer_id is not None and record.peer_id != peer_id:
        raise SwarmError(Code.MESSAGE_MALFORMED, f"record of {owner!r} under {peer_id!r}")
    if not _is_genuine(record.peer_id, _signed_text(record, signed.payload), signed.signature):
        raise SwarmError(Code.SIGNATURE_INVALID, f"record is not signed by {owner!r}")
    if record.run_id != run_id:
        raise SwarmError(
            Code.MESSAGE_WRONG_RUN,
            f"record of run {record.run_id[:32].hex()}, this is {run_id.hex()}",
        )
    max_lease_ms = MAX_LEASE.total_seconds() * 1000
    if record.issued_at_ms < 0 or not 0 < record.lease_ttl_ms <= max_lease_ms:
        raise SwarmError(Code.MESSAGE_MALFORMED, f"lease of {record.lease_ttl_ms} ms")
    if now_ms is None:
        return
    if now_ms >= expires_at_ms(record):
        raise SwarmError(Code.MESSAGE_EXPIRED, f"record of {owner!r} has expired")
    if record.issued_at_ms > now_ms + CLOCK_SKEW.total_seconds() * 1000:
        raise SwarmError(Code.MESSAGE_EXPIRED, f"record of {owner!r} is from the future")


def _is_genuine(peer_id: str, text: bytes, signature: bytes) -> bool:
    """As `verify`, which is not asked again for what it found genuine lately.

    A member's record is in every plan, and in every answer of the DHT.
    """
    owner = peer_id.encode()
    sizes = struct.pack(">QQ", len(owner), len(signature))
    name = hashlib.sha256(b"".join((sizes, owner, signature, text))).digest()
    if name in _genuine:
        return True
    if not verify(peer_id, text, signature):
        return False
    if len(_genuine) >= MAX_GENUINE:
        _genuine.clear()
    _genuine.add(name)
    return True
