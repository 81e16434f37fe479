"""What a node is given to join a run with, on the command line and from its directory."""

from __future__ import annotations

import argparse
import os
import time
from dataclasses import dataclass
from pathlib import Path

from node.paths import PRIVATE_MASK, default_directory, make_directory, socket_path
from swarm.config import RunManifest
from swarm.errors import Code, SwarmError
from swarm.files import storage_error, write_atomic
from swarm.network.admission import Admission, not_admitted, rules_of
from swarm.network.tickets import PREFIX, permission_for, read_ticket

TICKET = "ticket.txt"
MANIFEST = "RUN.toml"


@dataclass(frozen=True)
class Joining:
    """Where a node lives, whom it joins, and the built-in text that its ticket suggests."""

    manifest: RunManifest
    manifest_path: Path
    directory: Path
    peers: tuple[str, ...]
    suggested_data: str = ""


def add_join_arguments(parser: argparse.ArgumentParser) -> None:
    """Add --run, --join, --peer and --dir."""
    group = parser.add_argument_group("the run, one of them")
    group.add_argument(
        "--run", dest="manifest", type=Path, metavar="RUN.toml", help="manifest of the run"
    )
    group.add_argument(
        "--join", metavar="TICKET",
        help="ticket of the run, or a file that holds one",
    )  # fmt: skip
    parser.add_argument(
        "--peer", action="append", default=[], metavar="ADDRESS", dest="peers",
        help="a peer to join through, several are better; none: be the first",
    )  # fmt: skip
    parser.add_argument(
        "--dir", type=Path, metavar="DIR",
        help="directory of this node (default: by the run's name)",
    )  # fmt: skip


def joining(args: argparse.Namespace, suffix: str = "") -> Joining:
    """Settle what the arguments leave open; a new ticket is kept in the node's directory.

    `suffix` is put behind the run's name for the default directory. Raises `USAGE`,
    `TICKET_INVALID`, `RUN_MISMATCH`, or as the manifest and the directory do.
    """
    ticket = read_ticket(_ticket_text(args.join)) if args.join else None
    if args.manifest is not None:
        manifest = RunManifest.load(args.manifest)
    elif ticket is not None:
        manifest = ticket.manifest
    elif args.dir is not None and (args.dir / MANIFEST).exists():
        manifest = RunManifest.load(args.dir / MANIFEST)
    else:
        raise SwarmError(Code.USAGE, "which run?", "give --run RUN.toml or --join TICKET")
    if ticket is not None and ticket.manifest.run_id != manifest.run_id:
        raise SwarmError(
            Code.RUN_MISMATCH,
            f"the ticket is for run {ticket.manifest.run_id.hex()[:16]}, "
            f"{args.manifest} is run {manifest.run_id.hex()[:16]}",
            "leave --run away: the manifest is in the ticket",
        )
    directory = args.dir or default_directory(manifest.name + suffix)
    socket_path(directory)
    manifest_path = args.manifest or directory / MANIFEST
    if ticket is not None:
        os.umask(PRIVATE_MASK)
        make_directory(directory)
        write_atomic(directory / TICKET, _ticket_text(args.join).encode())
        if args.manifest is None:
            write_atomic(manifest_path, manifest.to_toml().encode())
    peers = (*args.peers, *(ticket.peers if ticket is not None else ()))
    data = ticket.data if ticket is not None else ""
    return Joining(manifest, manifest_path, directory, tuple(dict.fromkeys(peers)), data)


def require_closed(manifest: RunManifest) -> None:
    """Raise `CONFIG_INVALID` when whoever has the manifest may take part."""
    if manifest.membership.admission == "open":
        raise SwarmError(
            Code.CONFIG_INVALID,
            "membership.admission: the run is open, so nobody can be kept out",
            "found the next one with: node run init --closed",
        )


def load_admission(directory: Path, manifest: RunManifest, peer_id: str) -> Admission:
    """The rules of the run, with this peer's own permission from the ticket in its directory.

    Raises `NOT_ADMITTED` when the run is closed and there is no ticket, or `TICKET_INVALID`.
    """
    admission = Admission(manifest.run_id, rules_of(manifest), time.time)
    if admission.admits(peer_id):
        return admission
    try:
        text = (directory / TICKET).read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        raise not_admitted(peer_id, "this run is closed, and the node has no ticket") from None
    except OSError as error:
        raise storage_error(directory / TICKET, error) from error
    ticket = read_ticket(text)
    admission.own = permission_for(ticket, peer_id, round(1000 * time.time()))
    admission.check(peer_id, admission.own)
    return admission


def _ticket_text(given: str) -> str:
    if given.strip().startswith(PREFIX):
        return given
    try:
        return Path(given).read_text(encoding="utf-8", errors="replace")
    except OSError as error:
        raise SwarmError(
            Code.TICKET_INVALID,
            f"--join: neither a ticket nor a file: {given[:80]} ({error.strerror})",
            f"a ticket begins with {PREFIX}",
        ) from error
