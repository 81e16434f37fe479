"""`node start`: run the daemon in the foreground until it is stopped."""

from __future__ import annotations

import argparse
import asyncio
from pathlib import Path

from node.daemon_config import DaemonConfig
from node.parser import Verbs, add_command, host_and_port, positive_int
from node.paths import default_directory, socket_path
from node.serving import reporter, serve_until_ended
from swarm.config import RunManifest

EXAMPLES = """\
  node start --run RUN.toml --data ~/texts --domain law
  node start --run RUN.toml --data demo:maths --domain maths --peer /ip4/10.0.0.5/tcp/4001/p2p/ID
  node start --run RUN.toml --data posts.jsonl.gz --domain forum --listen 0.0.0.0:4001 --threads 4
The first node prints the address that the others pass to --peer; `node status` shows it again.
Stop it with Ctrl-C or `node stop`; started again it goes on where it was."""


def register(verbs: Verbs) -> None:
    """Add `node start`."""
    parser = add_command(verbs, "start", "join a run and train, until stopped", EXAMPLES, run)
    required = parser.add_argument_group("required")
    required.add_argument(
        "--run", dest="manifest", type=Path, required=True, metavar="RUN.toml",
        help="manifest of the run",
    )  # fmt: skip
    required.add_argument(
        "--data", required=True, metavar="PATH",
        help="directory of text or source files, .jsonl, .jsonl.gz or .txt, or demo:python, "
        "demo:cpp, demo:maths, demo:english",
    )  # fmt: skip
    required.add_argument(
        "--domain", required=True, metavar="NAME", help="what the data is about; others see it"
    )
    parser.add_argument(
        "--peer", action="append", default=[], metavar="ADDRESS", dest="peers",
        help="a peer to join through, several are better; none: be the first",
    )  # fmt: skip
    parser.add_argument(
        "--dir",
        type=Path,
        metavar="DIR",
        help="directory of this node (default: by the run's name)",
    )
    parser.add_argument("--name", help="display name (default: the domain)")
    parser.add_argument(
        "--listen", type=host_and_port, default=("0.0.0.0", 0), metavar="HOST:PORT",
        help="where others reach this node; port 0 is any free one (default: 0.0.0.0:0)",
    )  # fmt: skip
    parser.add_argument(
        "--threads", type=positive_int, default=1, metavar="N",
        help="CPU threads for training (default: %(default)s)",
    )  # fmt: skip
    parser.add_argument(
        "--device", default="auto", help="auto, cpu, cuda, cuda:1 or mps (default: %(default)s)"
    )
    parser.add_argument(
        "--allow-solo", action="store_true", help="train although no other peer is there"
    )
    parser.add_argument(
        "--stop-on-eof", action="store_true",
        help="stop when standard input closes, so that the node never outlives its starter",
    )  # fmt: skip


def run(args: argparse.Namespace) -> int:
    """Run the daemon."""
    manifest = RunManifest.load(args.manifest)
    directory = args.dir or default_directory(manifest.name)
    socket_path(directory)
    config = DaemonConfig(
        manifest_path=args.manifest,
        data=args.data,
        domain=args.domain,
        peers=tuple(args.peers),
        directory=directory,
        name=args.name or args.domain,
        host=args.listen[0],
        port=args.listen[1],
        threads=args.threads,
        device=args.device,
        allow_solo=args.allow_solo,
    )
    return asyncio.run(_serve(config, as_json=args.json, stop_on_eof=args.stop_on_eof))


async def _serve(config: DaemonConfig, *, as_json: bool, stop_on_eof: bool) -> int:
    from node.daemon import run_daemon

    report = reporter(as_json=as_json)
    return await serve_until_ended(run_daemon(config, report), report, stop_on_eof=stop_on_eof)
