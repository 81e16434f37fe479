"""`node start`: run the daemon in the foreground until it is stopped."""

from __future__ import annotations

import argparse
import asyncio

from node.daemon_config import DaemonConfig
from node.joining import add_join_arguments, joining
from node.network_options import add_metrics_port, add_network_arguments, add_relay_mode
from node.parser import Verbs, add_command, positive_int
from node.serving import reporter, serve_until_ended

EXAMPLES = """\
  node start --run RUN.toml --data ~/texts --domain law
  node start --run RUN.toml --data demo:maths --domain maths --peer /ip4/10.0.0.5/tcp/4001/p2p/ID
  node start --join TICKET --data ~/texts --domain law
  node start --run RUN.toml --data posts.jsonl.gz --domain forum --listen 0.0.0.0:4001 --threads 4
  node start --run RUN.toml --data ~/texts --domain law --listen :4001 --announce home.example:4001
The first node prints the address that the others pass to --peer; `node status` shows it again.
Stop it with Ctrl-C or `node stop`; started again it goes on where it was."""


def register(verbs: Verbs) -> None:
    """Add `node start`."""
    parser = add_command(verbs, "start", "join a run and train, until stopped", EXAMPLES, run)
    add_join_arguments(parser)
    required = parser.add_argument_group("required")
    required.add_argument(
        "--data", required=True, metavar="PATH",
        help="directory of text or source files, .jsonl, .jsonl.gz or .txt, or demo:python, "
        "demo:cpp, demo:maths, demo:english",
    )  # fmt: skip
    required.add_argument(
        "--domain", required=True, metavar="NAME", help="what the data is about; others see it"
    )
    parser.add_argument("--name", help="display name (default: the domain)")
    add_network_arguments(parser, port=0)
    add_relay_mode(parser)
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
        "--stop-on-eof", action="store_true",
        help="stop when standard input closes, so that the node never outlives its starter",
    )  # fmt: skip


def run(args: argparse.Namespace) -> int:
    """Run the daemon."""
    joined = joining(args)
    config = DaemonConfig(
        manifest_path=joined.manifest_path,
        data=args.data,
        domain=args.domain,
        peers=joined.peers,
        directory=joined.directory,
        name=args.name or args.domain,
        host=args.listen[0],
        port=args.listen[1],
        threads=args.threads,
        device=args.device,
        allow_solo=args.allow_solo,
        announce=tuple(args.announce),
        relay=args.relay,
        metrics=args.metrics_port,
    )
    return asyncio.run(_serve(config, as_json=args.json, stop_on_eof=args.stop_on_eof))


async def _serve(config: DaemonConfig, *, as_json: bool, stop_on_eof: bool) -> int:
    from node.daemon import run_daemon

    report = reporter(as_json=as_json)
    return await serve_until_ended(run_daemon(config, report), report, stop_on_eof=stop_on_eof)
