"""Frames over a connected stream socket: the one implementation of `swarm.network.lane.Lane`.

    lane = SocketLane(sock, peer, "direct", seals=seals, meter=meter)

Without `seals` the frames go as they are (libp2p protects a tunnel, nothing a trusted LAN). With
them each frame is one or more sealed records, see `swarm.network.sealing`. Frames are checked as
they come: one that is too large is refused by its header, before anything is read or allocated.
"""

from __future__ import annotations

import socket
import struct
import threading
import time
from contextlib import suppress
from datetime import timedelta

from swarm.errors import Code, SwarmError
from swarm.network.lane import MAX_PAYLOAD_BYTES, Buffer, Frame, Kind
from swarm.network.sealing import RECORD_BYTES, TAG_BYTES, WORN_OUT_BYTES, Seals
from swarm.network.traffic import Meter
from swarm.network.watched import WatchedSocket

HEADER = struct.Struct("<B3sIQ")  # kind, zeros, payload bytes, index
ZEROS = bytes(3)
KINDS = {int(kind): kind for kind in Kind}
DEFAULT_STALL = timedelta(seconds=10)
LINGER = timedelta(seconds=1)
MAX_REASON_BYTES = 2**12


class SocketLane:
    """See `Lane`. Takes over `sock`, which `close` closes.

    Attributes:
        peer: authenticated peer id of the other end.
        path: "direct", "plain", "tunnel" or "local".
        seen: "host:port" of this end as the peer sees it, if it has said so.
        idle_since_s: since when its server waits for a call (monotonic clock), None in a call.
    """

    def __init__(
        self,
        sock: socket.socket,
        peer: str,
        path: str,
        *,
        seals: Seals | None = None,
        meter: Meter | None = None,
        stall: timedelta = DEFAULT_STALL,
    ) -> None:
        self.peer = peer
        self.path = path
        self.seen = ""
        self.idle_since_s: float | None = None
        self._seals = seals
        self._meter = meter or Meter()
        self._socket = WatchedSocket(sock, peer, self._meter, stall)
        self._send_lock = threading.Lock()
        self._receive_lock = threading.Lock()
        self._header = bytearray(HEADER.size)
        self._unread: Frame | None = None  # its payload is still in the stream
        self._to_send = self._to_receive = False  # an END is due, since a call is open
        self._moved_bytes = 0

    # ---- sending --------------------------------------------------------------------------

    def send(self, kind: Kind, index: int = 0, *payload: Buffer) -> None:
        """See `Lane.send`. Also from several threads (one sends pulses): frames do not mix."""
        views = [view for part in payload if (view := memoryview(part).cast("B")).nbytes]
        size = sum(view.nbytes for view in views)
        if size > MAX_PAYLOAD_BYTES:
            raise _oversized(size)
        header = HEADER.pack(kind, ZEROS, size, index)
        with self._send_lock, self._meter.sending(self.peer, size):
            self._note(kind, sent=True)
            self._moved_bytes += size
            if self._seals is None:
                self._socket.write([memoryview(header), *views])
            else:
                for record in self._seals.seal(header, views, size):
                    self._socket.write(record)

    # ---- receiving ------------------------------------------------------------------------

    def receive(self) -> Frame:
        """See `Lane.receive`."""
        return self.receive_before(float("inf"))

    def receive_before(self, deadline_s: float) -> Frame:
        """As `receive`, but pulses do not keep it waiting past `deadline_s` (monotonic clock)."""
        while True:
            frame = self._next_frame()
            if frame.kind is not Kind.PULSE:
                self._note(frame.kind, sent=False)
                return frame
            self.read()
            if time.monotonic() > deadline_s:
                late = SwarmError(Code.PEER_STALLED, f"{self.peer}: nothing but pulses")
                raise self._socket.fail(late)

    def read_into(self, target: memoryview) -> None:
        """See `Lane.read_into`."""
        frame, view = self._unread, target.cast("B")
        size = frame.size if frame is not None else 0
        assert view.nbytes == size, f"a payload of {size} bytes, room for {view.nbytes}"
        if frame is None:
            return
        with self._receive_lock, self._meter.receiving(self.peer, size):
            self._moved_bytes += size
            self._unread = None
            if self._seals is None:
                self._socket.fill(view)
            else:
                for begin in range(0, max(size, 1), RECORD_BYTES):
                    self._open_record(view[begin : begin + RECORD_BYTES])

    def read(self) -> bytes:
        """See `Lane.read`."""
        data = bytearray(self._unread.size if self._unread is not None else 0)
        self.read_into(memoryview(data))
        return bytes(data)

    def _next_frame(self) -> Frame:
        assert self._unread is None, "the last payload has not been read"
        with self._receive_lock:
            self._socket.fill(memoryview(self._header))
        number, zeros, size, index = HEADER.unpack(self._header)
        kind = KINDS.get(number)
        if kind is None or zeros != ZEROS:
            garbage = SwarmError(Code.MESSAGE_MALFORMED, f"{self.peer}: bytes that are no frame")
            raise self._socket.fail(garbage)
        if size > (MAX_PAYLOAD_BYTES if kind is not Kind.PULSE else 0):
            raise self._socket.fail(_oversized(size))
        frame = self._unread = Frame(kind, index, size)
        if size == 0:  # a sealed lane has its tag to check
            self.read()
        return frame

    def _open_record(self, target: memoryview) -> None:
        assert self._seals is not None
        sealed = self._seals.incoming[: target.nbytes + TAG_BYTES]
        self._socket.fill(sealed)
        try:
            self._seals.open(bytes(self._header), sealed, target)
        except SwarmError as error:
            raise self._socket.fail(error) from None

    # ---- life -----------------------------------------------------------------------------

    @property
    def at_rest(self) -> bool:
        """Between two calls, and fit for another: both sides have said END."""
        in_call = self._to_send or self._to_receive or self._unread is not None
        worn_out = self._moved_bytes >= WORN_OUT_BYTES
        return not in_call and not worn_out and self._socket.failure is None

    def _note(self, kind: Kind, *, sent: bool) -> None:
        """Keep book of who still owes an END."""
        if kind in (Kind.CALL, Kind.FAILURE):  # nothing but a close can follow a FAILURE
            self._to_send = self._to_receive = True
        elif kind is not Kind.PULSE and sent:
            self._to_send = kind is not Kind.END
        elif kind is not Kind.PULSE:
            self._to_receive = kind is not Kind.END

    def hung_up(self) -> bool:
        """Whether the peer has closed the lane while it was idle; does not wait."""
        return self._socket.hung_up()

    def set_stall(self, limit: timedelta) -> None:
        """See `Lane.set_stall`. A send goes on as long as the peer is heard of (pulses)."""
        self._socket.set_stall(limit)

    def cancel(self) -> None:
        """See `Lane.cancel`."""
        self._socket.fail(SwarmError(Code.PEER_UNREACHABLE, f"{self.peer}: the lane was cancelled"))

    def fail(self, reason: str) -> None:
        """Say that this side gives up, let the peer read it, and close; never raises.

        What the peer still sends is thrown away for a moment: to close at once would destroy the
        message on its way (TCP resets a connection that is closed with unread data, and p2pd drops
        what a closed stream still holds).
        """
        self.set_stall(LINGER)
        with suppress(SwarmError):
            self.send(Kind.FAILURE, 0, reason.encode()[:MAX_REASON_BYTES])
            if self._receive_lock.acquire(timeout=LINGER.total_seconds()):
                with suppress(SwarmError):
                    self._socket.throw_away(LINGER)
                self._receive_lock.release()
        self.close()

    def close(self) -> None:
        """End the lane and free its socket; waits for threads that are still inside."""
        self.cancel()
        with self._send_lock, self._receive_lock:
            self._socket.close()


def _oversized(size: int) -> SwarmError:
    return SwarmError(
        Code.MESSAGE_OVERSIZED, f"frame of {size} bytes, the limit is {MAX_PAYLOAD_BYTES}"
    )
