"""What a status says about the network, of a node that trains and of one that only relays."""

from __future__ import annotations

import time

from swarm.network.p2p import PeerNetwork
from swarm.wire import node_pb2


def add_network(reply: node_pb2.StatusReply, network: PeerNetwork) -> None:
    """Fill in addresses, and whether the node is among others."""
    reply.addresses.extend(network.addresses)
    reply.port = network.port
    reach = network.reachability
    reply.nat, reply.nat_reason = reach.kind, reach.reason
    reply.observed.extend(reach.observed)
    reply.relays.extend(reach.relays)
    reply.clock_offset_s, reply.clock_peers = network.clocks.median_s, len(network.clocks)
    view = network.company
    reply.company = view.company.value
    reply.company_reason = view.reason()
    # The view's clock is the monotonic one of this process.
    reply.company_since_ms = round(1000 * (time.time() - time.monotonic() + view.since_s))
