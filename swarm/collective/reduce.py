"""The reducer's side of an attempt: collect contributions, combine them, hand out the results.

`ReduceSession` owns the parts that the plan gives to this peer. Each member opens lanes to it
(`serve`); a compute thread (`run`) walks the jobs in order. Memory beyond the results and their
encodings is a few chunks per contributor (`swarm.collective.inbox`), and nothing per receiver
(`swarm.collective.outbox`). How chunks are combined: `swarm.collective.kernels`.

Under a lossy codec every contribution goes through it, this peer's own too: the result does not
depend on who reduces what.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from datetime import timedelta
from typing import NoReturn

import numpy as np

from swarm.collective.codecs import F32, U8, Codec, get_codec
from swarm.collective.crew import Berth
from swarm.collective.inbox import Inbox, Slot
from swarm.collective.kernels import Kernel, WeightedSum, all_finite, make_kernel
from swarm.collective.norms import NORM_EXCEEDED, NormExceededError, NormWatch
from swarm.collective.outbox import ENDED, Follower, Outbox
from swarm.collective.plan import Job, reducer_jobs
from swarm.collective.standing import TOO_SLOW
from swarm.collective.threads import Threads
from swarm.errors import Code, SwarmError
from swarm.network.lane import Frame, Kind, Lane
from swarm.wire import collective_pb2 as pb
from swarm.wire.data_pb2 import ReduceHello

SLOTS = 3  # chunks of one lane: one is read, one waits, one is used
MAX_LANES = 16  # of one peer
PULSE_S = 1.0  # at most; a quarter of the stall limit where that is less
GOODBYE_S = 1.0  # for telling the others why, before the lanes are cut
GO_ON, HELD = 0, 1  # index of a chunk without payload: what happens to the member's slices
MAX_REASON = 300  # characters of a peer's words


class AttemptFailedError(SwarmError):
    """An attempt could not finish; `suspects` maps peers to what they did."""

    def __init__(self, reason: str, suspects: Mapping[str, str]) -> None:
        super().__init__(Code.ATTEMPT_FAILED, reason)
        self.suspects = dict(suspects)

    def again(self) -> AttemptFailedError:
        """See `SwarmError.again`."""
        return AttemptFailedError(self.message, self.suspects)


class Tally:
    """Payload bytes of an attempt's chunks; safe to use from many threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.sent = 0
        self.received = 0

    def add(self, *, sent: int = 0, received: int = 0) -> None:
        """Count a chunk."""
        with self._lock:
            self.sent += sent
            self.received += received


