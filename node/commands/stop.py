"""`node stop`: end the daemon and wait until it is gone."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from node.control_client import ControlClient
from node.exit_codes import OK
from node.parser import Verbs, add_command, positive_int
from node.paths import find_directory
from node.processes import is_alive
from node.waiting import wait_for
from swarm.errors import Code, SwarmError

EXAMPLES = """\
  node stop                     the only node that runs here
  node stop --dir ~/nodes/law   the one in that directory"""


def register(verbs: Verbs) -> None:
    """Add `node stop`."""
    parser = add_command(verbs, "stop", "stop a node; its state is kept", EXAMPLES, run)
    parser.add_argument("--dir", type=Path, metavar="DIR", help="directory of the node")
    parser.add_argument(
        "--timeout", type=positive_int, default=60, metavar="SECONDS",
        help="longest wait for its end (default: %(default)s)",
    )  # fmt: skip


def run(args: argparse.Namespace) -> int:
    """Stop the node and wait for the end of its process."""
    directory = find_directory(args.dir)
    with ControlClient(directory) as control:
        pid = control.status().pid
        control.stop("node stop")
    late = SwarmError(
        Code.STAGE_TIMEOUT,
        f"the node (process {pid}) has not ended in {args.timeout} s",
        f"end it with: kill {pid}",
    )
    wait_for(lambda: not is_alive(pid), args.timeout, late)
    print(json.dumps({"stopped": True, "pid": pid}) if args.json else f"stopped (process {pid})")
    return OK
