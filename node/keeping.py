"""Keeping the fragments on disk, so that a run outlives the end of all its nodes at once.

    keeper = FragmentKeeper(store, status)
    keeper.note(fragments, complete=True)      # after every commit; returns at once
    await keeper.run()                         # writes what was noted, until cancelled
    await keeper.finish()                      # the last save

The commit itself is on disk before its fragments are, so the time between the two is what a kill
of all nodes can cost: small models are written after every commit, large ones at intervals.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import timedelta

from node.daemon_status import Status
from node.node_files import save_fragments
from swarm.collective.state import FragmentState
from swarm.errors import SwarmError
from swarm.experts.store import FragmentStore

SAVE_AT_ONCE_BYTES = 256 * 10**6
SAVE_EVERY = timedelta(seconds=20)  # when there is more than that
KEPT_GENERATIONS = 2


@dataclass(frozen=True)
class Snapshot:
    """Fragments of one commit; `complete` when they are all that this node keeps of it."""

    fragments: Mapping[str, FragmentState]
    complete: bool

    @property
    def hashes(self) -> frozenset[bytes]:
        """What the blobs of this generation are called."""
        states = self.fragments.values()
        return frozenset(h for s in states for h in (s.theta_hash, s.momentum_hash))

    @property
    def total_bytes(self) -> int:
        """Parameters and momentum."""
        return sum(s.theta.nbytes + s.momentum.nbytes for s in self.fragments.values())


class FragmentKeeper:
    """See the module docstring. One save runs at a time; of what waits, the newest is written."""

    def __init__(
        self, store: FragmentStore, status: Status, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._store = store
        self._status = status
        self._clock = clock
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="saving")
        self._newest: Snapshot | None = None
        self._saved: Snapshot | None = None
        self._noted = asyncio.Event()
        self._started_s = -SAVE_EVERY.total_seconds()
        self._generations: deque[frozenset[bytes]] = deque(maxlen=KEPT_GENERATIONS)

    def note(self, fragments: Mapping[str, FragmentState], *, complete: bool) -> None:
        """These fragments are what should be on disk; their arrays must not change any more."""
        snapshot, newest = Snapshot(dict(fragments), complete), self._newest
        if newest is None or (newest.hashes, newest.complete) != (snapshot.hashes, complete):
            self._newest = snapshot
            self._noted.set()

    async def run(self) -> None:
        """Write what is noted. A full disk is said once, and tried again at intervals."""
        while True:
            await self._noted.wait()
            await asyncio.sleep(self._pause_s())
            self._noted.clear()
            try:
                await self._save_newest()
            except SwarmError as error:
                self._status.note_trouble("saving the fragments", error)
                await asyncio.sleep(SAVE_EVERY.total_seconds())
                self._noted.set()
            else:
                self._status.note_trouble("saving the fragments", None)

    async def finish(self) -> None:
        """Wait for the running save, then write what is newer. Raises `DISK_FULL`."""
        try:
            await self._save_newest()
        finally:
            self._thread.shutdown(wait=False)

    def _pause_s(self) -> float:
        assert self._newest is not None
        if self._newest.total_bytes <= SAVE_AT_ONCE_BYTES:
            return 0.0
        return max(0.0, self._started_s + SAVE_EVERY.total_seconds() - self._clock())

    async def _save_newest(self) -> None:
        self._started_s = self._clock()
        # The only thread there is: when a save was cancelled here, it still comes before this one.
        await asyncio.get_running_loop().run_in_executor(self._thread, self._write)

    def _write(self) -> None:
        snapshot = self._newest
        if snapshot is None or snapshot is self._saved:
            return
        save_fragments(self._store, snapshot.fragments)
        if snapshot.complete:
            if snapshot.hashes not in self._generations:
                self._generations.append(snapshot.hashes)
            self._store.keep(frozenset().union(*self._generations))
        self._saved = snapshot
