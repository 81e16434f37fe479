"""Calls on a lane, the acceptor's half: wait for a CALL, serve it, wait for the next.

    service = CallService()
    service.reduce_handler = lambda peer, lane, hello: ...       # over when it returns
    service.blob_source = lambda blob_hash: memoryview_or_none
    service.serve(lane, idle_limit)         # in a thread of its own; returns when the lane is over

A call is over for good when both sides have said END. A handler that raises a `SwarmError`, or that
returns before, ends the lane: the peer reads a FAILURE "CODE: message".
"""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Callable
from datetime import timedelta
from typing import TypeAlias

from google.protobuf.message import DecodeError

from swarm.errors import Code, SwarmError
from swarm.network.framing import SocketLane
from swarm.network.lane import Kind, Lane
from swarm.network.limits import over_limit
from swarm.wire.data_pb2 import Call, DownloadRequest, ReduceHello

logger = logging.getLogger(__name__)

ReduceHandler: TypeAlias = Callable[[str, Lane, ReduceHello], None]
BlobSource: TypeAlias = Callable[[bytes], "memoryview | None"]

CHUNK_BYTES = 2**20
MAX_CALL_BYTES = 2**16
CALL_STALL = timedelta(seconds=10)  # until the call's handler sets its own


class CallService:
    """Serves lanes of authenticated peers; counts what it refuses in `refused` by error code."""

    def __init__(self) -> None:
        self.refused: Counter[str] = Counter()
        self.reduce_handler: ReduceHandler | None = None
        self.blob_source: BlobSource | None = None
        self.serving = True

    def serve(self, lane: SocketLane, idle_limit: timedelta) -> None:
        """Serve calls until the peer hangs up, breaks the rules, or asks nothing for too long."""
        try:
            while lane.at_rest:
                call = self._next_call(lane, idle_limit)
                self._serve_call(lane, call)
            lane.fail(f"{Code.INTERNAL.value}: the call ended early")
        except SwarmError as error:
            logger.info("lane of %s ended: %s", lane.peer, error)
            lane.fail(f"{error.code.value}: {error.message}")
        except Exception as error:
            logger.exception("a call of %s failed", lane.peer)
            lane.fail(f"{Code.INTERNAL.value}: {type(error).__name__}")

    def refuse(self, error: SwarmError) -> SwarmError:
        """Count a refusal."""
        self.refused[error.code.value] += 1
        return error

    def _next_call(self, lane: SocketLane, idle_limit: timedelta) -> Call:
        lane.set_stall(idle_limit)
        lane.idle_since_s = time.monotonic()
        try:
            frame = lane.receive_before(time.monotonic() + idle_limit.total_seconds())
            if frame.size > MAX_CALL_BYTES:
                raise SwarmError(Code.MESSAGE_OVERSIZED, f"call of {frame.size} bytes")
            lane.set_stall(CALL_STALL)
            if frame.kind is Kind.FAILURE:
                raise SwarmError(Code.PEER_UNREACHABLE, f"{lane.peer}: it gave up")
            if frame.kind is not Kind.CALL:
                raise SwarmError(Code.MESSAGE_MALFORMED, f"{frame.kind.name} outside of a call")
            data = lane.read()
            lane.idle_since_s = None  # not before: a call that trickles in holds no room
            return Call.FromString(data)
        except DecodeError as error:
            raise self.refuse(SwarmError(Code.MESSAGE_MALFORMED, "not a Call")) from error
        except SwarmError as error:
            if error.code in (Code.MESSAGE_MALFORMED, Code.MESSAGE_OVERSIZED):
                self.refuse(error)
            raise

    def _serve_call(self, lane: SocketLane, call: Call) -> None:
        which = call.WhichOneof("call")
        if not self.serving:
            raise self.refuse(over_limit("this peer's traffic for today is used up"))
        if which == "reduce" and self.reduce_handler is not None:
            self.reduce_handler(lane.peer, lane, call.reduce)
        elif which == "download" and self.blob_source is not None:
            _expect_end(lane)
            self._send_blob(lane, call.download, self.blob_source(call.download.blob_hash))
        else:
            raise SwarmError(Code.PEER_REFUSED, "nothing of that kind is served here")

    def _send_blob(
        self, lane: SocketLane, request: DownloadRequest, blob: memoryview | None
    ) -> None:
        if blob is None or request.offset > blob.nbytes:
            digest = request.blob_hash[:32].hex()
            raise SwarmError(Code.FRAGMENT_UNAVAILABLE, f"no blob {digest}")
        view = blob.cast("B")
        end = min(view.nbytes, request.offset + request.length)
        for offset in range(request.offset, end, CHUNK_BYTES):
            lane.send(Kind.CHUNK, offset, view[offset : min(end, offset + CHUNK_BYTES)])
        lane.send(Kind.END, view.nbytes)


def _expect_end(lane: SocketLane) -> None:
    deadline_s = time.monotonic() + CALL_STALL.total_seconds()
    if lane.receive_before(deadline_s).kind is not Kind.END:
        raise SwarmError(Code.MESSAGE_MALFORMED, "a download sends nothing up")


def failure_of(lane: Lane, text: bytes) -> SwarmError:
    """What a FAILURE frame of the peer says, as an error of this side.

    `FRAGMENT_UNAVAILABLE` as it is, anything else as `PEER_REFUSED` with the peer's words.
    """
    reason = text.decode(errors="replace")[:500]
    code = Code.PEER_REFUSED
    if reason.startswith(Code.FRAGMENT_UNAVAILABLE.value):
        code = Code.FRAGMENT_UNAVAILABLE
    return SwarmError(code, f"{lane.peer}: {reason}")
