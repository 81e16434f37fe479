"""What a reducer hands out: each mean straight from the result, to every receiver at its own pace.

    outbox = Outbox(results, encoded, digests)
    outbox.publish(job)                   # the reducer: the mean is there, and is now final
    outbox.filled(job)                    # so is one that came from another reducer
    with outbox.follow() as follower:     # one per receiver's lane
        while not follower.may_send(job.index): follower.wait(limit_s)
        lane.send(Kind.CHUNK, job.index, outbox.payload(job))

Nothing is queued for a slow receiver: it is behind in a list of jobs, and takes its chunks from the
result, or under a lossy codec from the buffer of what the result is decoded from.

Contributions go first: while this peer's own senders `press`, means wait. Everybody's work depends
on contributions, nobody's on means, so an uplink that sends both at once ends idle, waiting for the
last contributions. Measured, 4 peers, 64 MiB, 100 Mbit/s: 94 % of the bandwidth bound so, 86 %
without.
"""

from __future__ import annotations

import contextlib
import queue
import threading
from collections.abc import Iterator, Mapping

import numpy as np

from swarm.collective.codecs import F32, U8, get_codec
from swarm.collective.digests import RunningDigest
from swarm.collective.plan import Job

ENDED = -1
NOTHING = np.empty(0, np.uint8)


class Follower:
    """One lane's view of the outbox."""

    def __init__(self, outbox: Outbox) -> None:
        self.news: queue.SimpleQueue[None] = queue.SimpleQueue()
        self.held = False  # whether the receiver's own slices are held back here
        self._told_held = False
        self._outbox = outbox

    @property
    def done(self) -> int:
        """How many jobs are done, `ENDED` when no more will come."""
        return self._outbox.done

    def may_send(self, index: int) -> bool:
        """Whether job `index` is done and its turn has come; also True when all has ended."""
        done = self._outbox.done
        return done == ENDED or (done > index and not self._outbox.pressed)

    def set_held(self, held: bool) -> None:
        """Note whether slices are held back; wakes up who waits when that is new."""
        if held != self.held:
            self.held = held
            self.news.put(None)

    def held_news(self) -> bool:
        """Whether `held` has changed since this was last asked."""
        changed = self.held != self._told_held
        self._told_held = self.held
        return changed

    def wait(self, limit_s: float) -> None:
        """Wait for a change, for so long at most."""
        with contextlib.suppress(queue.Empty):
            self.news.get(timeout=limit_s)


class Outbox:
    """See the module docstring. Jobs are done in order.

    `results` are flat fp32 by fragment; `encoded`, for lossy codecs, what each is decoded from;
    `digests` are of results whose hash is wanted.
    """

    def __init__(
        self,
        results: Mapping[str, F32],
        encoded: Mapping[str, U8],
        digests: Mapping[str, RunningDigest],
    ) -> None:
        self._results = results
        self._encoded = encoded
        self._digests = digests
        self._lock = threading.Lock()
        self._followers: set[Follower] = set()
        self.done = 0
        self.pressed = 0  # senders of contributions that want the uplink

    def values(self, job: Job) -> F32:
        """Where the job's mean is, or will be."""
        return self._results[job.fragment][job.begin : job.end]

    def encoded(self, job: Job) -> U8:
        """Where what the mean is decoded from is, or will be; empty under a lossless codec."""
        codec = get_codec(job.codec)
        if codec.lossless:
            return NOTHING
        begin = codec.encoded_bytes(job.begin)
        return self._encoded[job.fragment][begin : begin + codec.encoded_bytes(job.elements)]

    def publish(self, job: Job) -> None:
        """The job's mean is complete, and under a lossy codec encoded and decoded again."""
        with self._lock:
            if self.done != ENDED:
                self.done = job.index + 1
            if not self.pressed:  # else nothing may be sent yet: `release` tells them
                self._tell()

    def filled(self, job: Job) -> None:
        """The job's mean is final here: published, or received."""
        digest = self._digests.get(job.fragment)
        if digest is not None:
            digest.filled(4 * job.begin, 4 * job.end)

    def press(self) -> None:
        """A sender of contributions has something to send."""
        with self._lock:
            self.pressed += 1

    def release(self) -> None:
        """It has no more, or its receiver holds it back."""
        with self._lock:
            self.pressed -= 1
            if not self.pressed:
                self._tell()

    def _tell(self) -> None:
        for follower in self._followers:
            follower.news.put(None)

    def payload(self, job: Job) -> memoryview:
        """What is sent of a job: where it is, or will be, before it is done."""
        lossless = get_codec(job.codec).lossless
        return (self.values(job) if lossless else self.encoded(job)).data.cast("B")

    def end(self) -> None:
        """Free all followers; no more will come."""
        with self._lock:
            self.done = ENDED
            self._tell()

    @contextlib.contextmanager
    def follow(self) -> Iterator[Follower]:
        """Be told of what is done."""
        follower = Follower(self)
        with self._lock:
            self._followers.add(follower)
        try:
            yield follower
        finally:
            with self._lock:
                self._followers.discard(follower)
