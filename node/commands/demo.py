"""`node demo`: the whole path on this machine, of a swarm or of isolated experts."""

from __future__ import annotations

import argparse
from pathlib import Path

from node.parser import Verbs, add_command, positive_int

EXAMPLES = """\
  node demo                                     four minutes of training
  node demo --seconds 60                        a first impression
  node demo --json out.json --out demo-out      keep the numbers and the models
  node demo --mode isolated                     four owners who never meet, opt-out included"""


def register(verbs: Verbs) -> None:
    """Add `node demo`."""
    parser = add_command(
        verbs, "demo", "train a small swarm here, kill a peer, assemble, compare", EXAMPLES
    )
    parser.set_defaults(run=run)
    parser.add_argument(
        "--mode", choices=("swarm", "isolated"), default="swarm", metavar="MODE",
        help="swarm: four peers train together; isolated: four owners train alone, their experts "
        "are assembled, one withdraws (default: %(default)s)",
    )  # fmt: skip
    parser.add_argument(
        "--seconds", type=positive_int, metavar="N",
        help="training time (default: 240 for a swarm, half of it the peers alone; 150 isolated)",
    )  # fmt: skip
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all results to this file")
    parser.add_argument(
        "--out", type=Path, metavar="DIR",
        help="keep models, logs and nodes here (default: temporary)",
    )  # fmt: skip
    parser.add_argument("--plain", action="store_true", help="lines instead of a live view")


def run(args: argparse.Namespace) -> int:
    """Run the demo; 0 only when every part of it succeeded."""
    if args.mode == "isolated":
        from node.demo.isolated.demo import run_isolated_demo

        return run_isolated_demo(args.seconds or 150, args.json, args.out, plain=args.plain)
    from node.demo.demo import run_demo

    return run_demo(args.seconds or 240, args.json, args.out, plain=args.plain)
