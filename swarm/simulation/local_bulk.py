"""The data plane inside one process: streams are iterators, a dead peer's raise.

plane = LocalBulkHub()
bulk = plane.join(peer_id)
plane.attach(peer_id, member.registry.handle, state.blob)
plane.kill(peer_id)                    # its streams break, in both directions
plane.on_frame = lambda source, target, frame: None   # called for each frame sent upstream
"""

from __future__ import annotations

import contextlib
import queue
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta

from swarm.errors import Code, SwarmError
from swarm.wire.data_pb2 import ReduceFrame
from swarm.wire.membership_pb2 import PeerRecord

ReduceHandler = Callable[[str, Iterator[ReduceFrame]], Iterator[ReduceFrame]]
BlobSource = Callable[[bytes], memoryview | None]
POLL_S = 0.02


@dataclass
class _Served:
    reduce: ReduceHandler
    blob: BlobSource


class LocalBulkHub:
    """All peers' data planes."""

    def __init__(self) -> None:
        self.on_frame: Callable[[str, str, ReduceFrame], None] = lambda source, target, frame: None
        self.downloads = 0
        self._served: dict[str, _Served] = {}

    def join(self, peer: str) -> LocalBulk:
        """The client side of one peer."""
        return LocalBulk(self, peer)

    def attach(self, peer: str, reduce: ReduceHandler, blob: BlobSource) -> None:
        """The server side of one peer."""
        self._served[peer] = _Served(reduce, blob)

    def kill(self, peer: str) -> None:
        """Break every stream of a peer."""
        self._served.pop(peer, None)

    def served(self, peer: str) -> _Served:
        """A living peer's server side. Raises `PEER_UNREACHABLE`."""
        if peer not in self._served:
            raise SwarmError(Code.PEER_UNREACHABLE, f"{peer}: connection refused")
        return self._served[peer]


class LocalBulk:
    """One peer's client; has the methods of the real data plane that the collective uses."""

    def __init__(self, hub: LocalBulkHub, peer: str) -> None:
        self._hub = hub
        self._peer = peer

    def reduce_stream(
        self, record: PeerRecord, frames: Iterator[ReduceFrame], timeout: timedelta
    ) -> LocalStream:
        """Open a reduce stream to a peer."""
        return LocalStream(self._hub, self._peer, record.peer_id, frames)

    def download_blob(
        self, sources: Sequence[PeerRecord], sha256: bytes, into: memoryview, timeout: timedelta
    ) -> None:
        """Copy a blob of the first peer that has it. Raises `FRAGMENT_UNAVAILABLE`."""
        for record in sources:
            with contextlib.suppress(SwarmError):
                blob = self._hub.served(record.peer_id).blob(sha256)
                if blob is not None and len(blob) == len(into):
                    self._hub.downloads += 1
                    into[:] = blob
                    return
        raise SwarmError(Code.FRAGMENT_UNAVAILABLE, f"nobody has {sha256.hex()}")


class LocalStream:
    """A reduce stream; see `swarm.collective.exchange.Stream`."""

    def __init__(
        self, hub: LocalBulkHub, source: str, target: str, frames: Iterator[ReduceFrame]
    ) -> None:
        self._hub = hub
        self._source = source
        self._target = target
        self._frames = frames
        self._served = hub.served(target)
        self._answers: queue.Queue[ReduceFrame | BaseException | None] = queue.Queue()
        self._cancelled = threading.Event()
        threading.Thread(target=self._run, daemon=True).start()

    def cancel(self) -> None:
        """Close both directions."""
        self._cancelled.set()

    def _broken(self) -> bool:
        alive = self._hub._served
        return (
            self._cancelled.is_set()
            or alive.get(self._target) is not self._served
            or self._source not in alive
        )

    def _upstream(self) -> Iterator[ReduceFrame]:
        for frame in self._frames:
            self._hub.on_frame(self._source, self._target, frame)
            if self._broken():
                raise SwarmError(Code.PEER_UNREACHABLE, "connection reset")
            yield frame

    def _run(self) -> None:
        try:
            for frame in self._served.reduce(self._source, self._upstream()):
                self._answers.put(frame)
            self._answers.put(None)
        except BaseException as error:
            self._answers.put(error)

    def __iter__(self) -> Iterator[ReduceFrame]:
        while True:
            try:
                answer = self._answers.get(timeout=POLL_S)
            except queue.Empty:
                if self._broken():
                    raise SwarmError(Code.PEER_UNREACHABLE, "connection reset") from None
                continue
            if answer is None:
                return
            if isinstance(answer, BaseException):
                raise answer
            yield answer
