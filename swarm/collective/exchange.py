"""A member's whole data work in one attempt: contribute, reduce its own parts, collect the means.

    exchange = Exchange(plan, me, deltas, links, stall)
    registry.add(exchange)            # lets the data plane find its reducer side
    means = exchange.run()            # blocking; fragment -> mean pseudo-gradient (flat fp32)
    registry.remove(exchange)
    exchange.cancel("the round is decided")

Contributions go straight from `deltas` to the lanes and means straight from the lanes to where they
are returned; both must stay as they are until `cancel`, as slower peers are still served from them.
`deltas` are only read, so an attempt can fail and be repeated from the same values. Means under a
lossy codec are also kept as they came: `exchange.encoded`. With `named` the hashes of the others
are computed while they come: `exchange.names()`.

Each reducer is talked to over its own lanes, all at once: a thread sends the slices in the order of
the reducer's jobs, another takes the means. `cancel` may be called from any thread.
"""

from __future__ import annotations

import threading
import time
from collections import Counter, deque
from collections.abc import Mapping
from datetime import timedelta
from typing import Protocol

import numpy as np

from swarm.collective.buffers import take
from swarm.collective.call import ReducerCall, Work
from swarm.collective.codecs import F32, U8, get_codec
from swarm.collective.consensus import BallotKey, ballot_key
from swarm.collective.crew import Crew
from swarm.collective.digests import RunningDigest
from swarm.collective.outbox import Outbox
from swarm.collective.plan import Job, reducer_jobs, reducers_of
from swarm.collective.reduce import GOODBYE_S, PULSE_S, AttemptFailedError, ReduceSession
from swarm.collective.standing import TOO_SLOW
from swarm.collective.threads import Threads
from swarm.errors import Code, SwarmError
from swarm.network.lane import Kind, Lane
from swarm.wire import collective_pb2 as pb
from swarm.wire.data_pb2 import ReduceHello

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


def _encoded_buffers(plan: pb.Plan, results: Mapping[str, F32]) -> dict[str, U8]:
    """Room for the encoded means of what has a result here and a lossy codec."""
    buffers = {}
    for fragment in plan.fragments:
        codec = get_codec(fragment.codec)
        if fragment.fragment in results and not codec.lossless:
            size = codec.encoded_bytes(fragment.numel)
            buffers[fragment.fragment] = take(-(-size // 4)).view(np.uint8)[:size]
    return buffers


class Exchange:
    """One attempt of one member.

    `results` may give buffers for the means (flat fp32, by fragment); others are allocated.
    `threads` may be shared with other attempts.

    Attributes:
        encoded: what the means of fragments with a lossy codec are decoded from, by fragment.
    """

    def __init__(
        self,
        plan: pb.Plan,
        me: str,
        deltas: Mapping[str, F32],
        links: Links,
        stall: timedelta,
        results: Mapping[str, F32] | None = None,
        threads: Threads | None = None,
        named: bool = False,
    ) -> None:
        self.key = attempt_key(plan)
        self._plan = plan
        self._me = me
        self._links = links
        given = results or {}
        self._results: dict[str, F32] = {
            f.fragment: given[f.fragment] if f.fragment in given else take(f.numel)
            for f in plan.fragments
            if f.parts and (me in f.receivers or me in {p.reducer for p in f.parts})
        }
        self.encoded = _encoded_buffers(plan, self._results)
        self._received = {f.fragment for f in plan.fragments if me in f.receivers}
        threads = threads or Threads()
        exact = self._results.keys() - self.encoded.keys() if named else set()
        self._digests = {f: RunningDigest(self._results[f].data.cast("B")) for f in exact}
        outbox = Outbox(self._results, self.encoded, self._digests)
        self.session = ReduceSession(plan, me, deltas, outbox, stall, threads)
        hello = ReduceHello(branch=plan.branch, round=plan.round, ballot=plan.ballot)
        self._work = Work(me, deltas, self.session, hello, stall)
        self._crew = Crew(threads)
        self._lock = threading.Lock()
        self._calls: list[ReducerCall] = []
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
            calls = list(self._calls)
        for call in calls:
            call.stop(reason)
        self._crew.interrupt(AttemptFailedError(reason, {}))
        self.session.fail(reason)

    def expire_slices(self) -> None:
        """End the attempt if a contributor's slices are still waited for here, and name it."""
        self.session.expire()

    def expire_means(self) -> None:
        """End the attempt if a reducer's means are still waited for here, and name it."""
        with self._lock:
            late = {call.reducer: TOO_SLOW for call in self._calls if not call.complete}
        if late:
            names = ", ".join(sorted(late))
            self._crew.interrupt(AttemptFailedError(f"{names} is too slow", late))

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

    def names(self) -> dict[str, bytes]:
        """The hashes of the means that `run` returned, if wanted, and of lossless codecs."""
        return {f: digest.finish() for f, digest in self._digests.items() if f in self._received}

    # ---- talking to a reducer -------------------------------------------------------------

    def _talk_to(self, reducer: str, jobs: list[Job]) -> None:
        first = self._open(reducer)
        lanes = min(LANES.get(first.path, 1), len(jobs))
        for number in range(1, lanes):
            name = f"exchange-{reducer[-6:]}.{number}"
            self._crew.start(name, self._call, reducer, jobs, number, lanes, None)
        self._call(reducer, jobs, 0, lanes, first)

    def _open(self, reducer: str) -> Lane:
        try:
            return self._links.open(reducer)
        except SwarmError as error:
            raise AttemptFailedError(error.message, {reducer: error.code.value}) from error

    def _call(
        self, reducer: str, jobs: list[Job], number: int, lanes: int, opened: Lane | None
    ) -> None:
        lane = opened or self._open(reducer)
        call = ReducerCall(self._work, reducer, jobs, number, lanes)
        with self._lock:
            self._calls.append(call)
            if self._cancelled:
                call.stop(self._cancelled)
        name = f"exchange-receive-{reducer[-6:]}.{number}"
        try:
            call.run(lane, lambda receive: self._crew.start(name, receive, lane))
        finally:
            self._links.release(lane)  # closes it when the call did not end well


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
                self._early -= Counter([peer])  # forgets who has none left