class ReduceSession:
    """The parts of one attempt that `me` reduces.

    `own` gives this peer's contribution to a fragment (flat fp32), `outbox` is where the means go.
    """

    def __init__(
        self,
        plan: pb.Plan,
        me: str,
        own: Mapping[str, F32],
        outbox: Outbox,
        stall: timedelta,
        threads: Threads,
    ) -> None:
        self.jobs = reducer_jobs(plan, me)
        self.berth = Berth()
        self.tally = Tally()
        self._me = me
        self._own = own
        self._stall = stall
        self._threads = threads
        self._pulse_s = min(PULSE_S, stall.total_seconds() / 4)
        self._deadline_s = time.monotonic() + stall.total_seconds()  # for lanes to come
        self._failure: AttemptFailedError | None = None
        self._lock = threading.Lock()
        self._served: set[tuple[str, int]] = set()
        self._awaited = ""  # whose slice is waited for
        self._decoded = np.empty(0, np.float32)
        self._members = {p for j in self.jobs for p in (*j.contributors, *j.receivers)} - {me}
        self.outbox = outbox
        self._watch = NormWatch(plan)
        largest = max((job.elements for job in self.jobs), default=0)
        mine = {job.fragment for job in self.jobs}
        self._kernels: dict[str, Kernel] = {
            f.fragment: make_kernel(f, largest) for f in plan.fragments if f.fragment in mine
        }
        size = max((get_codec(j.codec).encoded_bytes(j.elements) for j in self.jobs), default=0)
        contributors = {p for job in self.jobs for p in job.contributors} - {me}
        self._inboxes = {p: Inbox(SLOTS, size) for p in contributors}
        self._encoded = np.empty(size, np.uint8)  # this peer's own chunk

    @property
    def failure(self) -> AttemptFailedError | None:
        """Why the session failed, if it did."""
        return self._failure

    def norms(self) -> list[pb.PartNorm]:
        """Sums of squares of what was reduced here, where norms were declared."""
        return self._watch.report()

    def fail(self, reason: str, suspects: Mapping[str, str] | None = None) -> None:
        """End the session for everybody, from any thread; the first reason stands.

        Members are told the reason; lanes that still live after `GOODBYE_S` are cut.
        """
        with self._lock:
            if self._failure is not None:
                return
            self._failure = AttemptFailedError(reason, suspects or {})
        for inbox in self._inboxes.values():
            inbox.close()
        self.outbox.end()
        self.berth.cut_after(GOODBYE_S)

    def expire(self) -> None:
        """The time is over: if somebody's slices are waited for, end the session and name him."""
        peer = self._awaited
        if peer:
            self.fail(f"{peer} is too slow", {peer: TOO_SLOW})

    def _abort(self, reason: str, suspects: Mapping[str, str]) -> NoReturn:
        self.fail(reason, suspects)
        assert self._failure is not None
        raise self._failure.again()

    # ---- computing ------------------------------------------------------------------------

    def run(self) -> None:
        """Reduce all jobs in order. Raises `AttemptFailedError`."""
        try:
            with np.errstate(all="ignore"):  # what is not finite is looked for, and named
                for job in self.jobs:
                    self._reduce(job)
                    self.outbox.publish(job)
                    self.outbox.filled(job)
        except Exception as error:
            self.fail(str(error))  # nobody may be left waiting for a mean
            raise

    def _reduce(self, job: Job) -> None:
        """Fill in the mean and what it is decoded from."""
        held: dict[str, Slot] = {}
        if not self._at_once(job, held):
            self._step_by_step(job, held)
        for peer, slot in held.items():
            self._inboxes[peer].give_back(slot)

    def _at_once(self, job: Job, held: dict[str, Slot]) -> bool:
        """False when it can not be done so, or for a reason still to be found."""
        kernel = self._kernels[job.fragment]
        if not isinstance(kernel, WeightedSum) or self._watch.watches(job.fragment):
            return False
        for peer in job.contributors:
            if peer != self._me:
                held[peer] = self._take(peer, job)
        contributions = [
            self._own[job.fragment][job.begin : job.end] if p == self._me else held[p].data
            for p in job.contributors
        ]
        own = job.contributors.index(self._me) if self._me in job.contributors else -1
        values, encoded = self.outbox.values(job), self.outbox.encoded(job)
        return kernel.at_once(get_codec(job.codec), contributions, own, values, encoded)

    def _step_by_step(self, job: Job, held: dict[str, Slot]) -> None:
        codec, kernel = get_codec(job.codec), self._kernels[job.fragment]
        total = self.outbox.values(job)
        kernel.begin(total)
        for position, peer in enumerate(job.contributors):
            if peer == self._me:
                values = self._own_values(codec, job)
            else:
                if peer not in held:
                    held[peer] = self._take(peer, job)
                values = self._decode(peer, codec, held[peer].data, job)
            if kernel.hides_infinities and not all_finite(values):
                self._not_finite(job, peer)
            kernel.add(position, values)
            try:
                self._watch.add(job.fragment, peer, values)
            except NormExceededError as error:
                self._find_culprit(job, codec, held)
                self._abort(str(error), {peer: NORM_EXCEEDED})
        kernel.finish()
        if not all_finite(total):
            self._find_culprit(job, codec, held)
            self._abort(f"the mean of {job.fragment} is not finite", {})
        if not codec.lossless:  # what the codec loses of the mean is lost here too
            encoded = self.outbox.encoded(job)
            codec.encode_into(total, encoded)
            codec.decode_into(encoded, total)

    def _take(self, peer: str, job: Job) -> Slot:
        self._awaited = peer
        slot = self._inboxes[peer].take(job.index, self._deadline_s)
        self._awaited = ""
        if self._failure is not None:
            raise self._failure.again()
        if slot is None:
            self._abort(f"{peer} did not connect", {peer: "did not connect"})
        return slot

    def _own_values(self, codec: Codec, job: Job) -> F32:
        """This peer's contribution, through the codec as everybody else's."""
        values = self._own[job.fragment][job.begin : job.end]
        if codec.lossless:
            return values
        data = self._encoded[: codec.encoded_bytes(job.elements)]
        codec.encode_into(values, data)
        return self._decode(self._me, codec, data, job)

    def _decode(self, peer: str, codec: Codec, data: U8, job: Job) -> F32:
        if codec.lossless:
            return data.view(np.float32)
        if self._decoded.size < job.elements:
            self._decoded = np.empty(job.elements, np.float32)
        values = self._decoded[: job.elements]
        try:
            codec.decode_into(data, values)
        except SwarmError as error:
            self._abort(f"{job.fragment} of {peer}: {error.message}", {peer: error.code.value})
        return values

    def _find_culprit(self, job: Job, codec: Codec, held: Mapping[str, Slot]) -> None:
        """Abort if a contribution is not finite; finite ones may still have an infinite sum."""
        if self._me in job.contributors:
            if not all_finite(self._own[job.fragment][job.begin : job.end]):
                self._not_finite(job, self._me)
        for peer, slot in held.items():
            if not all_finite(self._decode(peer, codec, slot.data, job)):
                self._not_finite(job, peer)

    def _not_finite(self, job: Job, peer: str) -> NoReturn:
        self._abort(f"{job.fragment} of {peer} is not finite", {peer: Code.NON_FINITE.value})

    # ---- serving --------------------------------------------------------------------------

    def serve(self, peer: str, lane: Lane, hello: ReduceHello) -> None:
        """One lane of a member: takes its slices, sends the means it is a receiver of.

        Returns when both sides have said END. Raises a `SwarmError` when the lane is of no use any
        more: `PEER_REFUSED` for one that has no business here, `AttemptFailedError` when the
        session failed, or the lane's own error. A lane that breaks before all of the member's
        slices came fails the session and names the peer. A member that breaks off later is no
        longer needed: it only misses the result.
        """
        jobs = self._admit(peer, hello)
        lane.set_stall(self._stall)
        with self.berth.hold(lane), self.outbox.follow() as follower:
            wanted = [job for job in jobs if peer in job.receivers]
            sent = self._threads.start(
                f"reduce-send-{peer[-6:]}", lambda: self._hand_out(lane, wanted, follower)
            )
            try:
                expected = [j for j in jobs if peer in j.contributors]
                self._collect(peer, lane, hello.lane, expected, follower)
            finally:
                sent.wait()
        if self._failure is not None:
            raise self._failure.again()

    def _admit(self, peer: str, hello: ReduceHello) -> list[Job]:
        """The jobs of a lane that is welcome."""
        key = (peer, hello.lane)
        numbered = 0 < hello.lanes <= MAX_LANES and hello.lane < hello.lanes
        with self._lock:
            if peer not in self._members or not numbered or key in self._served:
                raise SwarmError(Code.PEER_REFUSED, "not a member of this attempt, or here already")
            self._served.add(key)
        if peer in self._inboxes and not self._inboxes[peer].join(hello.lane, hello.lanes):
            if self._failure is not None:
                raise self._failure.again()
            raise SwarmError(Code.PEER_REFUSED, "another number of lanes than before")
        return [job for job in self.jobs if job.index % hello.lanes == hello.lane]

    def _collect(
        self, peer: str, lane: Lane, number: int, jobs: list[Job], follower: Follower
    ) -> None:
        try:
            for job in jobs:
                if not self._collect_one(peer, lane, number, job, follower):
                    break
        except AttemptFailedError:
            raise
        except SwarmError as error:
            reason = "stalled" if error.code is Code.PEER_STALLED else "connection lost"
            if error.code in (Code.MESSAGE_MALFORMED, Code.MESSAGE_OVERSIZED):
                reason = Code.MESSAGE_MALFORMED.value
            self.fail(f"lane of {peer}: {error.message}", {peer: reason})
            raise
        if drain(lane) is Kind.FAILURE:
            lane.cancel()  # the peer has given up, and wants no more means

    def _collect_one(
        self, peer: str, lane: Lane, number: int, job: Job, follower: Follower
    ) -> bool:
        """Take one slice. False when there will be no more."""
        frame = lane.receive()
        if frame.kind is Kind.FAILURE:
            self.fail(f"{peer}: {reason_of(lane, frame)}", {})
            raise AttemptFailedError(f"{peer} gave up", {})
        size = get_codec(job.codec).encoded_bytes(job.elements)
        if frame != (Kind.CHUNK, job.index, size):
            discard(lane, frame)
            self.fail(f"{peer} sent a wrong slice", {peer: "protocol error"})
            return False
        slot = self._inboxes[peer].free_slot(number, follower.set_held)
        if slot is None:
            discard(lane, frame)
            return False
        lane.read_into(slot.fit(size))
        self.tally.add(received=size)
        self._inboxes[peer].put(number, slot)
        return True

    def _hand_out(self, lane: Lane, jobs: list[Job], follower: Follower) -> None:
        try:
            for job in jobs:
                self._await_turn(lane, job, follower)
                if follower.done == ENDED:
                    break
                payload = self.outbox.payload(job)
                lane.send(Kind.CHUNK, job.index, payload)
                self.tally.add(sent=payload.nbytes)
            if self._failure is not None:
                lane.send(Kind.FAILURE, 0, self._failure.message.encode())
            else:
                lane.send(Kind.END)
        except SwarmError:
            lane.cancel()  # the reader of this lane says what that means

    def _await_turn(self, lane: Lane, job: Job, follower: Follower) -> None:
        """Wait until a mean can be sent; meanwhile the member is told that this peer lives."""
        silent_s = time.monotonic()
        while True:
            if follower.held_news():  # told by a chunk without payload
                lane.send(Kind.CHUNK, HELD if follower.held else GO_ON)
            elif follower.may_send(job.index):
                return
            elif time.monotonic() - silent_s >= self._pulse_s:
                lane.send(Kind.PULSE)
                silent_s = time.monotonic()
            else:
                follower.wait(self._pulse_s)


def reason_of(lane: Lane, frame: Frame) -> str:
    """The words of a FAILURE frame."""
    return lane.read().decode(errors="replace")[:MAX_REASON] if frame.size else "gave up"


def discard(lane: Lane, frame: Frame) -> None:
    """Read a frame's payload for nothing."""
    if frame.size:
        lane.read()


def drain(lane: Lane) -> Kind:
    """Read on, for nothing, until the peer has said END or FAILURE; returns which.

    A lane that is closed with unread bytes in it would lose what was sent to the peer last.
    """
    while True:
        frame = lane.receive()
        discard(lane, frame)
        if frame.kind in (Kind.END, Kind.FAILURE):
            return frame.kind
