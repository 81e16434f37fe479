"""Threads and lanes that live and die together: of one attempt, and of what it serves to others.

crew = Crew(threads)
crew.start("exchange-ab12cd", work, argument)
error = crew.first_error()            # None when all have ended well
others = crew.drain(limit_s)          # errors of those that end within the limit

with berth.hold(lane): ...            # `cut` ends the lane while it is held
berth.cut_after(GOODBYE_S)
"""

from __future__ import annotations

import contextlib
import logging
import queue
import threading
import time
from collections.abc import Callable, Iterator

from swarm.collective.threads import Threads
from swarm.errors import Code, SwarmError
from swarm.network.lane import Lane

logger = logging.getLogger(__name__)


def without_frames(error: Exception) -> Exception:
    """The error without traceback and causes, for keeping it where they lead back to.

    The frames of an attempt hold its buffers. In a circle with an error they would wait for the
    garbage collector, which counts objects, not bytes: many attempts of any size may fail before.
    """
    error.__traceback__ = error.__cause__ = error.__context__ = None
    return error


class Crew:
    """Threads whose errors go to the one that waits."""

    def __init__(self, threads: Threads) -> None:
        self._threads = threads
        self._ends: queue.SimpleQueue[tuple[int, Exception | None]] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._running = 0

    def start(self, name: str, work: Callable[..., None], *args: object) -> None:
        """Do `work` in a thread. May be called from such a thread, too."""
        with self._lock:
            self._running += 1
        self._threads.start(name, lambda: self._run(work, args))

    def _run(self, work: Callable[..., None], args: tuple[object, ...]) -> None:
        try:
            work(*args)
        except Exception as error:
            if not isinstance(error, SwarmError):
                logger.exception("%s failed", threading.current_thread().name)
            self._ends.put((1, without_frames(error)))
        else:
            self._ends.put((1, None))

    def interrupt(self, error: Exception) -> None:
        """Let `first_error` return that."""
        self._ends.put((0, error))

    def first_error(self) -> Exception | None:
        """Wait until all threads have ended, or one with an error."""
        while self._running:
            if (error := self._next(None)) is not None:
                return error
        return None

    def drain(self, limit_s: float) -> list[Exception]:
        """Errors of the threads that end within the limit."""
        deadline_s = time.monotonic() + limit_s
        errors = []
        while self._running:
            try:
                error = self._next(max(0.0, deadline_s - time.monotonic()))
            except queue.Empty:
                break
            if error is not None:
                errors.append(error)
        return errors

    def _next(self, timeout_s: float | None) -> Exception | None:
        ended, error = self._ends.get(timeout=timeout_s)
        with self._lock:
            self._running -= ended
        return error


class Berth:
    """The lanes that an attempt uses now."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._lanes: list[Lane] = []
        self._cut = False
        self._cutting = False

    @contextlib.contextmanager
    def hold(self, lane: Lane) -> Iterator[None]:
        """Use a lane, until `cut`."""
        with self._changed:
            if self._cut:
                lane.cancel()
                raise SwarmError(Code.PEER_UNREACHABLE, f"{lane.peer}: the attempt is over")
            self._lanes.append(lane)
        try:
            yield
        finally:
            with self._changed:
                self._lanes.remove(lane)
                self._changed.notify_all()

    @property
    def is_cut(self) -> bool:
        """True after `cut`: errors of lanes mean nothing any more."""
        return self._cut

    def cut(self) -> None:
        """End all lanes that are held, now and later."""
        with self._changed:
            self._cut = True
            lanes = list(self._lanes)
        for lane in lanes:
            lane.cancel()

    def cut_after(self, grace_s: float) -> None:
        """`cut`, as soon as no lane is held, or when the time is over; returns at once."""
        with self._changed:
            if self._cutting:
                return
            self._cutting = True
            if not self._lanes:
                self._cut = True
                return
        threading.Thread(
            target=self._cut_after, args=(grace_s,), name="reduce-goodbye", daemon=True
        ).start()

    def _cut_after(self, grace_s: float) -> None:
        with self._changed:
            self._changed.wait_for(lambda: not self._lanes, grace_s)
        self.cut()
