"""How fast this node's link is, learned from the transfers that it makes anyway.

    window = RateWindow(UPLOAD, time.monotonic)
    window.add(sock)                        # a lane's socket; `remove` it before it is closed
    with window.busy(): ...                 # around each write (UPLOAD) or read (DOWNLOAD)
    window.best_bps                         # 0.0 = not measured

As BBR's windowed maximum (Cardwell et al. 2016): the highest delivery rate of any window of
`WINDOW` in the last `MEMORY`. A window is of all lanes together, since they share the link, and

- counts what the network delivered, not what was written: for TCP on Linux the kernel's count of
  acknowledged (arrived) bytes; elsewhere what was written less what waits in the socket (read
  plus what waits), after `SOFT_BYTES` that may be in buffers of sockets and of p2pd;
- moved `LEAST_BYTES`, or it goes on: when a lost packet has been sent again, the bytes behind it
  count at once, up to a few 100 KiB for a home link, and must not weigh much;
- was busy throughout: after `IDLE` without work a new one begins;
- is not the first after an idle time: token buckets let a burst pass above the rate that they keep.
"""

from __future__ import annotations

import fcntl
import socket
import struct
import sys
import termios
import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta

WINDOW = timedelta(seconds=0.25)
IDLE = timedelta(seconds=0.05)
MEMORY = timedelta(minutes=5)
LEAST_BYTES = 2**21
SOFT_BYTES = 8 * 2**20  # a socket's largest send buffer (4 MiB by Linux' default) on either side

UPLOAD, DOWNLOAD = "upload", "download"
TCP_INFO = 11
TCP_INFO_BYTES = struct.Struct("=120xQQ")  # tcpi_bytes_acked, tcpi_bytes_received; Linux 4.1


@dataclass
class _Lane:
    """A socket without a kernel counter: what its lane reported, and what does not count yet."""

    moved: int = 0
    soft_until: int = SOFT_BYTES


class RateWindow:
    """See the module docstring; safe to use from many threads."""

    def __init__(self, direction: str, clock: Callable[[], float]) -> None:
        self._upload = direction == UPLOAD
        self._clock = clock
        self._lock = threading.Lock()
        self._lanes: dict[socket.socket, _Lane | None] = {}  # None: the kernel counts
        self._ended = 0  # bytes of lanes that are gone, less what was before they came
        self._working = 0
        self._last_s = -1e9
        self._start_s = 0.0
        self._start_bytes = 0
        self._first = True
        self._samples: deque[tuple[float, float]] = deque()  # when, bits per second

    @property
    def best_bps(self) -> float:
        """Bits per second, payload and headers of lanes; 0.0 when no window was measured."""
        with self._lock:
            self._forget()
            return max((bps for _, bps in self._samples), default=0.0)

    def add(self, sock: socket.socket) -> None:
        """Count a lane from now on."""
        with self._lock:
            self._lanes[sock] = None if self._kernel_count(sock) is not None else _Lane()
            self._ended -= self._count(sock)

    def remove(self, sock: socket.socket) -> None:
        """Count a lane no more; its socket must still be open."""
        with self._lock:
            if sock in self._lanes:
                self._ended += self._count(sock)
                del self._lanes[sock]

    def moved(self, sock: socket.socket, count: int) -> None:
        """Bytes written or read on a socket; needed where the kernel does not count."""
        lane = self._lanes.get(sock)
        if lane is not None:
            lane.moved += count

    @contextmanager
    def busy(self) -> Iterator[None]:
        """Around work that waits for nothing but the link."""
        with self._lock:
            now_s = self._clock()
            if not self._working and now_s - self._last_s > IDLE.total_seconds():
                self._begin(now_s, first=True)
            self._working += 1
        try:
            yield
        finally:
            with self._lock:
                self._working -= 1
                self._last_s = self._clock()
                if self._last_s - self._start_s >= WINDOW.total_seconds():
                    self._measure(self._last_s)

    def _begin(self, now_s: float, *, first: bool) -> None:
        self._start_s, self._first = now_s, first
        if first:
            for lane in self._lanes.values():
                if lane is not None:
                    lane.soft_until = lane.moved + SOFT_BYTES
        self._start_bytes = self._position()

    def _measure(self, now_s: float) -> None:
        delivered = self._position() - self._start_bytes
        if delivered < LEAST_BYTES:
            return
        if not self._first:
            self._samples.append((now_s, 8 * delivered / (now_s - self._start_s)))
            self._forget()
        self._begin(now_s, first=False)

    def _forget(self) -> None:
        oldest_s = self._clock() - MEMORY.total_seconds()
        while self._samples and self._samples[0][0] < oldest_s:
            self._samples.popleft()

    def _position(self) -> int:
        return self._ended + sum(self._count(sock) for sock in self._lanes)

    def _count(self, sock: socket.socket) -> int:
        lane = self._lanes[sock]
        if lane is None:
            return self._kernel_count(sock) or 0
        waiting = self._waiting(sock)
        return max(lane.soft_until, lane.moved + (-waiting if self._upload else waiting))

    def _kernel_count(self, sock: socket.socket) -> int | None:
        if sys.platform != "linux" or sock.family not in (socket.AF_INET, socket.AF_INET6):
            return None
        try:
            info = sock.getsockopt(socket.IPPROTO_TCP, TCP_INFO, TCP_INFO_BYTES.size)
            return int(TCP_INFO_BYTES.unpack(info)[0 if self._upload else 1])
        except (OSError, struct.error):
            return None

    def _waiting(self, sock: socket.socket) -> int:
        """Bytes that the kernel still has to send, or that wait to be read."""
        request = termios.TIOCOUTQ if self._upload else termios.FIONREAD
        try:
            return int(struct.unpack("i", fcntl.ioctl(sock, request, bytes(4)))[0])
        except (OSError, ValueError):
            return 0
