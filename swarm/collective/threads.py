"""Daemon threads that are used again: to start one costs more than what most of them do.

    threads = Threads(spare=SPARE)
    ended = threads.start("reduce-send-ab12cd", work)   # an Event
    threads.stop()                                      # no more spare ones

Measured: a new thread costs 120 us of CPU time, one that waits 20; an operation among four peers
takes forty.
"""

from __future__ import annotations

import contextlib
import queue
import threading
from collections.abc import Callable
from typing import TypeAlias

SPARE = 64  # threads that wait for work; more are as easily made as kept
KEEP_S = 30.0  # one that waits longer ends
IDLE = "spare"  # name of a thread that waits
Order: TypeAlias = tuple[str, Callable[[], None], threading.Event]


class Threads:
    """At most `spare` of them wait for work, for `keep_s`; safe to use from many threads."""

    def __init__(self, spare: int = 0, keep_s: float = KEEP_S) -> None:
        self._spare = spare
        self._keep_s = keep_s
        self._lock = threading.Lock()
        self._idle: list[queue.SimpleQueue[Order | None]] = []

    def start(self, name: str, work: Callable[[], None]) -> threading.Event:
        """Do `work` in a thread of that name; the event is set when it is over."""
        ended = threading.Event()
        with self._lock:
            orders = self._idle.pop() if self._idle else None
        if orders is None:
            orders = queue.SimpleQueue()
            threading.Thread(target=self._live, args=(orders,), name=name, daemon=True).start()
        orders.put((name, work, ended))
        return ended

    def stop(self) -> None:
        """End the threads that wait, and the others when their work is over; does not wait."""
        with self._lock:
            self._spare = 0
            for orders in self._idle:
                orders.put(None)
            self._idle.clear()

    def _live(self, orders: queue.SimpleQueue[Order | None]) -> None:
        while (order := self._next(orders)) is not None:
            _carry_out(order)
            del order  # what it refers to must not wait for the next one
            with self._lock:
                if len(self._idle) >= self._spare:
                    return
                self._idle.append(orders)

    def _next(self, orders: queue.SimpleQueue[Order | None]) -> Order | None:
        with contextlib.suppress(queue.Empty):
            return orders.get(timeout=self._keep_s)
        with self._lock:
            if orders in self._idle:
                self._idle.remove(orders)
                return None
        return orders.get()  # somebody took it just now


def _carry_out(order: Order) -> None:
    name, work, ended = order
    thread = threading.current_thread()
    thread.name = name
    try:
        work()
    finally:
        thread.name = IDLE
        ended.set()
