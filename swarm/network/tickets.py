"""Tickets: all that somebody needs to join a run, in one line of text.

    text = make_ticket(manifest, run_key, peers, expires_at_ms=..., max_peers=1)
    ticket = read_ticket(text)              # raises TICKET_INVALID
    ticket.manifest, ticket.peers
    permission_for(ticket, my_id)           # what to show to the peers of a closed run

Keep a ticket secret until it is used: whoever has it may join with it.
"""

from __future__ import annotations

import base64
import binascii
import re
import secrets
import sys
import zlib
from collections.abc import Sequence
from dataclasses import dataclass

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from google.protobuf.message import DecodeError

from swarm.config import RunManifest
from swarm.errors import Code, SwarmError
from swarm.identity import Identity, public_key_of
from swarm.network.admission import grant_text, holder_text
from swarm.network.contacts import by_peer
from swarm.wire import membership_pb2 as pb

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

PREFIX = "swarm1-"
MAX_TEXT = 64 * 1024
MAX_MANIFEST_BYTES = 256 * 1024
SEED_BYTES = 32
DATA = re.compile(r"demo:[a-z]+")
COMMENT = re.compile(r"^#.*\n|^\n", re.MULTILINE)


@dataclass(frozen=True)
class Ticket:
    """A ticket that was read. `grant` and `seed` are empty in an open run.

    `data`: a built-in corpus ("demo:english") for who has no text of his own; may be empty.
    """

    manifest: RunManifest
    peers: tuple[str, ...]
    grant: pb.Permission
    seed: bytes
    data: str = ""


def make_ticket(
    manifest: RunManifest,
    run_key: Identity | None,
    peers: Sequence[str],
    *,
    expires_at_ms: int,
    max_peers: int = 1,
    only_peer: str = "",
    data: str = "",
) -> str:
    """A new ticket. In an open run `run_key` and the terms mean nothing.

    Raises `CONFIG_INVALID` when an address is none, or `run_key` is not the run's.
    """
    by_peer(peers)  # raises
    text = COMMENT.sub("", manifest.to_toml()).encode()
    ticket = pb.Ticket(manifest=zlib.compress(text, 9), peers=peers, data=data)
    if manifest.membership.admission != "open":
        if run_key is None or _public(run_key) != bytes.fromhex(manifest.run_public_key):
            raise SwarmError(
                Code.CONFIG_INVALID,
                "the key is not that of the run",
                "tickets are made with the RUN.key that `node run init` wrote beside RUN.toml",
            )
        ticket.seed = secrets.token_bytes(SEED_BYTES)
        grant = ticket.grant
        grant.run_id, grant.ticket_key = manifest.run_id, _public(_holder(ticket.seed))
        grant.expires_at_ms, grant.max_peers = expires_at_ms, max_peers
        grant.only_peer = only_peer
        grant.run_signature = run_key.sign(grant_text(grant))
    return PREFIX + base64.urlsafe_b64encode(ticket.SerializeToString()).decode().rstrip("=")


def read_ticket(text: str) -> Ticket:
    """Parse a ticket. Raises `TICKET_INVALID`, or what is wrong with the manifest in it."""
    text = "".join(text.split())  # mail programs break lines
    if not text.startswith(PREFIX) or len(text) > MAX_TEXT:
        raise _invalid(f"it does not begin with {PREFIX}")
    encoded = text[len(PREFIX) :]
    try:
        data = base64.b64decode(encoded + "=" * (-len(encoded) % 4), altchars=b"-_", validate=True)
        parsed = pb.Ticket.FromString(data)
        inflate = zlib.decompressobj()
        toml = inflate.decompress(parsed.manifest, MAX_MANIFEST_BYTES)
        table = tomllib.loads(toml.decode())
        if not inflate.eof:
            raise ValueError("the manifest in it is cut")
    except (binascii.Error, DecodeError, zlib.error, ValueError) as error:
        raise _invalid(f"it is damaged ({error})") from error
    manifest = RunManifest.from_dict(table)
    by_peer(parsed.peers)
    if manifest.membership.admission != "open":
        _check_grant(manifest, parsed)
    # Whoever made the ticket must not choose a file of this machine.
    suggested = parsed.data if DATA.fullmatch(parsed.data) else ""
    return Ticket(manifest, tuple(parsed.peers), parsed.grant, parsed.seed, suggested)


def _check_grant(manifest: RunManifest, ticket: pb.Ticket) -> None:
    if ticket.grant.run_id != manifest.run_id or len(ticket.seed) != SEED_BYTES:
        raise _invalid("its permission is not for the run in it")
    if _public(_holder(ticket.seed)) != ticket.grant.ticket_key:
        raise _invalid("its key is not the one that was signed")


def permission_for(ticket: Ticket, peer_id: str, now_ms: int) -> bytes:
    """What the peer shows to others; empty in an open run.

    Raises `TICKET_INVALID` when the ticket has expired or is for another peer.
    """
    if not ticket.seed:
        return b""
    if ticket.grant.expires_at_ms <= now_ms:
        raise _invalid("it has expired")
    if ticket.grant.only_peer not in ("", peer_id):
        raise _invalid(f"it is for peer {ticket.grant.only_peer}, this is {peer_id}")
    permission = pb.Permission()
    permission.CopyFrom(ticket.grant)
    permission.peer_id = peer_id
    permission.ticket_signature = _holder(ticket.seed).sign(
        holder_text(ticket.grant.run_id, peer_id)
    )
    return permission.SerializeToString()


def _holder(seed: bytes) -> Identity:
    return Identity(Ed25519PrivateKey.from_private_bytes(seed))


def _public(identity: Identity) -> bytes:
    return public_key_of(identity.peer_id).public_bytes_raw()


def _invalid(reason: str) -> SwarmError:
    return SwarmError(
        Code.TICKET_INVALID, f"the ticket can not be used: {reason}", "ask for a new one"
    )
