"""`node relay`: a public node that others join through and are relayed by; it trains nothing."""

from __future__ import annotations

import argparse
import asyncio
from pathlib import Path
from typing import TYPE_CHECKING

from node.parser import Verbs, add_command, host_and_port
from node.paths import default_directory, socket_path
from node.serving import reporter, serve_until_ended
from swarm.config import RunManifest

if TYPE_CHECKING:
    from node.relay import RelayConfig

EXAMPLES = """\
  node relay --run RUN.toml
  node relay --run RUN.toml --listen 0.0.0.0:443 --peer /ip4/11.7.0.12/tcp/4001/p2p/ID
Peers pass the printed address to --peer. Run four, in different networks, each with the
addresses of the other three: docs/network.md. `node status` and `node stop` work as ever."""


def register(verbs: Verbs) -> None:
    """Add `node relay`."""
    parser = add_command(
        verbs, "relay", "help the peers of a run to reach one another, without training",
        EXAMPLES, run,
    )  # fmt: skip
    required = parser.add_argument_group("required")
    required.add_argument(
        "--run", dest="manifest", type=Path, required=True, metavar="RUN.toml",
        help="manifest of the run",
    )  # fmt: skip
    parser.add_argument(
        "--peer", action="append", default=[], metavar="ADDRESS", dest="peers",
        help="another public node of the run; starts without it when it does not answer",
    )  # fmt: skip
    parser.add_argument(
        "--dir", type=Path, metavar="DIR",
        help="directory of this node (default: by the run's name, ending in -relay)",
    )  # fmt: skip
    parser.add_argument("--name", default="relay", help="display name (default: %(default)s)")
    parser.add_argument(
        "--listen", type=host_and_port, default=("0.0.0.0", 4001), metavar="HOST:PORT",
        help="where others reach this node (default: 0.0.0.0:4001)",
    )  # fmt: skip
    parser.add_argument(
        "--stop-on-eof", action="store_true",
        help="stop when standard input closes, so that the node never outlives its starter",
    )  # fmt: skip


def run(args: argparse.Namespace) -> int:
    """Run the relay node."""
    from node.relay import RelayConfig
    from swarm.network.p2p import NetworkConfig

    manifest = RunManifest.load(args.manifest)
    directory = args.dir or default_directory(f"{manifest.name}-relay")
    socket_path(directory)
    config = RelayConfig(
        manifest_path=args.manifest,
        directory=directory,
        name=args.name,
        network=NetworkConfig(
            host=args.listen[0], port=args.listen[1], initial_peers=tuple(args.peers)
        ),
    )
    return asyncio.run(_serve(config, as_json=args.json, stop_on_eof=args.stop_on_eof))


async def _serve(config: RelayConfig, *, as_json: bool, stop_on_eof: bool) -> int:
    from node.relay import run_relay

    report = reporter(as_json=as_json)
    return await serve_until_ended(run_relay(config, report), report, stop_on_eof=stop_on_eof)
