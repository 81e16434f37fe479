"""`node limits`: what the node may take of this machine, shown and changed while it runs."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from node.control_client import ControlClient
from node.exit_codes import OK
from node.limits import LIMITS, OFF, Limits, assignment, load_limits, save_limits
from node.node_toml import FILE_NAME
from node.parser import Verbs, add_command
from node.paths import find_directory
from swarm.errors import Code, SwarmError
from swarm.wire import volunteer_pb2 as pb

EXAMPLES = (
    """\
  node limits                                        what is set, and whether the node may train
  node limits set cpu-threads=1 upload=10mbit hours=22-07
  node limits set memory=4gb mains=yes idle=10min
  node limits set hours=off                          clear one
limits:
"""
    + "\n".join(f"  {f'{name}={kind.example}':<22} {kind.meaning}" for name, kind in LIMITS.items())
    + f"""
They hold at once, and are kept in {FILE_NAME} in the node's directory. Without a running node
that file is changed, for its next start."""
)


def register(verbs: Verbs) -> None:
    """Add `node limits`."""
    parser = add_command(
        verbs, "limits", "show or change what the node may take of this machine", EXAMPLES, run
    )
    parser.add_argument("action", nargs="?", choices=("show", "set"), default="show")
    parser.add_argument(
        "changes", nargs="*", metavar="NAME=VALUE", help=f"with set; {OFF} clears a limit"
    )
    parser.add_argument("--dir", type=Path, metavar="DIR", help="directory of the node")


def run(args: argparse.Namespace) -> int:
    """Change limits if asked to, and print them."""
    texts = dict(assignment(word) for word in args.changes)
    if (args.action == "set") != bool(texts):
        raise SwarmError(
            Code.USAGE, "set needs limits, and limits need set", "node limits set hours=22-07"
        )
    Limits().changed(texts)  # says what is wrong before anybody is asked
    reply = _apply(find_directory(args.dir), texts)
    if args.json:
        verdict = {"may_train": reply.verdict.may_train, "reason": reply.verdict.reason}
        print(json.dumps({"limits": dict(reply.limits), **verdict}))
        return OK
    for name in LIMITS:
        if name in reply.limits:
            print(f"{name} = {reply.limits[name]}")
    if not reply.limits:
        print("no limits")
    if not reply.verdict.may_train:
        print(f"paused: {reply.verdict.reason}")
    return OK


def _apply(directory: Path, texts: dict[str, str]) -> pb.LimitsReply:
    """Through the daemon, or in the file where none runs."""
    try:
        with ControlClient(directory) as control:
            return control.limit(texts)
    except SwarmError as error:
        if error.code is not Code.NODE_NOT_RUNNING or not directory.is_dir():
            raise
    limits = load_limits(directory).changed(texts)
    if texts:
        save_limits(directory, limits)
    return pb.LimitsReply(limits=limits.shown(), verdict=pb.VerdictReply(may_train=True))
