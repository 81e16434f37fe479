"""`node finish`: end the open round, hand in its update, then stop."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from node.control_client import ControlClient
from node.exit_codes import OK
from node.parser import Verbs, add_command
from node.paths import find_directory
from node.processes import is_alive
from node.units import parse_duration
from node.waiting import wait_for
from swarm.errors import Code, SwarmError

EXAMPLES = """\
  node finish                    return when the node has stopped
  node finish --timeout 10min    wait no longer for it; the node finishes all the same
  node finish --dir ~/nodes/law
`node stop` stops at once; what was trained in the open round is lost then."""


def register(verbs: Verbs) -> None:
    """Add `node finish`."""
    parser = add_command(
        verbs, "finish", "end the round, hand in what was trained, then stop", EXAMPLES, run
    )
    parser.add_argument("--dir", type=Path, metavar="DIR", help="directory of the node")
    parser.add_argument(
        "--timeout", type=parse_duration, default="1h", metavar="TIME",
        help="longest wait for its end (default: %(default)s)",
    )  # fmt: skip


def run(args: argparse.Namespace) -> int:
    """Ask the node to finish and wait for the end of its process."""
    with ControlClient(find_directory(args.dir)) as control:
        before = control.status()
        control.finish()
    late = SwarmError(
        Code.STAGE_TIMEOUT,
        f"the node (process {before.pid}) is still in its round",
        "it stops by itself after it; node stop ends it at once",
    )
    wait_for(lambda: not is_alive(before.pid), args.timeout, late)
    facts = {"finished": True, "pid": before.pid}
    print(json.dumps(facts) if args.json else f"finished (process {before.pid})")
    return OK
