"""`node demo`: the whole path on this machine in about ten minutes."""

from __future__ import annotations

import argparse
from pathlib import Path

from node.parser import Verbs, add_command, positive_int

EXAMPLES = """\
  node demo                                     four minutes of training
  node demo --seconds 60                        a first impression
  node demo --json out.json --out demo-out      keep the numbers and the models"""


def register(verbs: Verbs) -> None:
    """Add `node demo`."""
    parser = add_command(
        verbs, "demo", "train a small swarm here, kill a peer, assemble, compare", EXAMPLES
    )
    parser.set_defaults(run=run)
    parser.add_argument(
        "--seconds", type=positive_int, default=240, metavar="N",
        help="training time: half the swarm, half the peers alone (default: %(default)s)",
    )  # fmt: skip
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all results to this file")
    parser.add_argument(
        "--out", type=Path, metavar="DIR",
        help="keep models, logs and nodes here (default: temporary)",
    )  # fmt: skip
    parser.add_argument("--plain", action="store_true", help="lines instead of a live view")


def run(args: argparse.Namespace) -> int:
    """Run the demo; 0 only when every part of it succeeded."""
    from node.demo.demo import run_demo

    return run_demo(args.seconds, args.json, args.out, plain=args.plain)
