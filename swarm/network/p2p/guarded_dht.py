"""hivemind's DHT with a guard at its door: who asks too much, or is not admitted, is not answered.

hivemind answers whoever connects, and for each key of a request it answers with the whole value,
so one message of 4 MiB that names the run's dictionary 100 000 times would make a node build an
answer of gigabytes. The guard is asked before hivemind sees a request.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from swarm.errors import Code, SwarmError
from swarm.network.p2p.hivemind_parts import DHTNode, HivemindDHTProtocol, dht_node, dht_pb2

MAX_KEYS = 64  # in one request; a node of this program asks for one, and hands over few to others
Guard = Callable[[str, int], Awaitable[None]]  # (peer, bytes); raises a SwarmError


class DHTProtocol(HivemindDHTProtocol):  # type: ignore[misc]
    """Named as hivemind's, since the name is part of the protocol.

    Attributes:
        guard: None, until the node that owns it is up, means that nobody is answered.
        done: told when a request that the guard let in has ended.
    """

    guard: Guard | None = None
    done: Callable[[str], None] = staticmethod(lambda peer: None)

    async def rpc_ping(self, request: dht_pb2.PingRequest, context: Any) -> dht_pb2.PingResponse:
        """See hivemind."""
        return await self._guarded(super().rpc_ping, request, context, 1)

    async def rpc_store(self, request: dht_pb2.StoreRequest, context: Any) -> dht_pb2.StoreResponse:
        """See hivemind."""
        return await self._guarded(self._store, request, context, len(request.keys))

    async def _store(self, request: Any, context: Any) -> Any:
        self.record_validator.storing = True
        try:
            return await super().rpc_store(request, context)  # suspends nowhere
        finally:
            self.record_validator.storing = False

    async def rpc_find(self, request: dht_pb2.FindRequest, context: Any) -> dht_pb2.FindResponse:
        """See hivemind."""
        return await self._guarded(super().rpc_find, request, context, len(request.keys))

    async def _guarded(self, answer: Any, request: Any, context: Any, keys: int) -> Any:
        peer = context.remote_id.to_base58()
        if self.guard is None:
            raise SwarmError(Code.PEER_REFUSED, "the DHT is not up yet")
        if keys > MAX_KEYS:
            raise SwarmError(Code.OVER_LIMIT, f"{keys} keys in a request, the limit is {MAX_KEYS}")
        await self.guard(peer, request.ByteSize())
        try:
            return await answer(request, context)
        finally:
            self.done(peer)


async def start_dht(guard: Guard, done: Callable[[str], None], **options: Any) -> Any:
    """A `DHTNode` of hivemind whose protocol is guarded."""
    # DHTNode names the protocol's class in its own module, and offers no other way.
    dht_node.DHTProtocol = DHTProtocol
    node = await DHTNode.create(**options)
    node.protocol.done = done
    node.protocol.guard = guard
    return node
