"""Where a reducer's contributions wait: a few chunks of each peer's lane, in reused buffers.

    inbox = Inbox(SLOTS, slot_bytes)          # one per contributor
    inbox.join(lane, lanes)                   # a lane of the peer has come
    slot = inbox.free_slot(lane, on_held)     # its reader; None when the session has ended
    inbox.put(lane, slot)
    slot = inbox.take(index, deadline_s)      # the reducer, in the order of its jobs
    inbox.give_back(slot)

A reader without a free slot does not read on, so TCP holds the sender back. That is all there is
of flow control, and what bounds the memory.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable

import numpy as np

from swarm.collective.buffers import take
from swarm.collective.codecs import U8

LOOK_S = 0.5
HELD_S = 0.02  # a lane that waits longer is held back, and its sender is told so


class Slot:
    """A buffer for one encoded chunk; `data` is the part that the chunk fills."""

    def __init__(self, buffer: U8, lane: int) -> None:
        self.lane = lane
        self._buffer = buffer
        self.data: U8 = self._buffer

    def fit(self, size: int) -> memoryview:
        """Make `data` have `size` bytes, and give it to be written."""
        self.data = self._buffer[:size]
        return self.data.data


class _Queues:
    def __init__(self) -> None:
        self.joined = False
        self.free: queue.SimpleQueue[Slot | None] = queue.SimpleQueue()
        self.ready: queue.SimpleQueue[Slot | None] = queue.SimpleQueue()


class Inbox:
    """One contributor's chunks; job `k` comes on lane `k mod lanes`."""

    def __init__(self, slots: int, slot_bytes: int) -> None:
        self._slots = slots
        self._slot_values = -(-slot_bytes // 4)
        self._lanes: list[_Queues] = []
        self._opened = threading.Event()
        self._lock = threading.Lock()
        self._closed = False

    def join(self, lane: int, lanes: int) -> bool:
        """A lane is there; False when it is not welcome: seen before, or one of another number."""
        with self._lock:
            if not self._lanes and not self._closed:
                self._lanes = [_Queues() for _ in range(lanes)]
                room = take(lanes * self._slots * self._slot_values).view(np.uint8)
                for place, buffer in enumerate(room.reshape(lanes * self._slots, -1)):
                    number = place % lanes
                    self._lanes[number].free.put(Slot(buffer, number))
                self._opened.set()
            if len(self._lanes) != lanes or self._lanes[lane].joined:
                return False
            self._lanes[lane].joined = True
            return True

    def free_slot(self, lane: int, on_held: Callable[[bool], None]) -> Slot | None:
        """Wait for a buffer; None when the inbox is closed.

        `on_held` is told True when that takes long, and False when it does not.
        """
        free = self._lanes[lane].free
        try:
            slot = free.get(timeout=HELD_S)
            on_held(False)
            return slot
        except queue.Empty:
            on_held(True)
            return free.get()

    def put(self, lane: int, slot: Slot) -> None:
        """A chunk has come."""
        self._lanes[lane].ready.put(slot)

    def take(self, index: int, deadline_s: float) -> Slot | None:
        """Job `index`'s chunk; None when the inbox is closed, or there is no lane at the deadline.

        A lane that is there but silent is its reader's matter.
        """
        if not self._opened.wait(max(0.0, deadline_s - time.monotonic())) or not self._lanes:
            return None
        queues = self._lanes[index % len(self._lanes)]
        while True:
            try:
                return queues.ready.get(timeout=LOOK_S)
            except queue.Empty:
                if not queues.joined and time.monotonic() > deadline_s:
                    return None

    def give_back(self, slot: Slot) -> None:
        """A chunk has been used."""
        self._lanes[slot.lane].free.put(slot)

    def close(self) -> None:
        """Free whoever waits, now and later."""
        with self._lock:
            self._closed = True
            self._opened.set()
            for queues in self._lanes:
                queues.free.put(None)
                queues.ready.put(None)
