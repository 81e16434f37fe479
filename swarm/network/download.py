"""Downloading a blob by its hash over lanes: verified, resumed at the next source.

    download_blob(plane, [record, ...], blob_hash, memoryview(buffer), timeout)

`plane` opens and takes back the lanes: the data plane, or the simulation's.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from datetime import timedelta
from typing import Any, Protocol

from swarm.errors import Code, SwarmError
from swarm.hashing import blake3
from swarm.network.calls import failure_of
from swarm.network.lane import Kind, Lane
from swarm.wire.data_pb2 import Call, DownloadRequest
from swarm.wire.membership_pb2 import PeerRecord

STALL = timedelta(seconds=10)


class Lanes(Protocol):
    """Where lanes come from."""

    def open_lane(self, record: PeerRecord, limit: timedelta) -> Lane:
        """A lane to the peer of a verified record, within `limit`."""
        ...

    def release(self, lane: Lane) -> None:
        """Take a lane back, whatever state it is in."""
        ...


def download_blob(
    lanes: Lanes,
    sources: Sequence[PeerRecord],
    blob_hash: bytes,
    into: memoryview,
    timeout: timedelta,
) -> None:
    """Fill `into` (its size is the blob's) from the first source that delivers it whole.

    `timeout` holds for each source. When one breaks off, the next resumes where it stopped; if the
    result has another hash, the last source is asked for all of it before the next one is.
    Raises `FRAGMENT_UNAVAILABLE` (nobody has it), `FRAGMENT_CORRUPT`, `PEER_REFUSED`,
    `PEER_STALLED` or `PEER_UNREACHABLE`: the error of the last source.
    """
    download = _Download(blob_hash, into.cast("B"))
    error = SwarmError(Code.FRAGMENT_UNAVAILABLE, f"no source of blob {blob_hash.hex()}")
    for record in sources:
        for _ in range(2):
            resumed = download.position > 0
            try:
                download.run(lanes, record, timeout)
                return
            except SwarmError as problem:
                error = problem
                if problem.code is Code.FRAGMENT_CORRUPT:
                    download.restart()
                if problem.code is not Code.FRAGMENT_CORRUPT or not resumed:
                    break
    raise error


class _Watch:
    """Cancels a lane at its time, whatever trickles or pulses keep its stall limit away."""

    def __init__(self, lane: Lane, limit: timedelta) -> None:
        self.rang = False
        self._lane: Lane | None = lane
        self._lock = threading.Lock()
        self._timer = threading.Timer(limit.total_seconds(), self._ring)
        self._timer.daemon = True
        self._timer.start()

    def _ring(self) -> None:
        with self._lock:
            if self._lane is not None:
                self.rang = True
                self._lane.cancel()

    def stop(self) -> None:
        """The lane may be used for something else from now on."""
        self._timer.cancel()
        with self._lock:
            self._lane = None


class _Download:
    def __init__(self, blob_hash: bytes, view: memoryview) -> None:
        self._wanted = blob_hash
        self._view = view
        self.restart()

    def restart(self) -> None:
        """Begin with the first byte again."""
        self.position = 0  # bytes that are in place and hashed
        self._digest: Any = blake3()

    def run(self, lanes: Lanes, record: PeerRecord, timeout: timedelta) -> None:
        """Fetch what is missing from one peer."""
        lane = lanes.open_lane(record, timeout)
        watch = _Watch(lane, timeout)
        try:
            lane.set_stall(min(STALL, 0.75 * timeout))  # silence is told from slowness
            self._ask(lane)
            while self._take(lane):
                pass
        except SwarmError as error:
            if not watch.rang:
                raise
            late = f"{lane.peer}: {self._progress()} after {timeout.total_seconds():g} s"
            raise SwarmError(Code.PEER_UNREACHABLE, late) from error
        finally:
            watch.stop()
            lanes.release(lane)
        if self._digest.digest() != self._wanted:
            raise SwarmError(
                Code.FRAGMENT_CORRUPT,
                f"{record.peer_id}: blob {self._wanted.hex()} has another hash, "
                f"{self._digest.hexdigest()}",
            )

    def _ask(self, lane: Lane) -> None:
        length = self._view.nbytes - self.position
        request = DownloadRequest(blob_hash=self._wanted, offset=self.position, length=length)
        lane.send(Kind.CALL, 0, Call(download=request).SerializeToString())
        lane.send(Kind.END)

    def _take(self, lane: Lane) -> bool:
        """Receive one frame; whether more are to come."""
        frame = lane.receive()
        if frame.kind is Kind.FAILURE:
            raise failure_of(lane, lane.read())
        end = self.position + frame.size
        if frame.kind is Kind.END:
            if frame.index != self._view.nbytes or self.position != self._view.nbytes:
                raise self._misfit(lane, f"its blob has {frame.index} bytes")
            return False
        if frame.kind is not Kind.CHUNK or frame.index != self.position or not frame.size:
            raise self._misfit(lane, f"got byte {frame.index}")
        if end > self._view.nbytes:
            raise self._misfit(lane, f"got bytes up to {end}")
        target = self._view[self.position : end]
        lane.read_into(target)
        self._digest.update(target)
        self.position = end
        return True

    def _misfit(self, lane: Lane, what: str) -> SwarmError:
        return SwarmError(Code.FRAGMENT_CORRUPT, f"{lane.peer}: at {self._progress()}, {what}")

    def _progress(self) -> str:
        return f"byte {self.position} of {self._view.nbytes}"
