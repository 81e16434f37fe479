"""What a `PeerNetwork` is told at its start."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import timedelta
from typing import Literal, TypeAlias

from swarm.network.relay_budget import RelayBudget

RelayMode: TypeAlias = Literal["on", "off", "only"]


@dataclass(frozen=True, kw_only=True)
class NetworkConfig:
    """Where to listen and whom to join.

    Attributes:
        host: IP address to listen on; 0.0.0.0 for every interface.
        port: TCP port of p2pd; 0 for any free one.
        initial_peers: multiaddrs of which at least one must answer; empty for the first peer.
        known_peers: multiaddrs from earlier runs, tried as well but not needed.
        may_be_first: go on though none of `initial_peers` answers, and keep on dialling them; for
            a node that others join through, which must not wait for one that is gone for good.
        announce: multiaddrs ("/ip4/1.2.3.4/tcp/4700") at which strangers reach this peer, in place
            of what it finds out by itself; for those who know better.
        relay: "on" to help others as a relay where this peer is public, and to be helped where it
            is not; "off" for neither; "only" to be reached through relays alone.
        mdns: find peers in the LAN, and be found there, by multicast DNS (`lan.py`); not with
            `relay` "only", and nothing happens where this peer has no address of a LAN.
        relay_budget: what a relay gives.
        start_timeout: limit of the p2pd stage.
        bootstrap_timeout: limit of the bootstrap stage.
    """

    host: str = "127.0.0.1"
    port: int = 0
    initial_peers: tuple[str, ...] = ()
    known_peers: tuple[str, ...] = ()
    may_be_first: bool = False
    announce: tuple[str, ...] = ()
    relay: RelayMode = "on"
    mdns: bool = False
    relay_budget: RelayBudget = field(default_factory=RelayBudget)
    start_timeout: timedelta = timedelta(seconds=20)
    bootstrap_timeout: timedelta = timedelta(seconds=30)
