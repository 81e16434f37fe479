"""`node run ticket`: one line of text that somebody joins a run with."""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from datetime import timedelta
from pathlib import Path

from node.control_client import ControlClient
from node.exit_codes import OK
from node.joining import require_closed
from node.parser import Verbs, add_command, positive_int
from node.paths import PRIVATE_MASK, default_directory
from node.settings import BUILT_IN
from swarm.config import RunManifest
from swarm.errors import Code, SwarmError
from swarm.files import write_atomic

EXAMPLES = """\
  node run ticket RUN.toml --peer /ip4/11.7.0.11/tcp/4001/p2p/ID
  node run ticket RUN.toml --peer ADDRESS --peer ADDRESS --days 7 --out alice.ticket
  node run ticket RUN.toml --data demo:english      through the node of the run that runs here
In a closed run (`node run init --closed`) it needs RUN.key beside RUN.toml, and lets in one peer.
Whoever has the ticket may use it: send it as you would send a password."""


def register_ticket(actions: Verbs) -> None:
    """Add `node run ticket`."""
    parser = add_command(
        actions, "ticket", "make a ticket: the run, whom to join through, the permission to join",
        EXAMPLES, run,
    )  # fmt: skip
    parser.add_argument("manifest", type=Path, metavar="RUN.toml", help="manifest of the run")
    parser.add_argument(
        "--peer", action="append", default=[], metavar="ADDRESS", dest="peers",
        help="a peer or relay to join through, several are better "
        "(default: the node of this run that runs here)",
    )  # fmt: skip
    parser.add_argument("--dir", type=Path, metavar="DIR", help="directory of that node")
    parser.add_argument(
        "--data", type=_built_in, metavar="demo:NAME",
        help="built-in text for who has none of his own; then the ticket is all that is needed",
    )  # fmt: skip
    parser.add_argument(
        "--days", type=positive_int, default=90, metavar="N",
        help="the permission ends then, for who joined with it too (default: %(default)s)",
    )  # fmt: skip
    parser.add_argument(
        "--uses", type=positive_int, default=1, metavar="N",
        help="peers that may use it (default: %(default)s)",
    )  # fmt: skip
    parser.add_argument("--only", default="", metavar="PEER_ID", help="good for this peer alone")
    parser.add_argument("--out", type=Path, metavar="FILE", help="write it to a file instead")


def run(args: argparse.Namespace) -> int:
    """Make and show a ticket."""
    from swarm.identity import Identity
    from swarm.network.tickets import make_ticket

    manifest = RunManifest.load(args.manifest)
    if args.only:
        require_closed(manifest)
    key = None
    if manifest.membership.admission != "open":
        key_path = args.manifest.with_suffix(".key")
        if not key_path.exists():
            raise SwarmError(
                Code.CONFIG_INVALID,
                f"{key_path} is not there",
                "tickets of a closed run are made by whoever founded it",
            )
        key = Identity.load_or_create(key_path)
    expires_s = time.time() + timedelta(days=args.days).total_seconds()
    text = make_ticket(
        manifest,
        key,
        args.peers or _own_addresses(manifest, args.dir),
        expires_at_ms=round(1000 * expires_s),
        max_peers=args.uses,
        only_peer=args.only,
        data=args.data or "",
    )
    if args.out is not None:
        os.umask(PRIVATE_MASK)
        write_atomic(args.out, f"{text}\n".encode())
    if args.json:
        facts = {"ticket": text, "run_id": manifest.run_id.hex(), "expires": round(expires_s)}
        print(json.dumps(facts))
    else:
        print(text if args.out is None else f"wrote {args.out}")
    return OK


def _built_in(text: str) -> str:
    """Argument type: the name of a built-in corpus."""
    from swarm.data.domains import DEMO_DOMAINS

    name = text.removeprefix(BUILT_IN)
    if name == text or name not in DEMO_DOMAINS:
        known = ", ".join(BUILT_IN + known for known in DEMO_DOMAINS)
        raise argparse.ArgumentTypeError(f"{text!r} is not a built-in text: {known}")
    return text


def _own_addresses(manifest: RunManifest, directory: Path | None) -> list[str]:
    """Addresses of the node of this run on this machine; none where none runs, which is said.

    Raises `RUN_MISMATCH`.
    """
    try:
        with ControlClient(directory or default_directory(manifest.name)) as control:
            return list(control.status_in(manifest).addresses)
    except SwarmError as error:
        if error.code is not Code.NODE_NOT_RUNNING:
            raise
        print("note: no address is in it; who joins needs --peer, or is the first", file=sys.stderr)
        return []
