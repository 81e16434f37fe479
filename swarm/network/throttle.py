"""A limit on how fast all lanes together move bytes one way, which may change at any moment.

    throttle = Throttle(time.monotonic)
    throttle.set_rate(10e6)                     # bits per second; 0.0 is no limit
    size = throttle.piece(len(data))            # move no more than that at once
    throttle.pay(size)                          # waits as long as that takes at the rate

A token bucket whose debt is waited for after the bytes have moved. Pieces are small, so that the
other end sees something move all the time and a changed rate holds within a moment.
"""

from __future__ import annotations

import threading
from collections.abc import Callable

LEAST_BPS = 100_000.0  # below it the gaps between the pieces of many lanes would look like stalls
PIECE_S = 0.05  # of a lane that is alone
BURST_S = 0.1  # may be saved up while nothing moves
LEAST_PIECE_BYTES = 1024


class Throttle:
    """See the module docstring; safe to use from many threads."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._changed = threading.Condition()
        self._rate_bps = 0.0
        self._settings = 0  # how often the rate was set
        self._paid_until_s = 0.0

    def set_rate(self, rate_bps: float) -> None:
        """Hold to this rate from now on; what waits at the old one goes on at once."""
        with self._changed:
            self._rate_bps = max(rate_bps, LEAST_BPS) if rate_bps else 0.0
            self._settings += 1
            self._paid_until_s = 0.0
            self._changed.notify_all()

    def piece(self, size: int) -> int:
        """How many of `size` bytes to move at once."""
        if not self._rate_bps:
            return size
        return min(size, max(LEAST_PIECE_BYTES, int(self._rate_bps / 8 * PIECE_S)))

    def pay(self, count: int) -> None:
        """Wait until `count` bytes, which have moved, are within the rate."""
        if not self._rate_bps:
            return
        with self._changed:
            settings = self._settings
            begin_s = max(self._paid_until_s, self._clock() - BURST_S)
            if not self._rate_bps:
                return
            self._paid_until_s = mine_s = begin_s + 8 * count / self._rate_bps
            while self._settings == settings and (wait_s := mine_s - self._clock()) > 0:
                self._changed.wait(wait_s)
