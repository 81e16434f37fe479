"""`node relay`: a public node that others join through and are relayed by; it trains nothing."""

from __future__ import annotations

import argparse
import asyncio
from typing import TYPE_CHECKING

from node.joining import add_join_arguments, joining
from node.network_options import add_metrics_port, add_network_arguments
from node.parser import Verbs, add_command, port_number, positive_int
from node.serving import reporter, serve_until_ended

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
    add_join_arguments(parser)
    parser.add_argument("--name", default="relay", help="display name (default: %(default)s)")
    add_network_arguments(parser, port=4001)
    parser.add_argument(
        "--data-port", type=port_number, default=0, metavar="PORT",
        help="where it tells peers how their routers show them, so that they can punch holes; "
        "open it in the firewall like the other one (default: any free port)",
    )  # fmt: skip
    add_metrics_port(parser)
    parser.add_argument(
        "--mbit", type=positive_int, default=400, metavar="N",
        help="forward at most so many megabits per second, half of it for one peer "
        "(default: %(default)s)",
    )  # fmt: skip
    parser.add_argument(
        "--stop-on-eof", action="store_true",
        help="stop when standard input closes, so that the node never outlives its starter",
    )  # fmt: skip


def run(args: argparse.Namespace) -> int:
    """Run the relay node."""
    from node.relay import RelayConfig
    from swarm.network.p2p import NetworkConfig
    from swarm.network.relay_budget import RelayBudget

    joined = joining(args, "-relay")
    config = RelayConfig(
        manifest_path=joined.manifest_path,
        directory=joined.directory,
        name=args.name,
        network=NetworkConfig(
            host=args.listen[0],
            port=args.listen[1],
            initial_peers=joined.peers,
            announce=tuple(args.announce),
            relay_budget=RelayBudget(
                bandwidth_bps=1e6 * args.mbit, peer_bandwidth_bps=1e6 * args.mbit / 2
            ),
        ),
        data_port=args.data_port,
        metrics=args.metrics_port,
    )
    return asyncio.run(_serve(config, as_json=args.json, stop_on_eof=args.stop_on_eof))


async def _serve(config: RelayConfig, *, as_json: bool, stop_on_eof: bool) -> int:
    from node.relay import run_relay

    report = reporter(as_json=as_json)
    return await serve_until_ended(run_relay(config, report), report, stop_on_eof=stop_on_eof)
