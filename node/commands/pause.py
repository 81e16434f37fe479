"""`node pause`: stop training for some time; `node resume` ends it."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from node.control_client import ControlClient
from node.exit_codes import OK
from node.parser import Verbs, add_command
from node.paths import find_directory
from node.units import parse_duration
from node.waiting import wait_for
from swarm.errors import Code, SwarmError
from swarm.wire.node_pb2 import StatusReply

EXAMPLES = """\
  node pause                    until node resume
  node pause 2h                 for two hours: 90s, 30min, 2h, 1d
  node pause --dir ~/nodes/law
The training process ends, so its memory is free. The node stays in the network, serves what it
has, and the others go on without it."""
WAIT_S = 10.0


def register(verbs: Verbs) -> None:
    """Add `node pause`."""
    parser = add_command(
        verbs, "pause", "stop training for some time; the node stays", EXAMPLES, run
    )
    parser.add_argument("time", nargs="?", metavar="TIME", help="how long (default: for good)")
    parser.add_argument("--dir", type=Path, metavar="DIR", help="directory of the node")


def run(args: argparse.Namespace) -> int:
    """Pause, and return when the node has."""
    seconds = parse_duration(args.time) if args.time is not None else 0.0
    late = SwarmError(
        Code.STAGE_TIMEOUT,
        f"the node has not paused in {WAIT_S:g} s",
        "it may still be starting; see: node status",
    )
    with ControlClient(find_directory(args.dir)) as control:
        reply = control.pause(seconds)
        wait_for(lambda: _has_paused(control.status()), WAIT_S, late)
    facts = {"paused": True, "reason": reply.reason}
    print(json.dumps(facts) if args.json else f"paused: {reply.reason}")
    return OK


def _has_paused(status: StatusReply) -> bool:
    return status.state == "PAUSED" and not status.worker_pid
