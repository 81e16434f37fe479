"""`node contributions`: what every peer has given to the run, by its newest commit."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from node.control_client import ControlClient
from node.exit_codes import OK
from node.parser import Verbs, add_command
from node.paths import find_directory

EXAMPLES = """\
  node contributions                       the run of the only node that runs here
  node contributions --dir ~/nodes/law --json
Only rounds count that were committed with an update of the peer in them. The sums are in every
commit, signed by a majority of the members; commit.bin in a node's directory is the newest."""


def register(verbs: Verbs) -> None:
    """Add `node contributions`."""
    parser = add_command(
        verbs, "contributions", "show what each peer has given to the run", EXAMPLES, run
    )
    parser.add_argument("--dir", type=Path, metavar="DIR", help="directory of the node")


def run(args: argparse.Namespace) -> int:
    """Print the sums of the newest commit."""
    from rich.console import Console

    from node.plain import to_plain
    from node.status_view import render_contributions

    with ControlClient(find_directory(args.dir)) as control:
        status = control.status()
    if args.json:
        facts = {"run_id": status.run_id, "round": status.round, "commit_id": status.commit_id}
        rows = [to_plain(row) for row in status.contributions]
        print(json.dumps({**facts, "contributions": rows}))
    else:
        Console(highlight=False).print(render_contributions(status))
    return OK
