"""Withdrawals: the owner takes an expert back, and may offer it again.

    notice = sign_notice(identity, expert_id, sequence=1, withdrawn=True, at_ms=now)
    notices = Notices()
    notices.accept(notice, owner=card.owner)   # raises NOTICE_STALE on a replay
    notices.require_offered(expert_id)         # raises EXPERT_WITHDRAWN

A notice is signed and names one version of one expert. The highest sequence number holds, so an
old notice that somebody plays back, in either direction, changes nothing.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from swarm.errors import Code, SwarmError
from swarm.experts.cards import MAX_TIME_MS
from swarm.experts.safe_files import parse_json
from swarm.identity import Identity, verify

FORMAT = 1
MAX_NOTICE_BYTES = 8 * 1024
MAX_REASON = 1000
_PREFIX = b"expertswarm withdrawal\n"


@dataclass(frozen=True, kw_only=True)
class Notice:
    """An owner's word on one version of an expert; `signature` covers everything else."""

    expert: str  # id of the card, hexadecimal
    owner: str
    sequence: int  # from 1; a later notice has a higher one
    withdrawn: bool
    at_ms: int  # Unix time, for people
    reason: str = ""
    signature: str = ""

    def signed_bytes(self) -> bytes:
        """What the signature covers."""
        content = dataclasses.asdict(self) | {"format": FORMAT}
        del content["signature"]
        return _PREFIX + json.dumps(content, sort_keys=True, separators=(",", ":")).encode()

    def to_json(self) -> bytes:
        """The notice as a file or a DHT value."""
        return json.dumps(dataclasses.asdict(self), sort_keys=True).encode()

    @classmethod
    def parse(cls, data: bytes, origin: str = "notice") -> Notice:
        """Read and check a notice. Raises `NOTICE_INVALID` or `SIGNATURE_INVALID`."""
        if len(data) > MAX_NOTICE_BYTES:
            raise _invalid(f"{origin} has {len(data)} bytes")
        content = parse_json(data, Code.NOTICE_INVALID, origin)
        kinds = {f.name: str(f.type) for f in dataclasses.fields(cls)}
        if content.keys() != kinds.keys():
            raise _invalid(f"{origin} has other fields than {', '.join(kinds)}")
        for name, value in content.items():
            if type(value).__name__ != kinds[name]:
                raise _invalid(f"{origin}: {name} is not of type {kinds[name]}")
        notice = cls(**content)
        in_range = notice.sequence >= 1 and 0 <= notice.at_ms < MAX_TIME_MS
        if not in_range or len(notice.reason) > MAX_REASON:
            raise _invalid(f"{origin}: a value is out of range")
        if not verify(notice.owner, notice.signed_bytes(), _from_hex(notice.signature)):
            raise SwarmError(
                Code.SIGNATURE_INVALID, f"{origin} is not signed by {notice.owner}", "ignore it"
            )
        return notice


def sign_notice(
    identity: Identity,
    expert: str,
    *,
    sequence: int,
    withdrawn: bool,
    at_ms: int,
    reason: str = "",
) -> Notice:
    """A signed notice of the owner `identity`."""
    notice = Notice(
        expert=expert,
        owner=identity.peer_id,
        sequence=sequence,
        withdrawn=withdrawn,
        at_ms=at_ms,
        reason=reason,
    )
    return dataclasses.replace(notice, signature=identity.sign(notice.signed_bytes()).hex())


class Notices:
    """The newest notice of each expert, whatever the order in which they come."""

    def __init__(self, notices: Iterable[Notice] = ()) -> None:
        self._newest: dict[str, Notice] = {}
        for notice in sorted(notices, key=lambda n: n.sequence):
            self._newest[notice.expert] = notice

    def accept(self, notice: Notice, owner: str) -> None:
        """Take a checked notice about an expert of `owner`.

        Raises `SIGNATURE_INVALID` when somebody else signed it, `NOTICE_STALE` when a later one
        is known. The same notice again is no error.
        """
        if notice.owner != owner:
            raise SwarmError(
                Code.SIGNATURE_INVALID,
                f"{notice.owner} can not speak for the expert {notice.expert[:16]} of {owner}",
                "ignore it",
            )
        known = self._newest.get(notice.expert)
        if known is not None and notice != known and notice.sequence <= known.sequence:
            raise SwarmError(
                Code.NOTICE_STALE,
                f"notice {notice.sequence} on expert {notice.expert[:16]} comes after "
                f"notice {known.sequence}",
                "somebody played an old one back; the later one holds",
            )
        self._newest[notice.expert] = notice

    def of(self, expert: str) -> Notice | None:
        """The newest notice on an expert."""
        return self._newest.get(expert)

    def require_offered(self, expert: str) -> None:
        """Raises `EXPERT_WITHDRAWN` when its owner took it back."""
        notice = self._newest.get(expert)
        if notice is not None and notice.withdrawn:
            because = f": {notice.reason}" if notice.reason else ""
            raise SwarmError(
                Code.EXPERT_WITHDRAWN,
                f"its owner withdrew the expert {expert[:16]}{because}",
                "leave it out; assemblies that have it should be made again without it",
            )

    def __iter__(self) -> Iterator[Notice]:
        return iter(self._newest.values())


def _from_hex(text: str) -> bytes:
    try:
        return bytes.fromhex(text)
    except ValueError:
        return b""


def _invalid(problem: str) -> SwarmError:
    return SwarmError(Code.NOTICE_INVALID, f"no usable notice: {problem}", "ignore it")
