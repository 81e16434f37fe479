"""Whether a process leaks, judged from what it holds in each round while nothing is in flight.

    vitals = Vitals()                            # in the process
    sample = vitals.sample(round_index)          # at rest: after a round, before the next offer
    problems = growth(samples)                   # in the test; None: too few to judge

A leak goes on in each round; a plateau is reached and kept. So after the warm-up, which lasts until
what is kept for a time (records of the DHT, lanes) has had that time, what is held in the later
half of the rounds is compared with the earlier half. Of each half the lower quartile counts: what
an attempt that is just being ended still holds can only add. More may be held by a fixed slack,
which is what differs when nothing leaks, and by a little for each round: a commit that is
remembered, for example. A longer soak therefore finds smaller leaks: with n rounds between the
middles of the halves those of (slack / n + per round) and above.

Resident memory itself does not tell: most of what it grows by is free. With up to eight arenas for
each core, glibc's allocator keeps more of it for some minutes, until every arena has had its
largest attempt. It is held to a ceiling instead.
"""

from __future__ import annotations

import asyncio
import ctypes
import os
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from swarm.collective import buffers

MIB = 2**20
WARM_UP = 0.25  # of the samples of a process, and at least
WARM_UP_S = 60.0  # of its life
LEAST_SAMPLES = 20  # after the warm-up, of a process that is judged
Sample = Mapping[str, float]


@dataclass(frozen=True)
class Allowed:
    """How much more may be held in the later half."""

    slack: float
    per_round: float


# Lanes stay open for up to two minutes after their last call, with a thread each at the acceptor;
# how many there are depends on who was harmed lately.
ALLOWED = {
    "live_mib": Allowed(10.0, 0.1),  # the state of the soak's toy has 7 MiB, an update 3.5 MiB
    "blocks": Allowed(6000, 100),  # Python's small objects; about a hundred for a commit
    "fds": Allowed(16, 0.1),
    "threads": Allowed(16, 0.1),
    "tasks": Allowed(16, 0.1),
}
CEILINGS = {"peak_mib": 320.0}  # 150 are usual


class _Mallinfo2(ctypes.Structure):
    _fields_ = [
        (name, ctypes.c_size_t)
        for name in (
            *("arena", "ordblks", "smblks", "hblks", "hblkhd"),
            *("usmblks", "fsmblks", "uordblks", "fordblks", "keepcost"),
        )
    ]


class Vitals:
    """Measures its own process (Linux, glibc 2.33 or later)."""

    def __init__(self) -> None:
        self._mallinfo2 = ctypes.CDLL(None).mallinfo2
        self._mallinfo2.restype = _Mallinfo2
        self._began_s = time.monotonic()

    def sample(self, round_index: int) -> dict[str, float]:
        """What this process holds now; to be called in its event loop."""
        status = dict(
            line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines()
        )
        anonymous, peak = (int(status[name].split()[0]) / 1024 for name in ("RssAnon", "VmHWM"))
        free = self._mallinfo2().fordblks
        # The pool has a limit and a test of its own.
        pooled = sum(memory.nbytes for memory in list(buffers._free.values()))
        return {
            "round": round_index,
            "age_s": time.monotonic() - self._began_s,
            "live_mib": anonymous - (free + pooled) / MIB,
            "blocks": sys.getallocatedblocks(),
            "fds": len(os.listdir("/proc/self/fd")),
            "threads": threading.active_count(),
            "tasks": len(asyncio.all_tasks()),
            "peak_mib": peak,
        }


def growth(samples: Sequence[Sample]) -> list[str] | None:
    """What is held more and more, or too much of; None when there are too few samples to judge."""
    found = [
        f"{name} reached {most:.0f}, more than {ceiling:g}"
        for name, ceiling in CEILINGS.items()
        if (most := max((sample[name] for sample in samples), default=0.0)) > ceiling
    ]
    warm = [s for s in samples[int(len(samples) * WARM_UP) :] if s["age_s"] >= WARM_UP_S]
    if len(warm) < LEAST_SAMPLES:
        return found or None
    earlier, later = warm[: len(warm) // 2], warm[len(warm) // 2 :]
    rounds = max(0.0, _mean_round(later) - _mean_round(earlier))
    for name, allowed in ALLOWED.items():
        before, after = _held(name, earlier), _held(name, later)
        limit = allowed.slack + allowed.per_round * rounds
        if after - before > limit:
            found.append(
                f"{name} grows: {before:.1f}, then {after:.1f} after {rounds:.0f} rounds, "
                f"{limit:.1f} more are allowed: {[round(s[name], 1) for s in samples]}"
            )
    return found


def _held(name: str, samples: Sequence[Sample]) -> float:
    return float(np.quantile([sample[name] for sample in samples], 0.25))


def _mean_round(samples: Sequence[Sample]) -> float:
    return float(np.mean([sample["round"] for sample in samples]))
