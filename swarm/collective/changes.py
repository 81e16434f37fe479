"""Changes of a running run, signed with the run's key: what they may change, who checks what. Pure.

    signed = sign_change(manifest, run_key, RunChange(number=1, settings={...}))
    read_change(signed, manifest)                 # raises SIGNATURE_INVALID, ...
    changed_manifest(manifest, in_effect(record)) # what holds after a commit

A change travels in the Ready of whoever knows it to the leader of the round, who puts the newest
into the record; from the commit on it holds for everybody (docs/adr/0014-run-changes.md).
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterable

from google.protobuf.message import DecodeError

from swarm.config import RunManifest
from swarm.errors import Code, SwarmError
from swarm.identity import Identity, peer_id_of, verify
from swarm.wire import collective_pb2 as pb

CHANGE_DOMAIN = b"expertswarm-change\0"
MAX_CHANGE_BYTES = 16 * 1024
MAX_STEPS_FACTOR = 4  # beyond it peers take a round's tokens for impossible: `max_round_tokens`
ADJUSTABLE = {
    "training.learning_rate": float,
    "training.inner_steps": int,
    "sync.experts_per_peer": int,
    "sync.replication": int,
}
"""What may change while a run goes on: nothing that fixes a fragment's size, or how it is made."""


def run_key_of(manifest: RunManifest) -> str:
    """Peer id of the key that may change the run. Raises `CONFIG_INVALID` when it has none."""
    try:
        key = bytes.fromhex(manifest.run_public_key)
    except ValueError:
        key = b""
    if len(key) != 32:
        raise SwarmError(
            Code.CONFIG_INVALID,
            "run_public_key: must be 64 hexadecimal digits",
            "a run without a key can not be changed",
        )
    return peer_id_of(key)


def sign_change(manifest: RunManifest, run_key: Identity, change: pb.RunChange) -> pb.SignedChange:
    """The change as it travels.

    Raises `CONFIG_INVALID` when `run_key` is not the run's, or a setting can not have its value.
    """
    if run_key.peer_id != run_key_of(manifest):
        raise SwarmError(
            Code.CONFIG_INVALID,
            "the key is not that of the run",
            "changes are signed with the RUN.key that `node run init` wrote beside RUN.toml",
        )
    changed_manifest(manifest, change)
    whole = pb.RunChange()
    whole.CopyFrom(change)
    whole.run_id = manifest.run_id
    payload = whole.SerializeToString(deterministic=True)
    return pb.SignedChange(payload=payload, signature=run_key.sign(CHANGE_DOMAIN + payload))


def read_change(signed: pb.SignedChange, manifest: RunManifest) -> pb.RunChange:
    """A change from anywhere, checked.

    Raises `MESSAGE_OVERSIZED`, `SIGNATURE_INVALID`, `MESSAGE_MALFORMED`, `RUN_MISMATCH`, or
    `CONFIG_INVALID` for a setting that can not have its value.
    """
    if len(signed.payload) > MAX_CHANGE_BYTES:
        raise SwarmError(Code.MESSAGE_OVERSIZED, f"a change of {len(signed.payload)} bytes")
    if not verify(run_key_of(manifest), CHANGE_DOMAIN + signed.payload, signed.signature):
        raise SwarmError(Code.SIGNATURE_INVALID, "the change is not signed with the run's key")
    change = _parsed(signed.payload)
    if change.run_id != manifest.run_id:
        raise SwarmError(Code.RUN_MISMATCH, "the change is for another run")
    if change.number < 1:
        raise SwarmError(Code.MESSAGE_MALFORMED, "the change has no number")
    changed_manifest(manifest, change)
    return change


def in_effect(record: pb.RoundRecord | None) -> pb.RunChange:
    """The change that a commit put into effect; number 0 when there is none."""
    return _parsed(record.change.payload) if record is not None else pb.RunChange()


@functools.lru_cache(maxsize=64)
def _parsed(payload: bytes) -> pb.RunChange:
    try:
        return pb.RunChange.FromString(payload)
    except DecodeError as error:
        raise SwarmError(Code.MESSAGE_MALFORMED, f"not a change: {error}") from error


def changed_manifest(manifest: RunManifest, change: pb.RunChange) -> RunManifest:
    """The manifest with a change's settings; its run id means nothing. Raises `CONFIG_INVALID`."""
    parts: dict[str, dict[str, float]] = {}
    for name, value in change.settings.items():
        if name not in ADJUSTABLE:
            raise SwarmError(
                Code.CONFIG_INVALID,
                f"{name}: can not be changed while the run goes on",
                f"these can: {', '.join(ADJUSTABLE)}",
            )
        kind = ADJUSTABLE[name]
        if kind is int and not float(value).is_integer():
            raise SwarmError(Code.CONFIG_INVALID, f"{name}: must be a whole number, is {value:g}")
        section, _, field = name.partition(".")
        parts.setdefault(section, {})[field] = kind(value)
    steps = parts.get("training", {}).get("inner_steps", manifest.training.inner_steps)
    most = MAX_STEPS_FACTOR * manifest.training.inner_steps
    if steps > most:
        raise SwarmError(Code.CONFIG_INVALID, f"training.inner_steps: must be at most {most}")
    sections = {
        section: dataclasses.replace(getattr(manifest, section), **fields)
        for section, fields in parts.items()
    }
    return dataclasses.replace(manifest, **sections)  # type: ignore[arg-type]


def newest_change(
    previous: pb.RoundRecord | None, offered: Iterable[pb.SignedChange], manifest: RunManifest
) -> pb.SignedChange:
    """What a leader puts into the record: the valid change with the highest number.

    Of two with the same number, which only the run's key can make, the larger bytes; what is in
    effect stays until a higher number comes.
    """
    best = previous.change if previous is not None else pb.SignedChange()
    highest = (int(in_effect(previous).number), b"\xff" * MAX_CHANGE_BYTES)
    for signed in offered:
        if not signed.payload:
            continue
        try:
            number = int(read_change(signed, manifest).number)
        except SwarmError:  # of a member that lies; his Ready is good for the rest
            continue
        if (number, signed.payload) > highest:
            best, highest = signed, (number, signed.payload)
    return best


def check_change(
    record: pb.RoundRecord, previous: pb.RoundRecord | None, manifest: RunManifest
) -> None:
    """A record to vote for keeps the change in effect, or has a newer one that is signed.

    Raises as `read_change`, or `MESSAGE_MALFORMED`.
    """
    before = previous.change if previous is not None else pb.SignedChange()
    if record.change == before:
        return
    if read_change(record.change, manifest).number <= in_effect(previous).number:
        raise SwarmError(Code.MESSAGE_MALFORMED, "the record has an older change of the run")
