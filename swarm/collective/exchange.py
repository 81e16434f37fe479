"""A member's whole data work in one attempt: contribute, reduce its own parts, collect the means.

    exchange = Exchange(plan, me, deltas, links, stall)
    registry.add(exchange)            # lets the data plane find its reducer side
    means = exchange.run()            # blocking; fragment -> mean pseudo-gradient (flat fp32)
    registry.remove(exchange)
    exchange.cancel("the round is decided")

Contributions go straight from `deltas` to the lanes and means straight from the lanes to where they
are returned; both must stay as they are until `cancel`, as slower peers are still served from them.
`deltas` are only read, so an attempt can fail and be repeated from the same values.

Each reducer is talked to over its own lanes, all at once: a thread sends the slices in the order of
the reducer's jobs, another takes the means. `cancel` may be called from any thread.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections import Counter, deque
from collections.abc import Iterator, Mapping
from datetime import timedelta
from typing import Protocol

import numpy as np

from swarm.collective.codecs import F32, get_codec
from swarm.collective.consensus import BallotKey, ballot_key
from swarm.collective.crew import Crew
from swarm.collective.plan import Job, reducer_jobs, reducers_of
from swarm.collective.reduce import (
    GOODBYE_S,
    PULSE_S,
    AttemptFailedError,
    ReduceSession,
    reason_of,
    window_of,
)
from swarm.errors import Code, SwarmError
from swarm.network.lane import Frame, Kind, Lane
from swarm.wire import collective_pb2 as pb
from swarm.wire.data_pb2 import Call, ReduceHello

LANES = {"tunnel": 4}  # to one peer, by path; one libp2p stream is slow on long links
MAX_EARLY = 32  # lanes of one peer that wait for their plan
REMEMBERED = 64  # attempts that are over
AttemptKey = tuple[bytes, int, BallotKey]


class Links(Protocol):
    """How the lanes of an attempt are had; both may raise, and block for a bounded time."""

    def open(self, peer: str) -> Lane:
        """A lane to a member."""
        ...

    def release(self, lane: Lane) -> None:
        """Both sides have said END; the lane may serve another call."""
        ...


def attempt_key(plan: pb.Plan | ReduceHello) -> AttemptKey:
    """What names an attempt on the data plane."""
    return (bytes(plan.branch), int(plan.round), ballot_key(plan.ballot))


class Exchange:
    """One attempt of one member.

    `results` may give buffers for the means (flat fp32, by fragment); others are allocated.
    """

    def __init__(
        self,
        plan: pb.Plan,
        me: str,
        deltas: Mapping[str, F32],
        links: Links,
        stall: timedelta,
        results: Mapping[str, F32] | None = None,
    ) -> None:
        self.key = attempt_key(plan)
        self._plan = plan
        self._me = me
        self._deltas = deltas
        self._links = links
        self._stall = stall
        given = results or {}
        self._results: dict[str, F32] = {
            f.fragment: given[f.fragment] if f.fragment in given else np.empty(f.numel, np.float32)
            for f in plan.fragments
            if f.parts and (me in f.receivers or me in {p.reducer for p in f.parts})
        }
        self._received = {f.fragment for f in plan.fragments if me in f.receivers}
        self.session = ReduceSession(plan, me, deltas, self._results, stall)
        self._crew = Crew()
        self._lock = threading.Lock()
        self._answers: list[_Answers] = []
        self._cancelled = ""

    @property
    def bytes_sent(self) -> int:
        """Payload bytes of all chunks so far, contributions and means."""
        return self.session.tally.sent

    @property
    def bytes_received(self) -> int:
        """Payload bytes of all chunks so far."""
        return self.session.tally.received

    def cancel(self, reason: str) -> None:
        """End the attempt; `run` raises `AttemptFailedError` without suspects.

        The others are told, so that they do not take this peer for dead.
        """
        with self._lock:
            self._cancelled = self._cancelled or reason
            waiting = list(self._answers)
        for answers in waiting:
            answers.stop()
        self._crew.interrupt(AttemptFailedError(reason, {}))
        self.session.fail(reason)

    def run(self) -> dict[str, F32]:
        """Do the attempt; the means are read-only. Raises `AttemptFailedError` naming suspects."""
        self._crew.start("reduce-compute", self.session.run)
        for reducer in reducers_of(self._plan):
            jobs = reducer_jobs(self._plan, reducer)
            business = any(self._me in j.contributors or self._me in j.receivers for j in jobs)
            if reducer != self._me and business:
                self._crew.start(f"exchange-{reducer[-6:]}", self._talk_to, reducer, jobs)
        error = self._crew.first_error()
        if error is not None:
            self.cancel(f"gave up: {error}")
            raise _merge([error, *self._crew.drain(GOODBYE_S + PULSE_S)])
        means = {name: values[:] for name, values in self._results.items()}
        for values in means.values():
            values.flags.writeable = False
        return {name: values for name, values in means.items() if name in self._received}

    # ---- talking to a reducer -------------------------------------------------------------

    def _talk_to(self, reducer: str, jobs: list[Job]) -> None:
        lane = self._open(reducer)
        lanes = min(LANES.get(lane.path, 1), len(jobs))
        for number in range(1, lanes):
            name = f"exchange-{reducer[-6:]}.{number}"
            self._crew.start(name, self._call, reducer, jobs, number, lanes, None)
        self._call(reducer, jobs, 0, lanes, lane)

    @contextlib.contextmanager
    def _blaming(self, reducer: str, answers: _Answers | None = None) -> Iterator[None]:
        """Whatever goes wrong with a lane is held against the reducer, unless this peer left it."""
        try:
            yield
        except AttemptFailedError:
            raise
        except SwarmError as error:
            left = self.session.berth.is_cut or (answers is not None and answers.left)
            suspects = {} if left else {reducer: error.code.value}
            raise AttemptFailedError(error.message, suspects) from error

    def _open(self, reducer: str) -> Lane:
        with self._blaming(reducer):
            return self._links.open(reducer)

    def _call(
        self, reducer: str, jobs: list[Job], number: int, lanes: int, opened: Lane | None
    ) -> None:
        lane = opened or self._open(reducer)
        window = window_of(jobs)
        jobs = [job for job in jobs if job.index % lanes == number]
        hello = ReduceHello(
            branch=self._plan.branch,
            round=self._plan.round,
            ballot=self._plan.ballot,
            lane=number,
            lanes=lanes,
        )
        answers = self._new_answers()
        with self._blaming(reducer, answers), self.session.berth.hold(lane):
            lane.set_stall(self._stall)
            lane.send(Kind.CALL, 0, Call(reduce=hello).SerializeToString())
            means = [job for job in jobs if self._me in job.receivers]
            name = f"exchange-receive-{reducer[-6:]}"
            self._crew.start(name, self._receive, reducer, lane, means, answers)
            try:
                self._send(lane, [j for j in jobs if self._me in j.contributors], window, answers)
            except SwarmError:
                answers.ended.wait()
                if not answers.refused:  # else the reducer itself has said what is wrong
                    raise
            finally:
                answers.ended.wait()
        if answers.complete and not self._cancelled:
            self._links.release(lane)

    def _new_answers(self) -> _Answers:
        answers = _Answers()
        with self._lock:
            self._answers.append(answers)
            if self._cancelled:
                answers.stop()
        return answers

    def _send(self, lane: Lane, jobs: list[Job], window: int, answers: _Answers) -> None:
        size = max((get_codec(j.codec).encoded_bytes(j.elements) for j in jobs), default=0)
        scratch = np.empty(0, np.uint8)
        outbox = self.session.outbox
        outbox.press()
        try:
            for job in jobs:
                if job.index >= answers.used + window:
                    outbox.release()
                    answers.wait_used(job.index - window + 1)
                    outbox.press()
                if self._cancelled:
                    break
                values = self._deltas[job.fragment][job.begin : job.end]
                codec = get_codec(job.codec)
                data = values.view(np.uint8)
                if not codec.lossless:
                    scratch = scratch if scratch.size else np.empty(size, np.uint8)
                    data = scratch[: codec.encoded_bytes(job.elements)]
                    codec.encode_into(values, data)
                lane.send(Kind.CHUNK, job.index, data.data)
                self.session.tally.add(sent=data.size)
        finally:
            outbox.release()
        if self._cancelled:
            answers.left = True
            lane.send(Kind.FAILURE, 0, self._cancelled.encode())
        else:
            lane.send(Kind.END)

    def _receive(self, reducer: str, lane: Lane, jobs: list[Job], answers: _Answers) -> None:
        try:
            with self._blaming(reducer, answers):
                self._receive_means(reducer, lane, jobs, answers)
        except AttemptFailedError:
            if not answers.refused:
                lane.cancel()
            raise
        finally:
            answers.end()

    def _receive_means(self, reducer: str, lane: Lane, jobs: list[Job], answers: _Answers) -> None:
        size = max((get_codec(j.codec).encoded_bytes(j.elements) for j in jobs), default=0)
        scratch = np.empty(0, np.uint8)
        for job in jobs:
            codec = get_codec(job.codec)
            expected = (Kind.CHUNK, job.index, codec.encoded_bytes(job.elements))
            frame = self._next(reducer, lane, expected, answers)
            values = self._results[job.fragment][job.begin : job.end]
            if codec.lossless:
                lane.read_into(values.data.cast("B"))
            else:
                scratch = scratch if scratch.size else np.empty(size, np.uint8)
                lane.read_into(scratch[: frame.size].data)
                codec.decode_into(scratch[: frame.size], values)
            self.session.tally.add(received=frame.size)
            if not np.isfinite(values).all():
                raise SwarmError(Code.NON_FINITE, f"{reducer} sent a mean that is not finite")
        self._next(reducer, lane, (Kind.END, 0, 0), answers)
        answers.complete = True

    def _next(
        self, reducer: str, lane: Lane, expected: tuple[Kind, int, int], answers: _Answers
    ) -> Frame:
        frame = lane.receive()
        while frame.kind is Kind.CHUNK and frame.size == 0:  # the reducer says how far it is
            answers.note_used(frame.index + 1)
            frame = lane.receive()
        if frame.kind is Kind.CHUNK:
            answers.note_used(frame.index + 1)
        if frame.kind is Kind.FAILURE:
            answers.refused = True
            raise AttemptFailedError(f"{reducer}: {reason_of(lane, frame)}", {})
        if frame != expected:
            raise SwarmError(Code.MESSAGE_MALFORMED, f"{reducer} sent a wrong part")
        return frame


class _Answers:
    """What has come down a lane."""

    def __init__(self) -> None:
        self.ended = threading.Event()
        self.refused = False  # the reducer said FAILURE
        self.left = False  # this peer said it; then the reducer may just hang up
        self.complete = False  # all of it, and END
        self.used = 0  # jobs that the reducer has done
        self._stopped = False
        self._changed = threading.Condition()

    def note_used(self, count: int) -> None:
        """The reducer is so far."""
        with self._changed:
            self.used = max(self.used, count)
            self._changed.notify_all()

    def wait_used(self, count: int) -> None:
        """Wait until the reducer is so far, or `stop`."""
        with self._changed:
            self._changed.wait_for(lambda: self.used >= count or self._stopped)

    def stop(self) -> None:
        """Nobody needs to wait any more."""
        with self._changed:
            self._stopped = True
            self._changed.notify_all()

    def end(self) -> None:
        """Nothing more will come."""
        self.stop()
        self.ended.set()


def _merge(errors: list[Exception]) -> AttemptFailedError:
    """One error naming every suspect; a reason with suspects comes before one without."""
    known = [e for e in errors if isinstance(e, AttemptFailedError)]
    unexpected = [e for e in errors if not isinstance(e, AttemptFailedError)]
    if unexpected:
        raise unexpected[0]
    known.sort(key=lambda e: not e.suspects)
    suspects = {peer: why for e in reversed(known) for peer, why in e.suspects.items()}
    return AttemptFailedError(known[0].message, suspects)


class ExchangeRegistry:
    """Finds the attempt that an incoming lane belongs to; a lane may come before its plan."""

    def __init__(self, patience: timedelta) -> None:
        self._patience_s = patience.total_seconds()
        self._pulse_s = min(PULSE_S, self._patience_s / 4)
        self._exchanges: dict[AttemptKey, Exchange] = {}
        self._over: deque[AttemptKey] = deque(maxlen=REMEMBERED)
        self._early: Counter[str] = Counter()
        self._changed = threading.Condition()

    def add(self, exchange: Exchange) -> None:
        """Make an attempt known."""
        with self._changed:
            self._exchanges[exchange.key] = exchange
            self._changed.notify_all()

    def remove(self, exchange: Exchange) -> None:
        """Forget an attempt; lanes that still come for it are refused at once."""
        with self._changed:
            if self._exchanges.pop(exchange.key, None) is not None:
                self._over.append(exchange.key)
                self._changed.notify_all()

    def handle(self, peer: str, lane: Lane, hello: ReduceHello) -> None:
        """The data plane's reduce handler; blocks for as long as the call lasts.

        Returns when both sides have said END. Raises a `SwarmError` otherwise, whose message is for
        the peer to be told; the lane is then of no use any more.
        """
        self._await_plan(peer, lane, attempt_key(hello)).session.serve(peer, lane, hello)

    def _await_plan(self, peer: str, lane: Lane, key: AttemptKey) -> Exchange:
        deadline_s = time.monotonic() + self._patience_s
        with self._changed:
            if self._early[peer] >= MAX_EARLY:
                raise SwarmError(Code.PEER_REFUSED, "too many lanes wait for their plan")
            self._early[peer] += 1
        try:
            while True:
                with self._changed:
                    wait_s = min(self._pulse_s, deadline_s - time.monotonic())
                    self._changed.wait_for(
                        lambda: key in self._exchanges or key in self._over, wait_s
                    )
                    if key in self._exchanges:
                        return self._exchanges[key]
                    if key in self._over or time.monotonic() >= deadline_s:
                        raise SwarmError(Code.PEER_REFUSED, "no such attempt here")
                lane.send(Kind.PULSE)
        finally:
            with self._changed:
                self._early[peer] -= 1
