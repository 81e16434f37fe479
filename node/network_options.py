"""Arguments of every verb that runs a node in the network: where to listen, what to announce."""

from __future__ import annotations

import argparse
import ipaddress

from node.parser import host_and_port


def add_network_arguments(parser: argparse.ArgumentParser, *, port: int) -> None:
    """Add --listen and --announce; `port` is the one to listen on by default."""
    parser.add_argument(
        "--listen", type=host_and_port, default=("0.0.0.0", port), metavar="HOST:PORT",
        help=f"where to listen; port 0 is any free one (default: 0.0.0.0:{port})",
    )  # fmt: skip
    parser.add_argument(
        "--announce", action="append", default=[], type=announced_address, metavar="HOST:PORT",
        help="where others reach this node, if you know better than what it finds out: "
        "a forwarded port, an elastic IP, a name",
    )  # fmt: skip


def add_relay_mode(parser: argparse.ArgumentParser) -> None:
    """Add --relay."""
    parser.add_argument(
        "--relay", choices=("on", "off", "only"), default="on",
        help="on: relay for others if this node is public, be relayed if it is not; off: neither; "
        "only: be reached through relays alone (default: %(default)s)",
    )  # fmt: skip


def add_mdns(parser: argparse.ArgumentParser) -> None:
    """Add --mdns."""
    parser.add_argument(
        "--mdns", choices=("on", "off"), default="on",
        help="find peers of the run in the same LAN, and be found there, by multicast DNS; who "
        "listens there learns this node's peer id and port (default: %(default)s)",
    )  # fmt: skip


def add_metrics_port(parser: argparse.ArgumentParser) -> None:
    """Add --metrics-port."""
    parser.add_argument(
        "--metrics-port", type=metrics_address, metavar="[HOST:]PORT",
        help="serve /metrics (OpenMetrics) and /healthz there, without protection: to this machine "
        "alone unless a HOST is given",
    )  # fmt: skip


def metrics_address(text: str) -> tuple[str, int]:
    """Argument type: a port of 127.0.0.1, or HOST:PORT."""
    return host_and_port(text if ":" in text else f"127.0.0.1:{text}")


def announced_address(text: str) -> str:
    """Argument type: HOST:PORT as a multiaddr, e.g. "/ip4/1.2.3.4/tcp/4001"."""
    host, port = host_and_port(text)
    if port == 0:
        raise argparse.ArgumentTypeError(f"{text!r}: port 0 can not be announced")
    try:
        return f"/ip{ipaddress.ip_address(host).version}/{host}/tcp/{port}"
    except ValueError:
        if "/" in host:
            raise argparse.ArgumentTypeError(f"{text!r} is not HOST:PORT") from None
        return f"/dns4/{host}/tcp/{port}"
