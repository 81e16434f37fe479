"""`node dashboard`: the swarm as one of its nodes sees it, on a terminal, live or recorded."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING

from node.exit_codes import OK
from node.parser import Verbs, add_command, positive_int
from node.paths import find_directory
from swarm.errors import Code, SwarmError

if TYPE_CHECKING:
    from rich.console import Console

    from node.dashboard.snapshot import Snapshot
    from node.dashboard.view import View

PAGES = ("overview", "peers", "experts", "rounds", "network", "log", "contributions")

EXAMPLES = """\
  node dashboard                           the only node that runs here; ? shows the keys
  node dashboard --dir ~/nodes/law --page peers
  node dashboard --record law.looks        write all that it sees to a file too
  node dashboard --replay law.looks        look at it again; left and right move in time
  node dashboard --replay law.looks --at 90 --page log > then.txt
Where the output is no terminal it prints the page once and ends; with --record it records until
Ctrl-C, or for --seconds."""


def register(verbs: Verbs) -> None:
    """Add `node dashboard`."""
    parser = add_command(
        verbs, "dashboard", "show the swarm as a node sees it, live or recorded", EXAMPLES, run
    )
    parser.add_argument("--dir", type=Path, metavar="DIR", help="directory of the node")
    parser.add_argument(
        "--page", choices=PAGES, default=PAGES[0], metavar="NAME",
        help=f"page to begin with: {', '.join(PAGES)} (default: %(default)s)",
    )  # fmt: skip
    parser.add_argument(
        "--every", type=positive_int, default=1, metavar="SECONDS",
        help="time between two looks (default: %(default)s)",
    )  # fmt: skip
    parser.add_argument("--plain", action="store_true", help="print the page once and end")
    parser.add_argument("--record", type=Path, metavar="FILE", help="write what is seen to a file")
    parser.add_argument(
        "--seconds", type=positive_int, metavar="N", help="end a recording without terminal then"
    )
    parser.add_argument("--replay", type=Path, metavar="FILE", help="show a recording")
    parser.add_argument(
        "--at", type=positive_int, metavar="SECONDS",
        help="with --replay: begin there (default: at its end without a terminal, else its begin)",
    )  # fmt: skip


def run(args: argparse.Namespace) -> int:
    """Show a node or a recording."""
    from rich.console import Console

    from node.dashboard.view import View

    if args.replay is not None and (args.record is not None or args.dir is not None):
        raise SwarmError(Code.USAGE, "--replay needs no node and records nothing", "leave one out")
    if args.at is not None and args.replay is None:
        raise SwarmError(Code.USAGE, "--at is a place in a recording", "name it with --replay")
    console = Console(highlight=False)
    live = console.is_terminal and not (console.is_dumb_terminal or args.plain or args.json)
    show = _replay if args.replay is not None else _watch
    snapshot = show(args, console if live else None, View(page=args.page))
    if snapshot is not None:
        _print(args, snapshot, console)
    return OK


def _watch(args: argparse.Namespace, console: Console | None, view: View) -> Snapshot | None:
    """Show a node; the snapshot to print where there is no terminal."""
    from node.dashboard.app import follow, glance, recording_to, watch

    directory = find_directory(args.dir)
    with recording_to(args.record) as record:
        if console is not None:
            watch(directory, console, view, args.every, record)
            return None
        if record is not None:
            return follow(directory, args.every, record, args.seconds)
        return glance(directory)


def _replay(args: argparse.Namespace, console: Console | None, view: View) -> Snapshot | None:
    """Show a recording; the snapshot to print where there is no terminal."""
    from dataclasses import replace

    from node.dashboard.app import play
    from node.dashboard.recording import Player, read_recording
    from node.dashboard.view import Slider

    player = Player(read_recording(args.replay))
    begin = player.start_ms if console is not None else player.end_ms
    at_ms = begin if args.at is None else player.start_ms + 1000 * args.at
    if console is None:
        return player.at(at_ms)
    slider = Slider(player.start_ms, player.end_ms, player.start_ms, playing=args.at is None)
    play(player, console, replace(view, slider=slider.to(at_ms)))
    return None


def _print(args: argparse.Namespace, snapshot: Snapshot, console: Console) -> None:
    from node.dashboard.view import View, plain
    from node.plain import to_plain

    if args.json:
        parts = {"rounds": snapshot.rounds, "log": snapshot.log}
        facts = {name: [to_plain(item) for item in items] for name, items in parts.items()}
        silent = {"at_ms": snapshot.at_ms, "silent_since_ms": snapshot.silent_since_ms}
        print(json.dumps({**silent, "status": to_plain(snapshot.status), **facts}))
    else:
        console.print(plain(snapshot, View(page=args.page), console.width))
