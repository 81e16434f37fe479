"""A network inside one process: real envelopes, fake links with delay, loss and partitions.

hub = LocalHub()
alice, bob = hub.join(run_id=run_id), hub.join(run_id=run_id)
bob.serve(Ping, answer_ping)
pong = await alice.call(bob.peer_id, Ping(), Pong, timedelta(seconds=1))

hub.delay = lambda source, target: 0.05       # seconds, each way
hub.drop = lambda source, target, kind: kind == "swarm.v1.Plan"
hub.partition([alice.peer_id], [bob.peer_id])  # then: hub.heal()
hub.kill(bob.peer_id)                          # connections refused from now on
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable
from datetime import timedelta

from google.protobuf.message import Message

from swarm.aio import in_time
from swarm.errors import Code, SwarmError
from swarm.identity import Identity
from swarm.network.transport import Clock, Endpoint, Reply, Request


class LocalHub:
    """All peers of one fake network.

    Attributes:
        delay: (source, target) -> one-way delay in seconds.
        drop: (source, target, kind of message) -> whether it is lost; replies are asked for too,
            under the kind of their request with a "reply:" in front.
        calls: number of requests sent, by kind.
    """

    def __init__(self, now: Clock = time.time) -> None:
        self.delay: Callable[[str, str], float] = lambda source, target: 0.0
        self.drop: Callable[[str, str, str], bool] = lambda source, target, kind: False
        self.calls: Counter[str] = Counter()
        self._now = now
        self._peers: dict[str, LocalTransport] = {}
        self._sides: dict[str, int] = {}

    def join(self, *, run_id: bytes, identity: Identity | None = None) -> LocalTransport:
        """Add a peer; joining again under the same identity replaces it (a restart)."""
        transport = LocalTransport(self, identity or Identity.generate(), run_id, self._now)
        self._peers[transport.peer_id] = transport
        return transport

    def kill(self, peer: str) -> None:
        """Take a peer off the network, as by SIGKILL; its calls in flight stay unanswered."""
        self._peers.pop(peer, None)

    def partition(self, *sides: Iterable[str]) -> None:
        """Cut the network: messages between different sides are lost without notice."""
        self._sides = {peer: number for number, side in enumerate(sides) for peer in side}

    def heal(self) -> None:
        """End the partition."""
        self._sides = {}

    def is_cut(self, source: str, target: str) -> bool:
        """Whether a partition separates the two; peers on no side reach everybody."""
        sides = {self._sides[peer] for peer in (source, target) if peer in self._sides}
        return len(sides) > 1

    async def deliver(self, source: LocalTransport, target: str, kind: str, data: bytes) -> bytes:
        """Carry a request to its target and the answer back; lost messages wait for ever."""
        self.calls[kind] += 1
        await self._travel(source.peer_id, target, kind)
        receiver = self._peers.get(target)
        if receiver is None or self._peers.get(source.peer_id) is not source:
            raise SwarmError(Code.PEER_UNREACHABLE, f"{target}: connection refused")
        answer = await receiver.endpoint.answer(source.peer_id, data)
        if self._peers.get(target) is not receiver:
            raise SwarmError(Code.PEER_UNREACHABLE, f"{target}: connection reset")
        await self._travel(target, source.peer_id, f"reply:{kind}")
        return answer

    async def _travel(self, source: str, target: str, kind: str) -> None:
        await asyncio.sleep(self.delay(source, target))
        if self.is_cut(source, target) or self.drop(source, target, kind):
            await asyncio.Event().wait()


class LocalTransport:
    """One peer on a `LocalHub`; a `Transport`."""

    def __init__(self, hub: LocalHub, identity: Identity, run_id: bytes, now: Clock) -> None:
        self.endpoint = Endpoint(identity, run_id, now)
        self._hub = hub

    @property
    def peer_id(self) -> str:
        """This peer's id."""
        return self.endpoint.identity.peer_id

    @property
    def refused(self) -> Counter[str]:
        """Messages that were not let in, counted by error code."""
        return self.endpoint.refused

    async def call(
        self, peer: str, request: Message, reply_type: type[Reply], timeout: timedelta
    ) -> Reply:
        """See `swarm.network.transport.Transport.call`."""
        data = self.endpoint.seal(peer, request)
        kind = request.DESCRIPTOR.full_name
        try:
            answer = await in_time(
                self._hub.deliver(self, peer, kind, data), timeout.total_seconds()
            )
        except asyncio.TimeoutError:
            message = f"{peer} did not answer within {timeout.total_seconds():.1f} s"
            raise SwarmError(Code.PEER_UNREACHABLE, message) from None
        return self.endpoint.open_reply(peer, answer, reply_type)

    def serve(
        self, request_type: type[Request], handler: Callable[[str, Request], Awaitable[Message]]
    ) -> None:
        """See `swarm.network.transport.Transport.serve`."""
        self.endpoint.serve(request_type, handler)
