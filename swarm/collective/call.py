"""One lane from a member to a reducer: its slices go up, the reducer's means come down.

    call = ReducerCall(work, reducer, jobs, number, lanes)
    crew.start(name, call.run, lane, start_receiver)    # `start_receiver(call.receive)`: its thread
    call.stop("the round is decided")                   # from any thread
    call.complete                                       # both sides have said END

Slices go straight from the deltas to the lane, means straight from the lane to where they belong.
A reducer that waits for others holds its members' slices back. It says so, and when that is over,
by a chunk without payload. So a member knows whether the network is busy with its slices; when it
is not, the means that it owes go first (`swarm.collective.outbox`).
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta

import numpy as np

from swarm.collective.codecs import F32, U8, get_codec
from swarm.collective.kernels import all_finite
from swarm.collective.plan import Job
from swarm.collective.reduce import (
    GO_ON,
    HELD,
    AttemptFailedError,
    ReduceSession,
    reason_of,
)
from swarm.errors import Code, SwarmError
from swarm.network.lane import Frame, Kind, Lane
from swarm.wire.data_pb2 import Call, ReduceHello


@dataclass(frozen=True)
class Work:
    """What all calls of an attempt share."""

    me: str
    deltas: Mapping[str, F32]
    session: ReduceSession
    hello: ReduceHello  # but for the lane's number
    stall: timedelta


def largest_payload(jobs: Sequence[Job]) -> int:
    """Bytes of the largest encoded chunk."""
    return max((get_codec(j.codec).encoded_bytes(j.elements) for j in jobs), default=1)


class ReducerCall:
    """See the module docstring; lane `number` of `lanes` carries every `lanes`-th of `jobs`."""

    def __init__(
        self, work: Work, reducer: str, jobs: Sequence[Job], number: int, lanes: int
    ) -> None:
        self.complete = False
        self._work = work
        self.reducer = reducer
        self._jobs = [job for job in jobs if job.index % lanes == number]
        self._hello = ReduceHello()
        self._hello.CopyFrom(work.hello)
        self._hello.lane, self._hello.lanes = number, lanes
        self._refused = False  # the reducer said FAILURE
        self._left = False  # this peer said it; then the reducer may just hang up
        self._sending = self._held = False
        self._pressing = False  # towards the outbox: the network is busy with slices
        self._stopped = ""
        self._lock = threading.Lock()
        self._received = threading.Event()

    def stop(self, reason: str) -> None:
        """Send no more slices; the reducer is told why."""
        self._stopped = self._stopped or reason

    @contextlib.contextmanager
    def blaming(self) -> Iterator[None]:
        """Whatever goes wrong with the lane is held against the reducer, unless this peer left."""
        try:
            yield
        except AttemptFailedError:
            raise
        except SwarmError as error:
            left = self._left or self._work.session.berth.is_cut
            suspects = {} if left else {self.reducer: error.code.value}
            raise AttemptFailedError(error.message, suspects) from error

    # ---- up -------------------------------------------------------------------------------

    def run(self, lane: Lane, start_receiver: Callable[[Callable[[Lane], None]], None]) -> None:
        """Do the whole call. Raises `AttemptFailedError`; what `receive` raises is told there."""
        with self.blaming(), self._work.session.berth.hold(lane):
            lane.set_stall(self._work.stall)
            lane.send(Kind.CALL, 0, Call(reduce=self._hello).SerializeToString())
            start_receiver(self.receive)
            try:
                self._send(lane)
            except SwarmError:
                self._received.wait()
                if not self._refused:  # else the reducer itself has said what is wrong
                    raise
            except Exception:
                lane.cancel()
                raise
            finally:
                self._received.wait()

    def _send(self, lane: Lane) -> None:
        mine = [job for job in self._jobs if self._work.me in job.contributors]
        lossy = [job for job in mine if not get_codec(job.codec).lossless]
        scratch = np.empty(largest_payload(lossy) if lossy else 0, np.uint8)
        self._press(sending=True)
        try:
            for job in mine:
                if self._stopped:
                    break
                data = self._encoded(job, scratch)
                lane.send(Kind.CHUNK, job.index, data.data)
                self._work.session.tally.add(sent=data.size)
        finally:
            self._press(sending=False)
        if self._stopped:
            self._left = True
            lane.send(Kind.FAILURE, 0, self._stopped.encode())
        else:
            lane.send(Kind.END)

    def _encoded(self, job: Job, scratch: U8) -> U8:
        values = self._work.deltas[job.fragment][job.begin : job.end]
        codec = get_codec(job.codec)
        if codec.lossless:
            return values.view(np.uint8)
        data = scratch[: codec.encoded_bytes(job.elements)]
        codec.encode_into(values, data)
        return data

    def _press(self, *, sending: bool | None = None, held: bool | None = None) -> None:
        """Note what changes; means wait as long as slices are sent that are not held back."""
        with self._lock:
            self._sending = self._sending if sending is None else sending
            self._held = self._held if held is None else held
            pressing = self._sending and not self._held
            if pressing and not self._pressing:
                self._work.session.outbox.press()
            elif self._pressing and not pressing:
                self._work.session.outbox.release()
            self._pressing = pressing

    # ---- down -----------------------------------------------------------------------------

    def receive(self, lane: Lane) -> None:
        """Take the means. Raises `AttemptFailedError`."""
        try:
            with self.blaming():
                self._receive_means(lane)
        except AttemptFailedError as error:
            if not self._refused:
                lane.cancel()
            self.stop(error.message)
            raise
        finally:
            self._received.set()

    def _receive_means(self, lane: Lane) -> None:
        outbox = self._work.session.outbox
        for job in (job for job in self._jobs if self._work.me in job.receivers):
            codec, room, values = get_codec(job.codec), outbox.payload(job), outbox.values(job)
            self._next(lane, (Kind.CHUNK, job.index, room.nbytes))
            lane.read_into(room)
            if not codec.lossless:
                codec.decode_into(outbox.encoded(job), values)
            self._work.session.tally.add(received=room.nbytes)
            if not codec.finite and not all_finite(values):
                raise SwarmError(Code.NON_FINITE, f"{self.reducer} sent a mean with NaN in it")
            outbox.filled(job)
        self._next(lane, (Kind.END, 0, 0))
        self.complete = not self._stopped

    def _next(self, lane: Lane, expected: tuple[Kind, int, int]) -> Frame:
        """The next frame, which must be this one."""
        while True:
            frame = lane.receive()
            if frame.kind is Kind.FAILURE:
                self._refused = True
                raise AttemptFailedError(f"{self.reducer}: {reason_of(lane, frame)}", {})
            if frame == expected:
                return frame
            if frame in ((Kind.CHUNK, HELD, 0), (Kind.CHUNK, GO_ON, 0)):
                self._press(held=frame.index == HELD)
            else:
                raise SwarmError(Code.MESSAGE_MALFORMED, f"{self.reducer} sent a wrong part")
