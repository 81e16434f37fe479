"""Asks other peers how they see this one, and answers the same question.

observer = Observer(call, connections, listen_port)
observations, relays = await observer.ask(peers)
"""

from __future__ import annotations

import asyncio
import dataclasses
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Protocol

from google.protobuf.message import Message

from swarm.errors import SwarmError
from swarm.network.addresses import host_of, plain
from swarm.network.limits import DIAL_BACKS, RequestLimits
from swarm.network.p2p.looking import libp2p_ports, local_host_towards, local_port_towards
from swarm.network.reachability import PUNCH_OBSERVERS, Observation, is_public
from swarm.network.transport import Reply
from swarm.wire.control_pb2 import DialBack, DialBackReply, Observe, ObserveReply

OBSERVE_WAIT = timedelta(seconds=2)
DIAL_BACK_WAIT = timedelta(seconds=3)  # the other side tries for 2
MAX_DIAL_BACKS = 2  # peers that are asked for one
MAX_OBSERVERS = PUNCH_OBSERVERS + 2
MAX_PORTS = 4

Connections = Mapping[str, Sequence[str]]


class Call(Protocol):
    """`Transport.call`."""

    def __call__(
        self, peer: str, request: Message, reply_type: type[Reply], timeout: timedelta
    ) -> Awaitable[Reply]:
        """See `swarm.network.transport.Transport.call`."""
        ...


@dataclass(frozen=True)
class Seen:
    """What one peer answered.

    Attributes:
        peer: who.
        relay: whether it forwards for others.
        observations: one for each of our connections that it sees.
    """

    peer: str
    relay: bool
    observations: tuple[Observation, ...]


def observers(connections: Connections) -> dict[str, tuple[str, int]]:
    """Peers worth asking, with host and port of the connection to each.

    Public ones if there are any, one for each address: a second view from the same host shows
    nothing new. Who is reached through a relay sees only the relay.
    """
    found = {}
    for peer, addresses in sorted(connections.items()):
        for address in plain(addresses):
            parts = address.split("/")
            if len(parts) >= 5 and parts[3] == "tcp":
                found[peer] = parts[2], int(parts[4])
                break
    public = {peer: at for peer, at in found.items() if is_public(at[0])}
    by_host = {at[0]: peer for peer, at in (public or found).items()}
    return {peer: found[peer] for peer in sorted(by_host.values())[:MAX_OBSERVERS]}


async def ask_observers(
    call: Call, peers: Mapping[str, tuple[str, int]], listen_port: int
) -> list[Seen]:
    """Ask each peer, and some for a dial-back; who does not answer in time is left out."""
    seen = await asyncio.gather(
        *(_observe(call, peer, at, listen_port) for peer, at in peers.items())
    )
    answers = [answer for answer in seen if answer is not None]
    ports = {listen_port, *(o.port for answer in answers for o in answer.observations)}
    tried = [a for a in answers if any(is_public(o.host) for o in a.observations)]
    tried = tried[:MAX_DIAL_BACKS]
    replies = await asyncio.gather(
        *(_dial_back(call, answer.peer, sorted(ports)[:MAX_PORTS]) for answer in tried)
    )
    opened = {a.peer: reply for a, reply in zip(tried, replies, strict=True) if reply is not None}
    return [_with_ports(answer, opened.get(answer.peer)) for answer in answers]


async def _observe(call: Call, peer: str, at: tuple[str, int], listen_port: int) -> Seen | None:
    try:
        reply = await call(peer, Observe(), ObserveReply, OBSERVE_WAIT)
    except SwarmError:
        return None
    # After a restart on the same port the kernel does not let p2pd dial from it for a minute, and
    # what others see of any other port says nothing about the one on which we listen.
    listening = local_port_towards(*at) in (listen_port, None)
    local_host = local_host_towards(at[0])
    found = []
    for address in plain(reply.addresses)[:MAX_PORTS]:
        parts = address.split("/")
        if len(parts) >= 5 and parts[3] == "tcp" and parts[4].isdecimal():
            found.append(
                Observation(at[0], parts[2], int(parts[4]), local_host, listening=listening)
            )
    return Seen(peer, reply.relay, tuple(found))


async def _dial_back(call: Call, peer: str, ports: Sequence[int]) -> frozenset[int] | None:
    try:
        reply = await call(peer, DialBack(ports=ports), DialBackReply, DIAL_BACK_WAIT)
    except SwarmError:
        return None
    return frozenset(reply.ports) & frozenset(ports)


def _with_ports(seen: Seen, ports: frozenset[int] | None) -> Seen:
    if ports is None:
        return seen
    observations = tuple(
        dataclasses.replace(observation, open_ports=ports) for observation in seen.observations
    )
    return Seen(seen.peer, seen.relay, observations)


class Answers:
    """The other side: says what it sees, and dials back."""

    def __init__(
        self,
        connections: Callable[[], Awaitable[Connections]],
        relays: Callable[[], bool],
        trusted: Callable[[str], bool],
    ) -> None:
        self._connections = connections
        self._relays = relays
        self._limits = RequestLimits(DIAL_BACKS, trusted)

    async def observe(self, sender: str, request: Observe) -> ObserveReply:
        """Answer an `Observe`."""
        addresses = (await self._connections()).get(sender, ())
        return ObserveReply(addresses=plain(addresses)[:MAX_PORTS], relay=self._relays())

    async def dial_back(self, sender: str, request: DialBack) -> DialBackReply:
        """Answer a `DialBack`: only at hosts from which the sender is connected, so that nobody
        can use this peer to knock at a third one's door. Raises `OVER_LIMIT`.
        """
        self._limits.take(sender, 0, time.monotonic())
        try:
            addresses = plain((await self._connections()).get(sender, ()))
            hosts = sorted({host_of(address) for address in addresses})[:1]
            ports = [port for port in request.ports[:MAX_PORTS] if 0 < port < 2**16]
            found = [port for host in hosts for port in await libp2p_ports(host, ports)]
            return DialBackReply(ports=found)
        finally:
            self._limits.done(sender)
