"""Keeping the fragments on disk, so that a run outlives the end of all its nodes at once.

    keeper = FragmentKeeper(store, status)
    keeper.note(fragments, complete=True)      # after every commit; returns at once
    await keeper.run()                         # writes what was noted, until cancelled
    await keeper.finish()                      # the last save

What an attempt computed is written before it is reported (`keep_shadow`), so whatever a commit
names is on the disks of those who computed it, also when all nodes are killed at once. That is not
synced, since it would hold up the round: what survives a power cut as well are small models after
every commit, large ones at intervals.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import timedelta

from node.daemon_status import Status
from node.node_files import load_fragment, save_fragments
from swarm.collective.state import FragmentState
from swarm.errors import SwarmError
from swarm.experts.store import FragmentStore
from swarm.wire import collective_pb2 as pb

SAVE_AT_ONCE_BYTES = 256 * 10**6
SAVE_EVERY = timedelta(seconds=20)  # when there is more than that
KEPT_GENERATIONS = 2
KEPT_SHADOWS = 4  # of attempts of the open round


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

    def is_older_than(self, other: Snapshot) -> bool:
        """True when nothing in it is newer than what `other` has of it."""
        versions = {name: state.version for name, state in other.fragments.items()}
        return all(state.version <= versions.get(n, -1) for n, state in self.fragments.items())

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
        # What an earlier life computed may still be decided, so it stays until a second commit.
        self._generations.append(store.hashes())
        self._shadows: list[Snapshot] = []
        self._files = threading.Lock()  # nothing is removed while a shadow is written
        self._loop: asyncio.AbstractEventLoop | None = None

    def note(self, fragments: Mapping[str, FragmentState], *, complete: bool) -> None:
        """These fragments are what should be on disk; their arrays must not change any more."""
        snapshot, newest = Snapshot(dict(fragments), complete), self._newest
        if newest is None or (newest.hashes, newest.complete) != (snapshot.hashes, complete):
            self._newest = snapshot
            self._noted.set()

    def keep_shadow(self, shadow: Mapping[str, FragmentState]) -> None:
        """Write the result of an attempt now, in the caller's thread. A full disk is said once."""
        error: SwarmError | None = None
        with self._files:
            self._shadows = [*self._shadows[-(KEPT_SHADOWS - 1) :], Snapshot(dict(shadow), False)]
            try:
                save_fragments(self._store, shadow, sync=False)
            except SwarmError as caught:
                error = caught
        if self._loop is not None:
            what = "writing what a round computed"
            self._loop.call_soon_threadsafe(self._status.note_trouble, what, error)

    def find(self, version: pb.FragmentVersion) -> FragmentState | None:
        """A fragment of exactly this version that is on disk whole."""
        return load_fragment(self._store, version)

    async def run(self) -> None:
        """Write what is noted. A full disk is said once, and tried again at intervals."""
        self._loop = asyncio.get_running_loop()
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
            with self._files:
                self._shadows = [s for s in self._shadows if not s.is_older_than(snapshot)]
                open_results = (s.hashes for s in self._shadows)
                self._store.keep(frozenset().union(*self._generations, *open_results))
        self._saved = snapshot
