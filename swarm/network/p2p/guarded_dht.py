"""hivemind's DHT with a guard at its door: who asks too much, or is not admitted, is not answered.

hivemind answers whoever connects, and for each key of a request it answers with the whole value,
so one message of 4 MiB that names the run's dictionary 100 000 times would make a node build an
answer of gigabytes. The guard is asked before hivemind sees a request.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Any

from swarm.errors import Code, SwarmError
from swarm.network.admission import Admission, not_admitted
from swarm.network.limits import RequestLimits, over_limit
from swarm.network.p2p.hivemind_parts import DHTNode, HivemindDHTProtocol, dht_node, dht_pb2

MAX_KEYS = 64  # in one request; a node of this program asks for one, and hands over few to others
MAX_ASKED = 64  # strangers that are being asked for their permission
MAX_TURNED_AWAY = 4096
ASK_AGAIN_S = 10.0
logger = logging.getLogger(__name__)
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


class Door:
    """Lets a closed run's peers in: who has not shown a permission is called, so that he shows it.

    hivemind's requests can not carry one. Each peer is called once at a time, and one that showed
    none is not called again for a while.
    """

    def __init__(self, admission: Admission, introduce: Callable[[str], Awaitable[object]]) -> None:
        self._admission = admission
        self._introduce = introduce
        self._asking: dict[str, asyncio.Task[None]] = {}
        self._not_before_s: dict[str, float] = {}

    async def ask(self, peer: str) -> None:
        """Return when `peer` is admitted. Raises `NOT_ADMITTED`."""
        if peer not in self._asking:
            now_s = time.monotonic()
            if self._not_before_s.get(peer, 0.0) > now_s:
                raise not_admitted(peer, "it has shown no permission")
            if len(self._asking) >= MAX_ASKED:
                raise over_limit("too many strangers at the door")
            if len(self._not_before_s) >= MAX_TURNED_AWAY:
                self._not_before_s.clear()
            self._not_before_s[peer] = now_s + ASK_AGAIN_S
            self._asking[peer] = asyncio.create_task(self._ask(peer))
        await asyncio.shield(self._asking[peer])
        if not self._admission.admits(peer):
            raise not_admitted(peer, "it has shown no permission")

    async def _ask(self, peer: str) -> None:
        try:
            await self._introduce(peer)
        except SwarmError as error:
            logger.info("%s asks the DHT, but: %s", peer, error)
        finally:
            del self._asking[peer]


def door_guard(
    limits: RequestLimits, admission: Admission, door: Door, refused: Counter[str]
) -> Guard:
    """Lets a request in within the limits, and of an admitted peer only; `limits.done` ends it.

    What it turns away, it counts in `refused` by error code, and has ended.
    """

    async def guard(peer: str, size: int) -> None:
        try:
            limits.take(peer, size, time.monotonic())
            try:
                if not admission.admits(peer):
                    await door.ask(peer)
            except BaseException:  # also when the asker gives up: its place must be free again
                limits.done(peer)
                raise
        except SwarmError as error:
            refused[error.code.value] += 1
            raise

    return guard


async def start_dht(guard: Guard, done: Callable[[str], None], **options: Any) -> Any:
    """A `DHTNode` of hivemind whose protocol is guarded."""
    # DHTNode names the protocol's class in its own module, and offers no other way.
    dht_node.DHTProtocol = DHTProtocol
    node = await DHTNode.create(**options)
    node.protocol.done = done
    node.protocol.guard = guard
    return node
