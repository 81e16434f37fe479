"""`node doctor`: is this machine fit to take part, and what to do if it is not."""

from __future__ import annotations

import argparse
import asyncio
import dataclasses
import json
from typing import TYPE_CHECKING

from node.joining import add_join_arguments, joining
from node.parser import Verbs, add_command, host_and_port, positive_int
from node.paths import find_directory, state_home
from swarm.errors import SwarmError

if TYPE_CHECKING:
    from node.doctor.examine import Patient
    from node.doctor.lines import Line

EXAMPLES = """\
  node doctor                                          the node that runs here, or the machine
  node doctor --run RUN.toml --peer ADDRESS            before the first start
  node doctor --join TICKET --listen 0.0.0.0:4001 --device cuda
Each line is ok, a warning or a failure; below the last two it says what to do.
The exit code is 1 if there is a failure. Pass what you would pass to `node start`."""
STYLES = {"ok": "green", "warning": "yellow", "failure": "red"}


def register(verbs: Verbs) -> None:
    """Add `node doctor`."""
    parser = add_command(
        verbs, "doctor", "check clock, network, disk, memory, device and versions", EXAMPLES, run
    )
    add_join_arguments(parser)
    parser.add_argument(
        "--listen", type=host_and_port, default=("0.0.0.0", 0), metavar="HOST:PORT",
        help="where the node is to listen (default: any free port)",
    )  # fmt: skip
    parser.add_argument(
        "--device", default="auto", help="device to train on (default: %(default)s)"
    )
    parser.add_argument(
        "--threads", type=positive_int, default=1, metavar="N",
        help="CPU threads for training (default: %(default)s)",
    )  # fmt: skip


def run(args: argparse.Namespace) -> int:
    """Examine, and print the report."""
    from node.doctor.examine import examine
    from node.doctor.lines import exit_code_of

    lines = asyncio.run(examine(_patient(args)))
    if args.json:
        print(json.dumps({"lines": [dataclasses.asdict(line) for line in lines]}))
    else:
        _show(lines)
    return exit_code_of(lines)


def _patient(args: argparse.Namespace) -> Patient:
    from node.doctor.examine import Patient

    if args.manifest is not None or args.join:
        joined = joining(args)
        manifest, directory, peers = joined.manifest, joined.directory, joined.peers
    else:
        manifest, peers = None, tuple(args.peers)
        try:
            directory = find_directory(args.dir)
        except SwarmError:  # no node runs here, or several: look at the machine alone
            directory = state_home()
    return Patient(
        manifest=manifest,
        directory=directory,
        peers=peers,
        host=args.listen[0],
        port=args.listen[1],
        device=args.device,
        threads=args.threads,
    )


def _show(lines: list[Line]) -> None:
    from rich.console import Console
    from rich.text import Text

    from node.text import printable

    console = Console(highlight=False)
    for line in lines:
        mark = Text(f"{line.level.value:<8}", style=STYLES[line.level.value])
        words = f"{line.name:<10}{printable(line.message)}"
        console.print(Text.assemble(mark, words), soft_wrap=True)
        if line.advice:
            console.print(Text(f"{'':<18}{line.advice}"), soft_wrap=True)
