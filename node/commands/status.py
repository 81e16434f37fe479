"""`node status`: what the node does now, why, and since when."""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

from node.control_client import ControlClient
from node.exit_codes import OK
from node.parser import Verbs, add_command
from node.paths import find_directory

EXAMPLES = """\
  node status                          the only node that runs here
  node status --dir ~/nodes/law
  node status --json                   all fields of StatusReply in proto/swarm/v1/node.proto
  node status --rounds 5               the last five rounds too"""


def register(verbs: Verbs) -> None:
    """Add `node status`."""
    parser = add_command(
        verbs, "status", "show what a node does now, why, and since when", EXAMPLES, run
    )
    parser.add_argument("--dir", type=Path, metavar="DIR", help="directory of the node")
    parser.add_argument(
        "--rounds", type=int, default=0, metavar="N", help="show the last N rounds too"
    )


def run(args: argparse.Namespace) -> int:
    """Print the status of one node."""
    from rich.console import Console

    from node.plain import to_plain
    from node.status_view import render_rounds, render_status

    with ControlClient(find_directory(args.dir)) as control:
        status = control.status()
        rounds = control.history(max(0, status.round - args.rounds)) if args.rounds > 0 else []
    if args.json:
        history = {"rounds": [to_plain(summary) for summary in rounds]} if args.rounds else {}
        print(json.dumps({**to_plain(status), **history}))
        return OK
    console = Console(highlight=False)
    console.print(render_status(status, int(time.time() * 1000)))
    if rounds:
        console.print(render_rounds(rounds))
    return OK
