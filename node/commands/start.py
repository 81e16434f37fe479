"""`node start`: run the daemon until it is stopped, in the foreground or the background."""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
from collections.abc import Sequence

from node.daemon_config import DaemonConfig
from node.joining import add_join_arguments, joining
from node.limits import assignment, load_limits, save_limits
from node.log_files import node_log
from node.network_options import (
    add_mdns,
    add_metrics_port,
    add_network_arguments,
    add_relay_mode,
)
from node.parser import Verbs, add_command, positive_int
from node.paths import PRIVATE_MASK, make_directory
from node.serving import Report, reporter, serve_until_ended
from node.settings import NodeSettings, settle

EXAMPLES = """\
  node start --run RUN.toml --data ~/texts --domain law
  node start --run RUN.toml --data demo:maths --domain maths --peer /ip4/10.0.0.5/tcp/4001/p2p/ID
  node start --join TICKET --data ~/texts
  node start --join TICKET --detach                 on what the ticket suggests, in the background
  node start --join TICKET --limit hours=22-07 --limit upload=10mbit
  node start --run RUN.toml --data posts.jsonl.gz --domain forum --listen 0.0.0.0:4001 --threads 4
  node start --run RUN.toml --data ~/texts --domain law --listen :4001 --announce home.example:4001
The first node prints the address that the others pass to --peer; `node status` shows it again.
Stop it with Ctrl-C, `node stop` or `node finish`; started again it goes on where it was, and need
not be told data, domain and name again. What it may take of this machine: node limits --help."""

DETACH, DETACHED = "--detach", "--detached"


def register(verbs: Verbs) -> None:
    """Add `node start`."""
    parser = add_command(verbs, "start", "join a run and train, until stopped", EXAMPLES, run)
    add_join_arguments(parser)
    parser.add_argument(
        "--data", default="", metavar="PATH",
        help="directory of text or source files, .jsonl, .jsonl.gz or .txt, or demo:python, "
        "demo:cpp, demo:maths, demo:english (default: as before, or what the ticket suggests)",
    )  # fmt: skip
    parser.add_argument(
        "--domain", default="", metavar="NAME",
        help="what the data is about; others see it (default: as before, or the name of the data)",
    )  # fmt: skip
    parser.add_argument(
        "--name", default="", help="display name (default: as before, or a made-up one)"
    )
    add_network_arguments(parser, port=0)
    add_relay_mode(parser)
    add_mdns(parser)
    add_metrics_port(parser)
    parser.add_argument(
        "--threads", type=positive_int, default=1, metavar="N",
        help="CPU threads for training (default: %(default)s)",
    )  # fmt: skip
    parser.add_argument(
        "--device", default="auto", help="auto, cpu, cuda, cuda:1 or mps (default: %(default)s)"
    )
    parser.add_argument(
        "--allow-solo", action="store_true", help="train on although no other peer answers"
    )
    parser.add_argument(
        "--limit", action="append", default=[], metavar="NAME=VALUE", dest="limits",
        help="what it may take of this machine, as with `node limits set`",
    )  # fmt: skip
    background = parser.add_mutually_exclusive_group()
    background.add_argument(
        "--stop-on-eof", action="store_true",
        help="stop when standard input closes, so that the node never outlives its starter",
    )  # fmt: skip
    background.add_argument(
        DETACH, action="store_true", help="run in the background; says where its log is"
    )
    background.add_argument(DETACHED, action="store_true", help=argparse.SUPPRESS)


def run(args: argparse.Namespace) -> int:
    """Run the daemon, or start it in the background."""
    os.umask(PRIVATE_MASK)
    joined = joining(args)
    given = NodeSettings(args.data, args.domain, args.name)
    make_directory(joined.directory)
    settings = settle(joined.directory, given, joined.suggested_data)
    if args.limits:
        limits = load_limits(joined.directory).changed(dict(map(assignment, args.limits)))
        save_limits(joined.directory, limits)
    if args.detach:
        from node.detaching import detach

        words = [DETACHED if word == DETACH else word for word in sys.orig_argv[1:]]
        return detach([sys.executable, *words], joined.directory, as_json=args.json)
    config = DaemonConfig(
        manifest_path=joined.manifest_path.absolute(),
        data=settings.data,
        domain=settings.domain,
        peers=joined.peers,
        directory=joined.directory.absolute(),
        name=settings.name,
        host=args.listen[0],
        port=args.listen[1],
        threads=args.threads,
        device=args.device,
        allow_solo=args.allow_solo,
        announce=tuple(args.announce),
        relay=args.relay,
        mdns=args.mdns == "on",
        metrics=args.metrics_port,
    )
    if args.detached:
        os.chdir(config.directory)  # not to keep another file system busy
    with node_log(config.directory) as log:
        says = (log,) if args.detached else (log, reporter(as_json=args.json))
        return asyncio.run(_serve(config, says, stop_on_eof=args.stop_on_eof))


async def _serve(config: DaemonConfig, says: Sequence[Report], *, stop_on_eof: bool) -> int:
    from node.daemon import run_daemon

    def report(line: str) -> None:
        for say in says:
            say(line)

    return await serve_until_ended(run_daemon(config, report), report, stop_on_eof=stop_on_eof)
