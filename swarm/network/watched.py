"""A blocking socket on which no wait is for ever and which breaks as a whole.

    watched = WatchedSocket(sock, peer, meter, timedelta(seconds=10))
    watched.write([memoryview(header), memoryview(payload)])
    watched.fill(memoryview(buffer))
    watched.fail(error)                      # from any thread: wakes both directions

The time limits are the kernel's own, so moving a buffer costs one or two system calls and needs no
event loop. The first error stays: every later call raises it, in the other direction too, since
half a frame can not be taken back.
"""

from __future__ import annotations

import errno
import socket
import struct
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from datetime import timedelta

from swarm.errors import Code, SwarmError
from swarm.network.traffic import Meter

# A send or receive that moved a part of its bytes ends at the kernel's limit without an error, so
# the kernel's limit is a fraction of ours: a stall is seen after 1 to 1.25 times the limit.
LOOKS_PER_STALL = 4
SHORTEST_LOOK_US = 1000
# Where the kernel does not count what is delivered (see `rates`), the count must not lag by more.
PIECE_BYTES = 2**17


class WatchedSocket:
    """Takes over `sock`, which `close` closes. One thread may write while another fills.

    Attributes:
        failure: the first error, None as long as there was none.
    """

    def __init__(self, sock: socket.socket, peer: str, meter: Meter, stall: timedelta) -> None:
        self.failure: SwarmError | None = None
        self._socket = sock
        self._peer = peer
        self._meter = meter
        self._heard_s = 0.0  # when bytes of the peer came last
        self._at_once = PIECE_BYTES if sock.family == socket.AF_UNIX else sys.maxsize
        sock.settimeout(None)
        self.set_stall(stall)
        meter.add_lane(sock)

    def write(self, views: Sequence[memoryview]) -> None:
        """Send all buffers. Raises `PEER_UNREACHABLE` or `PEER_STALLED`."""
        pending, moved_s = list(views), time.monotonic()
        while pending:
            self._check()
            try:
                size = self._meter.uploads.piece(self._at_once)
                count = self._socket.sendmsg(_before(pending, size))
            except BlockingIOError:
                # A peer that takes nothing but is heard of waits for others, and is not frozen.
                if time.monotonic() - max(moved_s, self._heard_s) >= self._stall_s:
                    raise self.fail(self._stalled("took")) from None
                continue
            except OSError as error:
                raise self.fail(self._broken(error)) from None
            moved_s = time.monotonic()
            self._meter.rates.upload.moved(self._socket, count)
            self._meter.uploads.pay(count)
            pending = _after(pending, count)

    def fill(self, view: memoryview) -> None:
        """Receive as many bytes as `view` has. Raises as `write`."""
        filled, moved_s = 0, time.monotonic()
        while filled < view.nbytes:
            self._check()
            try:
                size = self._meter.downloads.piece(min(view.nbytes - filled, self._at_once))
                count = self._socket.recv_into(view[filled:], size, socket.MSG_WAITALL)
            except BlockingIOError:
                if time.monotonic() - moved_s >= self._stall_s:
                    raise self.fail(self._stalled("sent")) from None
                continue
            except OSError as error:
                raise self.fail(self._broken(error)) from None
            if count == 0:
                hung_up = f"{self._peer}: it closed the lane"
                raise self.fail(SwarmError(Code.PEER_UNREACHABLE, hung_up))
            self._heard_s = moved_s = time.monotonic()
            self._meter.rates.download.moved(self._socket, count)
            self._meter.downloads.pay(count)
            filled += count

    def throw_away(self, limit: timedelta) -> None:
        """Receive and forget until the peer hangs up or falls silent, for `limit` at most."""
        self.set_stall(limit)
        deadline_s = time.monotonic() + limit.total_seconds()
        scrap = memoryview(bytearray(2**16))
        with suppress(OSError):
            while time.monotonic() < deadline_s and self._socket.recv_into(scrap):
                pass

    def hung_up(self) -> bool:
        """Whether the peer has closed its end; does not wait."""
        try:
            return not self._socket.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT)
        except BlockingIOError:
            return False
        except OSError:
            return True

    def set_stall(self, limit: timedelta) -> None:
        """How long a write or fill may see nothing move; holds from its next system call on."""
        self._stall_s = limit.total_seconds()
        look_us = round(limit / LOOKS_PER_STALL / timedelta(microseconds=1))
        value = struct.pack("@ll", *divmod(max(SHORTEST_LOOK_US, look_us), 1_000_000))
        with suppress(OSError):  # closed: the next call says so
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, value)
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, value)

    def fail(self, error: SwarmError) -> SwarmError:
        """End both directions at once, for `error` if it is the first; returns the first."""
        if self.failure is None:
            self.failure = error
        with suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        return self.failure.again()

    def close(self) -> None:
        """Free the socket; after `fail`, and when no thread is in it any more."""
        self._meter.remove_lane(self._socket)
        self._socket.close()

    def _check(self) -> None:
        if self.failure is not None:
            raise self.failure.again()

    def _stalled(self, did: str) -> SwarmError:
        reason = f"{self._peer}: it {did} nothing for {self._stall_s:g} s"
        return SwarmError(Code.PEER_STALLED, reason)

    def _broken(self, error: OSError) -> SwarmError:
        code = Code.PEER_STALLED if error.errno == errno.ETIMEDOUT else Code.PEER_UNREACHABLE
        return SwarmError(code, f"{self._peer}: {error.strerror or error}")


def _before(views: list[memoryview], count: int) -> list[memoryview]:
    """The first `count` bytes of `views`."""
    if sum(view.nbytes for view in views) <= count:
        return views
    taken = []
    for view in views:
        taken.append(view[:count])
        count -= taken[-1].nbytes
        if not count:
            break
    return taken


def _after(views: list[memoryview], count: int) -> list[memoryview]:
    """What is left of `views` when their first `count` bytes are gone."""
    done = 0
    while done < len(views) and count >= views[done].nbytes:
        count -= views[done].nbytes
        done += 1
    left = views[done:]
    if left and count:
        left[0] = left[0][count:]
    return left
