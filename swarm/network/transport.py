"""How parts of the swarm talk to one another: typed, signed request and reply.

`Transport` is what the collective sees. `PeerNetwork` (swarm/network/p2p) implements it on the
real network and `LocalTransport` (swarm/simulation) in one process; both use `Endpoint`, so both
seal, open, refuse and count in the same way.
"""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Any, Protocol, TypeVar

from google.protobuf.message import Message

from swarm.errors import Code, SwarmError
from swarm.identity import Identity
from swarm.network.admission import Admission, open_to_all
from swarm.network.envelope import open_envelope, seal, unpack
from swarm.network.limits import RequestLimits
from swarm.wire.control_pb2 import Locate, Refusal

logger = logging.getLogger(__name__)

Request = TypeVar("Request", bound=Message)
Reply = TypeVar("Reply", bound=Message)
Clock = Callable[[], float]  # Unix time in seconds

REFUSAL = Refusal.DESCRIPTOR.full_name


class Transport(Protocol):
    """Calls other peers and answers theirs."""

    @property
    def peer_id(self) -> str:
        """This peer's id."""
        ...

    async def call(
        self, peer: str, request: Message, reply_type: type[Reply], timeout: timedelta
    ) -> Reply:
        """Send `request` to `peer` and return its reply. A call to oneself is answered too.

        Raises `PEER_UNREACHABLE` (no answer in time, or no way to the peer), `PEER_REFUSED` (its
        code and message in ours), `RUN_MISMATCH`, or a `MESSAGE_*` code for a bad reply.
        """
        ...

    def serve(
        self, request_type: type[Request], handler: Callable[[str, Request], Awaitable[Message]]
    ) -> None:
        """Answer requests of this type with `await handler(sender, request)`.

        A `SwarmError` raised by the handler goes to the sender as a refusal.
        """
        ...


class Endpoint:
    """One peer's end of the control channel without the channel: bytes in, bytes out.

    Attributes:
        admission: who is answered at all.
        refused: messages that were not let in, counted by error code.
    """

    def __init__(
        self,
        identity: Identity,
        run_id: bytes,
        now: Clock = time.time,
        limits: RequestLimits | None = None,
        admission: Admission | None = None,
    ) -> None:
        self.admission = admission or open_to_all(run_id)
        self._limits = limits
        self.identity = identity
        self.run_id = run_id
        self.refused: Counter[str] = Counter()
        self._now = now
        self._kinds: dict[str, type[Message]] = {}
        self._handlers: dict[str, Callable[[str, Any], Awaitable[Message]]] = {}

    def serve(
        self, request_type: type[Request], handler: Callable[[str, Request], Awaitable[Message]]
    ) -> None:
        """See `Transport.serve`."""
        kind = request_type.DESCRIPTOR.full_name
        self._kinds[kind] = request_type
        self._handlers[kind] = handler

    def seal(self, recipient: str, message: Message) -> bytes:
        """Signed envelope for `recipient`. Raises `MESSAGE_OVERSIZED`."""
        now_ms = int(self._now() * 1000)
        return seal(
            self.identity,
            message,
            run_id=self.run_id,
            recipient=recipient,
            now_ms=now_ms,
            permission=self.admission.own,
        )

    async def answer(self, remote: str, data: bytes) -> bytes:
        """Sealed reply or refusal to the request `data` that came from `remote`.

        `remote` is the peer id that the channel itself has authenticated. Never raises.
        """
        if self._limits is None or remote == self.identity.peer_id:
            return await self._answer(remote, data)
        try:
            self._limits.take(remote, len(data), time.monotonic())
        except SwarmError as error:
            return self._turn_away(remote, error)
        try:
            return await self._answer(remote, data)
        finally:
            self._limits.done(remote)

    async def _answer(self, remote: str, data: bytes) -> bytes:
        try:
            kind, request = self._open_request(remote, data)
        except SwarmError as error:
            return self._turn_away(remote, error)
        try:
            return self.seal(remote, await self._handlers[kind](remote, request))
        except SwarmError as error:
            return self._refuse(remote, error)
        except Exception as error:
            logger.exception("handler of %s failed", kind)
            return self._refuse(remote, SwarmError(Code.INTERNAL, f"{kind}: {error!r}"))

    def open_reply(self, peer: str, data: bytes, reply_type: type[Reply]) -> Reply:
        """The reply in `data`, which `peer` sent. Errors as of `Transport.call`."""
        try:
            opened = open_envelope(
                data,
                run_id=self.run_id,
                recipient=self.identity.peer_id,
                now_ms=int(self._now() * 1000),
            )
        except SwarmError as error:
            if error.code is Code.MESSAGE_WRONG_RUN:
                hint = "join with the manifest of the swarm you want"
                raise SwarmError(Code.RUN_MISMATCH, f"{peer}: {error.message}", hint) from error
            raise
        if opened.sender != peer:
            raise SwarmError(Code.SIGNATURE_INVALID, f"{peer} answered as {opened.sender}")
        if opened.kind == REFUSAL:
            refusal = unpack(opened, {REFUSAL: Refusal})
            assert isinstance(refusal, Refusal)
            if refusal.code == Code.NOT_ADMITTED.value:
                hint = "join with a ticket: node start --join TICKET"
                raise SwarmError(Code.NOT_ADMITTED, f"{peer}: {refusal.message}", hint)
            raise SwarmError(Code.PEER_REFUSED, f"{peer}: {refusal.code}: {refusal.message}")
        self.admission.check(peer, opened.permission)
        kind = reply_type.DESCRIPTOR.full_name
        reply = unpack(opened, {kind: reply_type})
        assert isinstance(reply, reply_type)
        return reply

    def _open_request(self, remote: str, data: bytes) -> tuple[str, Message]:
        opened = open_envelope(
            data,
            run_id=self.run_id,
            recipient=self.identity.peer_id,
            now_ms=int(self._now() * 1000),
        )
        if opened.sender != remote:
            raise SwarmError(
                Code.SIGNATURE_INVALID, f"{remote} passed on a message of {opened.sender}"
            )
        if opened.kind == Locate.DESCRIPTOR.full_name:
            # A starting node asks about its own id from a throw-away id, which has no permission.
            message = unpack(opened, self._kinds)
            assert isinstance(message, Locate)
            self.admission.check(message.peer_id, opened.permission)
            return opened.kind, message
        self.admission.check(remote, opened.permission)
        return opened.kind, unpack(opened, self._kinds)

    def _turn_away(self, remote: str, error: SwarmError) -> bytes:
        self.refused[error.code.value] += 1
        logger.info("refused a message of %s: %s", remote, error)
        return self._refuse(remote, error)

    def _refuse(self, remote: str, error: SwarmError) -> bytes:
        return self.seal(remote, Refusal(code=error.code.value, message=error.message[:1000]))
