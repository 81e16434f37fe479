"""libp2p's circuit relay v2, as far as p2pd does not speak it: reservations, and messages.

    expires_s = reserve(streams, relay, limit)       # seconds of validity; blocking

p2pd reserves only with a list of relays that is fixed at its start, waits up to 180 s before it
does so, and then leaves a relay that failed alone for an hour. A reservation is one message on a
stream of the relay, so we send it ourselves, to whichever relay, whenever we like. p2pd accepts
the relayed connections that follow like any other. Callers dial the peer at `circuit_address`.
"""

from __future__ import annotations

import socket
import time
from contextlib import suppress
from datetime import timedelta

from swarm.errors import Code, SwarmError
from swarm.network.p2p.hivemind_parts import PeerID
from swarm.network.p2p.streams import Streams, read_message, write_message
from swarm.network.relay_budget import refused
from swarm.wire import circuit_pb2 as pb

HOP = "/libp2p/circuit/relay/0.2.0/hop"  # of the relay
STOP = "/libp2p/circuit/relay/0.2.0/stop"  # of the peer that is called through it
LEAST_DATA = 2**30  # a relay that allows less is no use for our transfers


def reserve(streams: Streams, relay: str, limit: timedelta) -> float:
    """Ask `relay` to be reachable through it; seconds for which it agreed.

    Raises `PEER_UNREACHABLE`, or `RELAY_REFUSED`, also when it would cut relayed connections.
    """
    deadline_s = time.monotonic() + limit.total_seconds()
    with streams.open(relay, limit) as sock:
        reply = ask(sock, pb.HopMessage(type=pb.HopMessage.RESERVE), deadline_s, relay)
    if 0 < reply.limit.data < LEAST_DATA:
        raise refused(f"{relay} cuts connections after {reply.limit.data} bytes")
    return max(0.0, reply.reservation.expire - time.time())


def ask(
    sock: socket.socket, request: pb.HopMessage, deadline_s: float, relay: str
) -> pb.HopMessage:
    """Send a request to a relay; its answer, which says OK. Errors as of `reserve`."""
    try:
        write_message(sock, request)
        reply: pb.HopMessage = read_message(sock, pb.HopMessage(), deadline_s)
    except (OSError, ValueError) as error:
        raise SwarmError(Code.PEER_UNREACHABLE, f"{relay}: as a relay: {error}") from error
    if reply.type != pb.HopMessage.STATUS or reply.status != pb.CIRCUIT_OK:
        raise refused(f"{relay}: {status_name(reply.status)}")
    return reply


def status_name(status: int) -> str:
    """A status in words."""
    with suppress(ValueError):
        name: str = pb.CircuitStatus.Name(status)  # type: ignore[arg-type]
        return name.removeprefix("CIRCUIT_").replace("_", " ").lower()
    return f"status {status}"


def peer_message(peer: str) -> pb.CircuitPeer:
    """A peer in the form of these messages."""
    return pb.CircuitPeer(id=PeerID.from_base58(peer).to_bytes())


def circuit_address(relay_address: str, peer: str) -> str:
    """The multiaddr of `peer` behind the relay at `relay_address`, which ends in /p2p/RELAY."""
    return f"{relay_address}/p2p-circuit/p2p/{peer}"
