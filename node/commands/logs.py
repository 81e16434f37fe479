"""`node logs`: what a node said, and says."""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

from node.exit_codes import OK
from node.log_files import LogReader, log_path, worker_log_path
from node.parser import Verbs, add_command
from node.paths import find_directory
from node.text import printable
from swarm.errors import Code, SwarmError

EXAMPLES = """\
  node logs                     the last 50 lines
  node logs -f                  and those to come, until Ctrl-C
  node logs -n 500 --dir ~/nodes/law
  node logs --worker            what the training process wrote when something broke
The files are in the node's directory, logs/node.log and older ones beside it."""
POLL_S = 0.2


def register(verbs: Verbs) -> None:
    """Add `node logs`."""
    parser = add_command(verbs, "logs", "show what a node said", EXAMPLES, run)
    parser.add_argument("--dir", type=Path, metavar="DIR", help="directory of the node")
    parser.add_argument("-f", "--follow", action="store_true", help="go on with new lines")
    parser.add_argument(
        "-n", "--lines", type=int, default=50, metavar="N",
        help="lines to begin with (default: %(default)s)",
    )  # fmt: skip
    parser.add_argument("--worker", action="store_true", help="of the training process")


def run(args: argparse.Namespace) -> int:
    """Print the end of a log, and go on with it if asked to."""
    directory = find_directory(args.dir)
    path = worker_log_path(directory) if args.worker else log_path(directory)
    if not path.exists():
        raise SwarmError(
            Code.NODE_NOT_RUNNING, f"no log at {path}", "has a node run there? name it with --dir"
        )
    reader = LogReader(path)
    lines = reader.last(max(0, args.lines))
    while True:
        for line in lines:
            print(json.dumps({"line": line}) if args.json else printable(line), flush=True)
        if not args.follow:
            return OK
        time.sleep(POLL_S)
        lines = reader.added()
