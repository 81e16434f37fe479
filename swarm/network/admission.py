"""Who may take part in a closed run, checked before anything else that a peer says is answered.

    admission = Admission(run_id, rules_of(manifest), time.time)
    admission.own = permission_for(ticket, my_id)       # goes along with all that this peer signs
    admission.check(peer, shown)                        # raises NOT_ADMITTED
    admission.admits(peer)                              # has it shown a permission that holds?

A ticket is a key pair: the run's key signs its public half together with the terms, and whoever
has its private half signs his own peer id with it. What is shown to others (`Permission`) names
one peer and is of no use to anybody who sees it, unlike the ticket. Everybody checks it alone,
from the manifest; no list has to be kept or fetched.
"""

from __future__ import annotations

import hashlib
import struct
from collections import OrderedDict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TypeVar

from google.protobuf.message import DecodeError

from swarm.config import RunManifest
from swarm.errors import Code, SwarmError
from swarm.identity import peer_id_of, verify
from swarm.wire.membership_pb2 import Permission

GRANT_DOMAIN = b"expertswarm-grant\0"
HOLDER_DOMAIN = b"expertswarm-holder\0"
MAX_PERMISSION_BYTES = 1024
MAX_REMEMBERED = 4096
Key = TypeVar("Key", str, bytes)


@dataclass(frozen=True)
class Rules:
    """Of a closed run: the key that signs tickets (32 bytes), and who needs none."""

    run_public_key: bytes
    allow: frozenset[str] = frozenset()


def rules_of(manifest: RunManifest) -> Rules | None:
    """The manifest's rules; None for an open run. Raises `CONFIG_INVALID`."""
    if manifest.membership.admission == "open":
        return None
    try:
        key = bytes.fromhex(manifest.run_public_key)
    except ValueError:
        key = b""
    if len(key) != 32:
        raise SwarmError(Code.CONFIG_INVALID, "run_public_key: must be 64 hexadecimal digits")
    return Rules(key, frozenset(manifest.membership.allow))


class Admission:
    """See the module docstring. Without rules everybody is admitted.

    Attributes:
        own: what this peer shows to others; empty in an open run.
    """

    def __init__(self, run_id: bytes, rules: Rules | None, now: Callable[[], float]) -> None:
        self.own = b""
        self._run_id = run_id
        self._rules = rules
        self._now = now
        self._until_ms: OrderedDict[str, int] = OrderedDict()  # of peers that showed a permission
        self._good: OrderedDict[bytes, int] = OrderedDict()  # hash of what was checked -> expiry
        self._holders: dict[bytes, set[str]] = {}  # peers that used each ticket
        self._revoked: frozenset[str] = frozenset()

    @property
    def closed(self) -> bool:
        """Whether a permission is needed at all."""
        return self._rules is not None

    def revoke(self, names: Iterable[str]) -> None:
        """Let in no more: peers by id, and whoever shows a ticket, by its key in hex.

        It replaces what was revoked before. In an open run it means nothing.
        """
        self._revoked = frozenset(names)
        self._good.clear()
        for ticket, holders in self._holders.items():
            for peer in holders if ticket.hex() in self._revoked else ():
                self._until_ms.pop(peer, None)

    def check(self, peer: str, shown: bytes) -> None:
        """Raise `NOT_ADMITTED` unless `peer` may take part, by what it shows or by the list."""
        if self._rules is None:
            return
        if peer in self._revoked:
            raise not_admitted(peer, "the run's coordinator has revoked it")
        if peer in self._rules.allow:
            return
        until_ms = self._checked(self._rules, peer, shown)
        if until_ms <= self._now_ms():
            raise not_admitted(peer, "its ticket has expired")
        _remember(self._until_ms, peer, until_ms)

    def admits(self, peer: str) -> bool:
        """Whether `check` has let `peer` in, and its permission still holds."""
        if self._rules is None:
            return True
        if peer in self._revoked:
            return False
        if peer in self._rules.allow:
            return True
        return self._until_ms.get(peer, 0) > self._now_ms()

    def _checked(self, rules: Rules, peer: str, shown: bytes) -> int:
        """Expiry of a permission whose signatures hold; checked once."""
        name = hashlib.sha256(peer.encode() + b"\0" + shown).digest()
        if name in self._good:
            return self._good[name]
        if not shown:
            raise not_admitted(peer, "it shows no permission")
        if len(shown) > MAX_PERMISSION_BYTES:
            raise not_admitted(peer, f"a permission of {len(shown)} bytes")
        try:
            permission = Permission.FromString(shown)
        except DecodeError as error:
            raise not_admitted(peer, "not a permission") from error
        self._check_signatures(rules, peer, permission)
        if permission.ticket_key.hex() in self._revoked:
            raise not_admitted(peer, "the run's coordinator has revoked its ticket")
        holders = self._holders.setdefault(permission.ticket_key, set())
        if peer not in holders and len(holders) >= permission.max_peers:
            raise not_admitted(peer, f"its ticket is used by {len(holders)} peers already")
        holders.add(peer)
        _remember(self._good, name, permission.expires_at_ms)
        return permission.expires_at_ms

    def _check_signatures(self, rules: Rules, peer: str, permission: Permission) -> None:
        if permission.run_id != self._run_id:
            raise not_admitted(peer, "its permission is for another run")
        if permission.peer_id != peer or permission.only_peer not in ("", peer):
            raise not_admitted(peer, "its permission is for another peer")
        run_key = peer_id_of(rules.run_public_key)
        if not verify(run_key, grant_text(permission), permission.run_signature):
            raise not_admitted(peer, "its ticket is not signed by the run's key")
        if len(permission.ticket_key) != 32 or not verify(
            peer_id_of(permission.ticket_key),
            holder_text(permission.run_id, peer),
            permission.ticket_signature,
        ):
            raise not_admitted(peer, "its permission is not signed with its ticket")

    def _now_ms(self) -> int:
        return round(1000 * self._now())


def open_to_all(run_id: bytes) -> Admission:
    """The admission of an open run."""
    return Admission(run_id, None, lambda: 0.0)


def grant_text(permission: Permission) -> bytes:
    """What the run's key signs."""
    terms = struct.pack(">qI", permission.expires_at_ms, permission.max_peers)
    parts = (permission.run_id, permission.ticket_key, permission.only_peer.encode())
    return GRANT_DOMAIN + terms + b"".join(struct.pack(">I", len(p)) + p for p in parts)


def holder_text(run_id: bytes, peer: str) -> bytes:
    """What the ticket's key signs."""
    return HOLDER_DOMAIN + struct.pack(">I", len(run_id)) + run_id + peer.encode()


def not_admitted(peer: str, reason: str) -> SwarmError:
    """A `NOT_ADMITTED` error about `peer`."""
    return SwarmError(
        Code.NOT_ADMITTED, f"{peer[:80]}: {reason}", "join with a ticket: node start --join TICKET"
    )


def _remember(book: OrderedDict[Key, int], key: Key, until_ms: int) -> None:
    book[key] = until_ms
    book.move_to_end(key)
    if len(book) > MAX_REMEMBERED:
        book.popitem(last=False)
