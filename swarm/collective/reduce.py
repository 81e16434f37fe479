"""The reducer's side of an attempt: collect contributions, average, encode once, hand out.

`ReduceSession` owns the parts that the plan gives to this peer. Each member opens one stream to it
(`serve`); a compute thread (`run`) walks the jobs in order. Memory is bounded: at most
`WINDOW` chunks wait per contributor, and one encoded mean is shared by all receivers.

Sums are made in sorted peer order whatever the arrival order, with separate multiplications and
additions, so a result does not depend on timing or on the machine. Source: DESIGN 6, item 3.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator, Mapping
from datetime import timedelta
from typing import NoReturn

import numpy as np

from swarm.collective.codecs import F32, get_codec
from swarm.collective.plan import Job, reducer_jobs
from swarm.errors import Code, SwarmError
from swarm.wire import collective_pb2 as pb
from swarm.wire.data_pb2 import ReduceChunk, ReduceFrame

POLL_S = 0.5
WINDOW = 8  # chunks that may wait per contributor before its stream is held back

Sink = Callable[[Job, F32], None]


class AttemptFailedError(SwarmError):
    """An attempt could not finish; `suspects` maps peers to what they did."""

    def __init__(self, reason: str, suspects: Mapping[str, str]) -> None:
        super().__init__(Code.ATTEMPT_FAILED, reason)
        self.suspects = dict(suspects)


class ReduceSession:
    """The parts of one attempt that `me` reduces.

    `own` gives this peer's contribution to a fragment (flat fp32); `sink` receives the decoded mean
    of every job that this peer is a receiver of.
    """

    def __init__(
        self, plan: pb.Plan, me: str, own: Mapping[str, F32], sink: Sink, stall: timedelta
    ) -> None:
        self.jobs = reducer_jobs(plan, me)
        self._me = me
        self._own = own
        self._sink = sink
        self._stall_s = stall.total_seconds()
        self._failure: AttemptFailedError | None = None
        self._lock = threading.Lock()
        self._served: set[str] = set()
        self._finished = False
        contributors = {p for job in self.jobs for p in job.contributors} - {me}
        receivers = {p for job in self.jobs for p in job.receivers} - {me}
        self._inbox: dict[str, queue.Queue[ReduceChunk | None]] = {
            p: queue.Queue(WINDOW) for p in contributors
        }
        self._outbox: dict[str, queue.Queue[ReduceFrame | None]] = {
            p: queue.Queue() for p in receivers
        }

    @property
    def failure(self) -> AttemptFailedError | None:
        """Why the session failed, if it did."""
        return self._failure

    def fail(self, reason: str, suspects: Mapping[str, str] | None = None) -> None:
        """End the session for everybody; the first reason stands."""
        with self._lock:
            if self._failure is not None:
                return
            self._failure = AttemptFailedError(reason, suspects or {})
        for inbox in self._inbox.values():
            _force(inbox, None)
        for outbox in self._outbox.values():
            outbox.put(ReduceFrame(failure=reason))
            outbox.put(None)

    def run(self) -> None:
        """Reduce all jobs in order. Raises `AttemptFailedError`."""
        try:
            self._reduce_all()
        except Exception as error:
            self.fail(str(error))  # nobody may be left waiting for a mean
            raise

    def _reduce_all(self) -> None:
        for job in self.jobs:
            mean = self._reduce(job)
            codec = get_codec(job.codec)
            payload = codec.encode(mean)
            frame = ReduceFrame(chunk=ReduceChunk(job=job.index, data=payload))
            for receiver in job.receivers:
                if receiver != self._me:
                    self._outbox[receiver].put(frame)
            if self._me in job.receivers:
                self._sink(job, codec.decode(payload, job.elements))
        for outbox in self._outbox.values():
            outbox.put(None)
        self._finished = True

    def _reduce(self, job: Job) -> F32:
        total: F32 | None = None
        for peer, weight in zip(job.contributors, job.weights, strict=True):
            if peer == self._me:
                values = self._own[job.fragment][job.begin : job.end]
            else:
                values = self._next_chunk(peer, job)
            if not np.isfinite(values).all():
                self._abort(f"{job.fragment} of {peer} is not finite", {peer: "NON_FINITE"})
            term = values * np.float32(weight)
            total = term if total is None else np.add(total, term, out=total)
        assert total is not None, "a job has at least one contributor"
        if not np.isfinite(total).all():
            self._abort(f"the mean of {job.fragment} is not finite", {})
        return total

    def _next_chunk(self, peer: str, job: Job) -> F32:
        try:
            chunk = self._inbox[peer].get(timeout=self._stall_s)
        except queue.Empty:
            self._abort(f"{peer} sent nothing for {self._stall_s:g} s", {peer: "stalled"})
        if self._failure is not None:
            raise self._failure
        if chunk is None or chunk.job != job.index:
            self._abort(f"{peer} sent its slices in the wrong order", {peer: "protocol error"})
        try:
            return get_codec(job.codec).decode(chunk.data, job.elements)
        except SwarmError as error:
            self._abort(f"{peer}: {error.message}", {peer: error.code.value})

    def _abort(self, reason: str, suspects: Mapping[str, str]) -> NoReturn:
        self.fail(reason, suspects)
        assert self._failure is not None
        raise self._failure

    def serve(self, peer: str, frames: Iterator[ReduceFrame]) -> Iterator[ReduceFrame]:
        """One member's stream: takes its slices, yields the means it is a receiver of.

        A stream that breaks before all of the member's slices arrived fails the session and names
        the peer. A member that breaks off later is no longer needed: it only misses the result.
        """
        with self._lock:
            welcome = (peer in self._inbox or peer in self._outbox) and peer not in self._served
            self._served.add(peer)
        if not welcome:
            yield ReduceFrame(failure="not a member of this attempt, or here already")
            return
        reader = threading.Thread(
            target=self._take, args=(peer, frames), daemon=True, name=f"reduce-{peer[-6:]}"
        )
        reader.start()
        finished = False
        try:
            outbox = self._outbox.get(peer)
            while outbox is not None and (frame := self._next_frame(outbox)) is not None:
                yield frame
            if outbox is None:
                reader.join()
            finished = True
        finally:
            if not finished and reader.is_alive():
                self.fail(f"{peer} closed its stream", {peer: "connection lost"})

    def _next_frame(self, outbox: queue.Queue[ReduceFrame | None]) -> ReduceFrame | None:
        """The next answer; None at the end, also when the session ended without one."""
        while True:
            try:
                return outbox.get(timeout=POLL_S)
            except queue.Empty:
                if self._failure is not None or self._finished:
                    return None

    def _take(self, peer: str, frames: Iterator[ReduceFrame]) -> None:
        expected = sum(peer in job.contributors for job in self.jobs)
        try:
            for _ in range(expected):
                frame = next(frames)
                if frame.WhichOneof("frame") != "chunk":
                    self.fail(f"{peer}: {frame.failure}", {})
                    return
                while self._failure is None:
                    try:
                        self._inbox[peer].put(frame.chunk, timeout=POLL_S)
                        break
                    except queue.Full:
                        continue
        except Exception:  # any broken stream (gRPC raises many types) means the same here
            self.fail(f"stream of {peer} broke", {peer: "connection lost"})


def _force(target: queue.Queue[ReduceChunk | None], item: ReduceChunk | None) -> None:
    """Put `item` even when the queue is full, dropping what waits."""
    while True:
        try:
            target.put_nowait(item)
            return
        except queue.Full:
            try:
                target.get_nowait()
            except queue.Empty:
                continue
