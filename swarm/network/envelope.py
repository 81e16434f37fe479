"""Sealing and opening of the one message that crosses the control channel (pure, no clock, no I/O).

    data = seal(identity, ping, run_id=run_id, recipient=peer_id, now_ms=now)
    opened = open_envelope(data, run_id=run_id, recipient=my_id, now_ms=now)
    ping = unpack(opened, {"swarm.v1.Ping": Ping})

Every envelope is signed by its sender over all of its fields, and is valid for one run, one
recipient, one protocol version and a short time. Whatever is wrong with it has its own error code.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta

from google.protobuf.message import DecodeError, Message

from swarm.config import PROTOCOL_VERSION
from swarm.errors import Code, SwarmError
from swarm.identity import Identity, verify
from swarm.wire.control_pb2 import Envelope

MAX_ENVELOPE_BYTES = 4 * 2**20
FRESHNESS = timedelta(seconds=60)
SIGNATURE_DOMAIN = b"expertswarm-envelope\0"


@dataclass(frozen=True)
class Opened:
    """An envelope that passed every check; `payload` is not parsed yet."""

    sender: str
    kind: str
    payload: bytes
    permission: bytes = b""


def seal(
    identity: Identity,
    message: Message,
    *,
    run_id: bytes,
    recipient: str,
    now_ms: int,
    permission: bytes = b"",
) -> bytes:
    """Serialized, signed envelope around `message`, with the sender's permission in a closed run.

    Raises `MESSAGE_OVERSIZED` if it is larger than `MAX_ENVELOPE_BYTES`.
    """
    envelope = Envelope(
        protocol=PROTOCOL_VERSION,
        run_id=run_id,
        kind=message.DESCRIPTOR.full_name,
        sender=identity.peer_id,
        recipient=recipient,
        sent_at_ms=now_ms,
        payload=message.SerializeToString(),
        permission=permission,
    )
    envelope.signature = identity.sign(signed_text(envelope))
    data = envelope.SerializeToString()
    _check_size(len(data))
    return data


def open_envelope(
    data: bytes,
    *,
    run_id: bytes,
    recipient: str,
    now_ms: int,
    freshness: timedelta = FRESHNESS,
) -> Opened:
    """Check everything about a received envelope but its kind and its permission.

    Raises `MESSAGE_OVERSIZED`, `MESSAGE_MALFORMED` (not an envelope, or for another recipient),
    `MESSAGE_VERSION`, `MESSAGE_WRONG_RUN`, `MESSAGE_UNSIGNED` (no signature),
    `SIGNATURE_INVALID` or `MESSAGE_EXPIRED`.
    """
    _check_size(len(data))
    try:
        envelope = Envelope.FromString(data)
    except DecodeError as error:
        raise SwarmError(Code.MESSAGE_MALFORMED, "not an envelope") from error
    if envelope.protocol != PROTOCOL_VERSION:
        raise SwarmError(
            Code.MESSAGE_VERSION,
            f"protocol version {envelope.protocol}, this node speaks {PROTOCOL_VERSION}",
            "update the older of the two nodes",
        )
    if envelope.run_id != run_id:
        raise SwarmError(
            Code.MESSAGE_WRONG_RUN,
            f"message of run {envelope.run_id[:32].hex() or 'none'}, this is {run_id.hex()}",
            "both nodes must have the same run manifest",
        )
    if envelope.recipient != recipient:
        raise SwarmError(Code.MESSAGE_MALFORMED, f"addressed to {envelope.recipient[:80]!r}")
    if not envelope.signature:
        raise SwarmError(Code.MESSAGE_UNSIGNED, f"no signature by {envelope.sender[:80]!r}")
    if not verify(envelope.sender, signed_text(envelope), envelope.signature):
        raise SwarmError(Code.SIGNATURE_INVALID, f"not signed by {envelope.sender[:80]!r}")
    age_ms = now_ms - envelope.sent_at_ms
    if abs(age_ms) > freshness.total_seconds() * 1000:
        raise SwarmError(
            Code.MESSAGE_EXPIRED,
            f"sent {age_ms / 1000:.0f} s ago by its sender's clock",
            "set both clocks by NTP",
        )
    return Opened(envelope.sender, envelope.kind, envelope.payload, envelope.permission)


def unpack(opened: Opened, kinds: Mapping[str, type[Message]]) -> Message:
    """Parse the payload. Raises `MESSAGE_UNKNOWN` or `MESSAGE_MALFORMED`."""
    kind = kinds.get(opened.kind)
    if kind is None:
        raise SwarmError(Code.MESSAGE_UNKNOWN, f"message kind {opened.kind[:80]!r}")
    try:
        return kind.FromString(opened.payload)
    except DecodeError as error:
        raise SwarmError(Code.MESSAGE_MALFORMED, f"not a {opened.kind}") from error


def signed_text(envelope: Envelope) -> bytes:
    """What the sender signs: SHA-256 (32 bytes) over length-prefixed fields 1 to 7."""
    digest = hashlib.sha256(SIGNATURE_DOMAIN)
    digest.update(struct.pack(">Iq", envelope.protocol, envelope.sent_at_ms))
    for part in (
        envelope.run_id,
        envelope.kind.encode(),
        envelope.sender.encode(),
        envelope.recipient.encode(),
        envelope.payload,
    ):
        digest.update(struct.pack(">Q", len(part)))
        digest.update(part)
    return digest.digest()


def _check_size(size: int) -> None:
    if size > MAX_ENVELOPE_BYTES:
        raise SwarmError(
            Code.MESSAGE_OVERSIZED, f"{size} bytes, the limit is {MAX_ENVELOPE_BYTES} bytes"
        )
