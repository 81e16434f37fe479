"""The serving half of the data plane: admits, counts and limits calls, then hands them on.

Used by `swarm.network.data_plane.DataPlane` only.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, NoReturn

import grpc

from swarm.errors import Code, SwarmError
from swarm.wire.data_pb2 import DownloadChunk, DownloadRequest, ReduceFrame
from swarm.wire.data_pb2_grpc import DataPlaneServicer

logger = logging.getLogger(__name__)

CHUNK_BYTES = 2**20
MAX_FRAME_BYTES = 4 * 2**20

ReduceHandler = Callable[[str, Iterator[ReduceFrame]], Iterator[ReduceFrame]]
BlobSource = Callable[[bytes], "memoryview | None"]
Admit = Callable[[Any], str]  # metadata of a call -> authenticated peer id, or a SwarmError


class Traffic:
    """Payload bytes to and from each peer; safe to use from many threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._sent: Counter[str] = Counter()
        self._received: Counter[str] = Counter()

    def add_sent(self, peer: str, count: int) -> None:
        """Count bytes given to gRPC for `peer`."""
        with self._lock:
            self._sent[peer] += count

    def add_received(self, peer: str, count: int) -> None:
        """Count bytes that came from `peer`."""
        with self._lock:
            self._received[peer] += count

    @property
    def sent(self) -> dict[str, int]:
        """Bytes sent, by peer id."""
        with self._lock:
            return dict(self._sent)

    @property
    def received(self) -> dict[str, int]:
        """Bytes received, by peer id."""
        with self._lock:
            return dict(self._received)


class IdleWatch:
    """Ends calls in which nothing moved for `limit`, so that silent clients hold no thread."""

    def __init__(self, limit: timedelta) -> None:
        self._limit_s = limit.total_seconds()
        self._lock = threading.Lock()
        self._last_s: dict[Any, float] = {}
        self._stopped = threading.Event()
        threading.Thread(target=self._run, name="data-plane-idle", daemon=True).start()

    @contextmanager
    def watch(self, context: Any) -> Iterator[None]:
        """Watch a call for the length of the `with` block."""
        self.touch(context)
        try:
            yield
        finally:
            with self._lock:
                self._last_s.pop(context, None)

    def touch(self, context: Any) -> None:
        """Something moved in this call."""
        with self._lock:
            self._last_s[context] = time.monotonic()

    def stop(self) -> None:
        """End the watching thread."""
        self._stopped.set()

    def _run(self) -> None:
        while not self._stopped.wait(min(1.0, self._limit_s / 4)):
            oldest_s = time.monotonic() - self._limit_s
            with self._lock:
                idle = [context for context, last_s in self._last_s.items() if last_s < oldest_s]
            for context in idle:
                logger.info("ending an idle call of %s", context.peer())
                context.cancel()


class DataServicer(DataPlaneServicer):  # type: ignore[misc]
    """Answers calls of authenticated peers; counts refusals in `refused` by error code."""

    def __init__(self, admit: Admit, traffic: Traffic, idle: IdleWatch) -> None:
        self.refused: Counter[str] = Counter()
        self.reduce_handler: ReduceHandler | None = None
        self.blob_source: BlobSource | None = None
        self._admit = admit
        self._traffic = traffic
        self._idle = idle

    def Reduce(  # noqa: N802
        self, request_iterator: Iterator[ReduceFrame], context: Any
    ) -> Iterator[ReduceFrame]:
        """See proto/swarm/v1/data.proto."""
        peer = self._authenticate(context)
        handler = self.reduce_handler
        if handler is None:
            _abort(context, grpc.StatusCode.UNAVAILABLE, "not reducing")
        with self._idle.watch(context):
            frames = self._received(peer, request_iterator, context)
            try:
                for frame in handler(peer, frames):
                    self._traffic.add_sent(peer, frame.ByteSize())
                    self._idle.touch(context)
                    yield frame
            except SwarmError as error:
                _abort(context, grpc.StatusCode.ABORTED, _text(error))

    def Download(  # noqa: N802
        self, request: DownloadRequest, context: Any
    ) -> Iterator[DownloadChunk]:
        """See proto/swarm/v1/data.proto."""
        peer = self._authenticate(context)
        blob = self.blob_source(request.sha256) if self.blob_source else None
        if blob is None or request.offset > blob.nbytes:
            _abort(context, grpc.StatusCode.NOT_FOUND, f"no blob {request.sha256[:32].hex()}")
        view = blob.cast("B")
        with self._idle.watch(context):
            offset = request.offset
            while True:
                data = bytes(view[offset : offset + CHUNK_BYTES])
                yield DownloadChunk(offset=offset, total_bytes=len(view), data=data)
                self._traffic.add_sent(peer, len(data))
                self._idle.touch(context)
                offset += len(data)
                if offset >= len(view):
                    return

    def _authenticate(self, context: Any) -> str:
        try:
            return self._admit(context.invocation_metadata())
        except SwarmError as error:
            self.refused[error.code.value] += 1
            logger.info("refused a call from %s: %s", context.peer(), error)
            _abort(context, grpc.StatusCode.UNAUTHENTICATED, _text(error))

    def _received(
        self, peer: str, frames: Iterator[ReduceFrame], context: Any
    ) -> Iterator[ReduceFrame]:
        try:
            for frame in frames:
                if frame.WhichOneof("frame") == "end":
                    return
                size = frame.ByteSize()
                if size > MAX_FRAME_BYTES:
                    self.refused[Code.MESSAGE_OVERSIZED.value] += 1
                    raise SwarmError(
                        Code.MESSAGE_OVERSIZED, f"frame of {size} bytes, limit {MAX_FRAME_BYTES}"
                    )
                self._traffic.add_received(peer, size)
                self._idle.touch(context)
                yield frame
        except grpc.RpcError:
            pass
        # gRPC may end the iterator of a cancelled call as if the caller had finished.
        raise SwarmError(Code.PEER_UNREACHABLE, f"{peer}: its stream was cut")


def _text(error: SwarmError) -> str:
    return f"{error.code.value}: {error.message}"


def _abort(context: Any, status: grpc.StatusCode, details: str) -> NoReturn:
    context.abort(status, details)
    raise AssertionError("abort raises")
