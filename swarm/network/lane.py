"""What the data plane hands to the collective: a lane, one ordered two-way stream of frames.

    lane = plane.open_lane(record, limit)       # a fresh or an idle one, authenticated both ways
    lane.send(Kind.CALL, 0, call.SerializeToString())
    frame = lane.receive()                      # header first, so that the payload can be read
    lane.read_into(memoryview(target)[a:b])     # where it belongs, without a copy between
    plane.release(lane)                         # both sides have said END: kept for the next call

One thread may send while another receives; `cancel` may be called from any thread and ends both.
Frame: kind (1 byte), 3 zero bytes, payload size (uint32), index (uint64), all little-endian; then
the payload. What protects the bytes (TLS, a sealed record, libp2p, or nothing on a trusted LAN) is
the lane's own matter.
"""

from __future__ import annotations

from datetime import timedelta
from enum import IntEnum
from typing import NamedTuple, Protocol, TypeAlias

Buffer: TypeAlias = bytes | bytearray | memoryview
MAX_PAYLOAD_BYTES = 4 * 2**20


class Kind(IntEnum):
    """What a frame is."""

    CALL = 1  # opens a call: a `Call` of data.proto
    CHUNK = 2  # bytes of the call; `index` says which
    FAILURE = 3  # the sender gave up; reason in UTF-8. The call is over, the lane is not reused
    END = 4  # the sender has sent everything of this call
    PULSE = 5  # "I live and wait"; never seen by the receiver, but resets its stall limit


class Frame(NamedTuple):
    """The header of a received frame."""

    kind: Kind
    index: int  # type: ignore[assignment]  # hides tuple.index, of no use here
    size: int  # payload bytes, at most MAX_PAYLOAD_BYTES


class Lane(Protocol):
    """See the module docstring. All methods but `cancel` raise `PEER_UNREACHABLE` on a broken lane,
    `PEER_STALLED` when nothing moved for the stall limit, `MESSAGE_MALFORMED` or
    `MESSAGE_OVERSIZED` on bytes that are no frame."""

    peer: str  # authenticated peer id
    path: str  # "direct", "plain", "tunnel" or "local"

    def send(self, kind: Kind, index: int = 0, *payload: Buffer) -> None:
        """Send one frame whose payload is the buffers, one after the other."""
        ...

    def receive(self) -> Frame:
        """Wait for the next frame that is no PULSE; its payload must be read before the next."""
        ...

    def read_into(self, target: memoryview) -> None:
        """The payload of the last received frame, which has exactly the size of `target`."""
        ...

    def read(self) -> bytes:
        """The payload of the last received frame."""
        ...

    def set_stall(self, limit: timedelta) -> None:
        """How long a send or receive may see nothing move."""
        ...

    def cancel(self) -> None:
        """End the lane at once, both ways."""
        ...
