"""A member's whole data work in one attempt: contribute, reduce its own parts, collect the means.

    exchange = Exchange(plan, me, deltas, open_stream, stall)
    registry.add(exchange)            # lets the data plane find its reducer side
    means = exchange.run()            # blocking; fragment -> mean pseudo-gradient (flat fp32)

The plan's local contributions are only read, so an attempt can fail and be repeated from the same
values. `cancel` may be called from any thread.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from datetime import timedelta
from typing import Protocol

import numpy as np

from swarm.collective.codecs import F32, get_codec
from swarm.collective.consensus import BallotKey, ballot_key
from swarm.collective.plan import Job, reducer_jobs, reducers_of
from swarm.collective.reduce import AttemptFailedError, ReduceSession
from swarm.errors import SwarmError
from swarm.wire import collective_pb2 as pb
from swarm.wire.data_pb2 import ReduceChunk, ReduceFrame, ReduceHello

GOODBYE_S = 1.0  # for telling the others why, before the streams are cut
AttemptKey = tuple[bytes, int, BallotKey]


class Stream(Protocol):
    """An open reduce stream: iterate the answers, or cancel it."""

    def __iter__(self) -> Iterator[ReduceFrame]: ...

    def cancel(self) -> None:
        """Close both directions at once."""
        ...


OpenStream = Callable[[str, Iterator[ReduceFrame]], Stream]


def attempt_key(plan: pb.Plan | ReduceHello) -> AttemptKey:
    """What names an attempt in the frames of the data plane."""
    return (bytes(plan.branch), int(plan.round), ballot_key(plan.ballot))


class Exchange:
    """One attempt of one member. `open_stream(peer, frames)` opens a stream to a reducer."""

    def __init__(
        self,
        plan: pb.Plan,
        me: str,
        deltas: Mapping[str, F32],
        open_stream: OpenStream,
        stall: timedelta,
    ) -> None:
        self.key = attempt_key(plan)
        self._plan = plan
        self._me = me
        self._deltas = deltas
        self._open_stream = open_stream
        self.means: dict[str, F32] = {
            f.fragment: np.empty(f.numel, dtype=np.float32)
            for f in plan.fragments
            if me in f.receivers and f.parts
        }
        self.session = ReduceSession(plan, me, deltas, self._keep, stall)
        self._streams: list[Stream] = []
        self._lock = threading.Lock()
        self._cancelled = ""
        self._ended: Future[None] = Future()  # fails when the attempt is cancelled

    def _keep(self, job: Job, values: F32) -> None:
        self.means[job.fragment][job.begin : job.end] = values

    def cancel(self, reason: str) -> None:
        """End the attempt; `run` raises `AttemptFailedError` without suspects.

        The others are told, so that they do not take this peer for dead.
        """
        with self._lock:
            self._cancelled = self._cancelled or reason
            if not self._ended.done():
                self._ended.set_exception(AttemptFailedError(reason, {}))
        self.session.fail(reason)

    def _close_streams(self) -> None:
        with self._lock:
            streams = list(self._streams)
        for stream in streams:
            stream.cancel()

    def run(self) -> dict[str, F32]:
        """Do the attempt. Raises `AttemptFailedError` naming the suspects."""
        reducers = [r for r in reducers_of(self._plan) if r != self._me and self._has_business(r)]
        with ThreadPoolExecutor(len(reducers) + 1, thread_name_prefix="exchange") as pool:
            work: list[Future[None]] = [pool.submit(self.session.run)]
            work += [pool.submit(self._talk_to, reducer) for reducer in reducers]
            pending = set(work)
            errors: list[BaseException] = []
            while pending and not errors:
                done, rest = wait({*pending, self._ended}, return_when=FIRST_COMPLETED)
                pending = rest - {self._ended}
                errors = [e for f in done if (e := f.exception()) is not None]
            if errors:
                self.cancel(f"gave up: {errors[0]}")
                wait(pending, timeout=GOODBYE_S)
                self._close_streams()
                wait(pending)
                errors += [e for f in pending if (e := f.exception()) is not None]
        if errors:
            raise _merge(errors)
        return self.means

    def _has_business(self, reducer: str) -> bool:
        return any(
            self._me in job.contributors or self._me in job.receivers
            for job in reducer_jobs(self._plan, reducer)
        )

    def _talk_to(self, reducer: str) -> None:
        jobs = reducer_jobs(self._plan, reducer)
        try:
            stream = self._open_stream(reducer, self._contribution(jobs))
            with self._lock:
                self._streams.append(stream)
            self._collect(reducer, [job for job in jobs if self._me in job.receivers], stream)
        except AttemptFailedError:
            raise
        except SwarmError as error:
            raise AttemptFailedError(error.message, {reducer: error.code.value}) from error
        except Exception as error:  # the transport's own error types
            raise AttemptFailedError(f"stream to {reducer}: {error}", {reducer: "lost"}) from error

    def _contribution(self, jobs: list[Job]) -> Iterator[ReduceFrame]:
        plan = self._plan
        yield ReduceFrame(
            hello=ReduceHello(branch=plan.branch, round=plan.round, ballot=plan.ballot)
        )
        for job in jobs:
            if self._cancelled:
                yield ReduceFrame(failure=self._cancelled)
                return
            if self._me in job.contributors:
                values = self._deltas[job.fragment][job.begin : job.end]
                data = get_codec(job.codec).encode(values)
                yield ReduceFrame(chunk=ReduceChunk(job=job.index, data=data))

    def _collect(self, reducer: str, jobs: list[Job], stream: Stream) -> None:
        expected = iter(jobs)
        for frame in stream:
            if frame.WhichOneof("frame") != "chunk":
                raise AttemptFailedError(f"{reducer}: {frame.failure}", {})
            job = next(expected, None)
            if job is None or job.index != frame.chunk.job:
                suspects = {reducer: "protocol error"}
                raise AttemptFailedError(f"{reducer} sent a wrong part", suspects)
            self._keep(job, get_codec(job.codec).decode(frame.chunk.data, job.elements))
        if next(expected, None) is not None:
            raise AttemptFailedError(f"{reducer} ended early", {reducer: "connection lost"})


def _merge(errors: list[BaseException]) -> AttemptFailedError:
    """One error naming every suspect; a reason with suspects comes before one without."""
    known = [e for e in errors if isinstance(e, AttemptFailedError)]
    unexpected = [e for e in errors if not isinstance(e, AttemptFailedError)]
    if unexpected:
        raise unexpected[0]
    known.sort(key=lambda e: not e.suspects)
    suspects = {peer: why for e in reversed(known) for peer, why in e.suspects.items()}
    return AttemptFailedError(known[0].message, suspects)


class ExchangeRegistry:
    """Finds the attempt that an incoming stream belongs to; a stream may come before its plan."""

    def __init__(self, patience: timedelta) -> None:
        self._patience_s = patience.total_seconds()
        self._exchanges: dict[AttemptKey, Exchange] = {}
        self._changed = threading.Condition()

    def add(self, exchange: Exchange) -> None:
        """Make an attempt known."""
        with self._changed:
            self._exchanges[exchange.key] = exchange
            self._changed.notify_all()

    def remove(self, exchange: Exchange) -> None:
        """Forget an attempt."""
        with self._changed:
            self._exchanges.pop(exchange.key, None)

    def handle(self, peer: str, frames: Iterator[ReduceFrame]) -> Iterator[ReduceFrame]:
        """The data plane's reduce handler."""
        first = next(frames, None)
        if first is None or first.WhichOneof("frame") != "hello":
            yield ReduceFrame(failure="the first frame must be a hello")
            return
        key = attempt_key(first.hello)
        with self._changed:
            self._changed.wait_for(lambda: key in self._exchanges, self._patience_s)
            exchange = self._exchanges.get(key)
        if exchange is None:
            yield ReduceFrame(failure="no such attempt here")
            return
        yield from exchange.session.serve(peer, frames)
