"""`node resume`: train again after a pause."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from node.control_client import ControlClient
from node.exit_codes import OK
from node.parser import Verbs, add_command
from node.paths import find_directory

EXAMPLES = """\
  node resume
  node resume --dir ~/nodes/law
Ends a pause. Limits hold all the same: node limits."""


def register(verbs: Verbs) -> None:
    """Add `node resume`."""
    parser = add_command(verbs, "resume", "train again after a pause", EXAMPLES, run)
    parser.add_argument("--dir", type=Path, metavar="DIR", help="directory of the node")


def run(args: argparse.Namespace) -> int:
    """End a pause and say whether the node may train."""
    with ControlClient(find_directory(args.dir)) as control:
        reply = control.resume()
    if args.json:
        print(json.dumps({"may_train": reply.may_train, "reason": reply.reason}))
    else:
        print("training goes on" if reply.may_train else f"still paused: {reply.reason}")
    return OK
