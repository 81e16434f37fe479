"""What the data plane moved: payload bytes for each peer, and the best rates that it saw.

meter = Meter()
with meter.sending(lane.peer, size): ...        # around each frame
meter.traffic.sent[peer]                        # bytes
meter.rates.upload_bps                          # see swarm/network/rates.py
"""

from __future__ import annotations

import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from swarm.network.rates import DOWNLOAD, UPLOAD, RateWindow
from swarm.network.throttle import Throttle


class Traffic:
    """Payload bytes to and from each peer; safe to use from many threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._sent: Counter[str] = Counter()
        self._received: Counter[str] = Counter()

    def add_sent(self, peer: str, count: int) -> None:
        """Count bytes written to `peer`."""
        with self._lock:
            self._sent[peer] += count

    def add_received(self, peer: str, count: int) -> None:
        """Count bytes that came from `peer`."""
        with self._lock:
            self._received[peer] += count

    def total(self) -> int:
        """Bytes sent and received, of all peers together."""
        with self._lock:
            return self._sent.total() + self._received.total()

    @property
    def sent(self) -> dict[str, int]:
        """Bytes sent, by peer id."""
        with self._lock:
            return dict(self._sent)

    @property
    def received(self) -> dict[str, int]:
        """Bytes received, by peer id."""
        with self._lock:
            return dict(self._received)


class Rates:
    """The best delivered rates of the last minutes over all lanes together.

    Attributes (of the two windows): see `RateWindow`.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self.upload = RateWindow(UPLOAD, clock)
        self.download = RateWindow(DOWNLOAD, clock)

    @property
    def upload_bps(self) -> float:
        """Bits per second that other hosts' kernels acknowledged; 0.0 = not measured."""
        return self.upload.best_bps

    @property
    def download_bps(self) -> float:
        """Bits per second that arrived here; 0.0 = not measured."""
        return self.download.best_bps


class Meter:
    """What the lanes of a data plane report to, and what holds them back.

    Attributes:
        uploads, downloads: limits of the rates of all lanes together; none at the beginning.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.traffic = Traffic()
        self.rates = Rates(clock)
        self.uploads = Throttle(clock)
        self.downloads = Throttle(clock)

    def add_lane(self, sock: socket.socket) -> None:
        """A lane begins."""
        self.rates.upload.add(sock)
        self.rates.download.add(sock)

    def remove_lane(self, sock: socket.socket) -> None:
        """A lane ends; its socket is still open."""
        self.rates.upload.remove(sock)
        self.rates.download.remove(sock)

    @contextmanager
    def sending(self, peer: str, size: int) -> Iterator[None]:
        """Around the writing of a frame with a payload of `size` bytes."""
        with self.rates.upload.busy():
            yield
        self.traffic.add_sent(peer, size)

    @contextmanager
    def receiving(self, peer: str, size: int) -> Iterator[None]:
        """Around the reading of a payload."""
        with self.rates.download.busy():
            yield
        self.traffic.add_received(peer, size)
