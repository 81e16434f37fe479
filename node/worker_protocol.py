"""Messages between daemon and worker: a 4-byte big-endian length, then a msgpack map.

Every request has an `id`, and every message that answers it carries the same one, so an answer to
a request that nobody waits for any more is recognized.

    daemon -> worker   init, train, save, stop; to a round that is being trained: finish (end it
                       after the current step), arrive (the commit that it follows is there);
                       at any time: adjust (threads and memory that it may take from now on)
    worker -> daemon   progress_data, ready; progress, round_done; saved; error
"""

from __future__ import annotations

import struct
from typing import Any

import msgpack

from swarm.errors import Code, SwarmError

HEADER = struct.Struct(">I")
MAX_MESSAGE_BYTES = 16 << 20
Message = dict[str, Any]


def encode(message: Message) -> bytes:
    """The frame of a message."""
    body: bytes = msgpack.packb(message, use_bin_type=True)
    return HEADER.pack(len(body)) + body


def body_bytes(header: bytes) -> int:
    """Length of the body that follows `header`. Raises `MESSAGE_OVERSIZED`."""
    (length,) = HEADER.unpack(header)
    if length > MAX_MESSAGE_BYTES:
        raise SwarmError(Code.MESSAGE_OVERSIZED, f"{length} bytes between daemon and worker")
    return int(length)


def decode(body: bytes) -> Message:
    """The message in a frame's body. Raises `MESSAGE_MALFORMED`."""
    try:
        message = msgpack.unpackb(body, strict_map_key=False)
    except ValueError as error:
        raise SwarmError(Code.MESSAGE_MALFORMED, f"between daemon and worker: {error}") from error
    if not isinstance(message, dict) or not isinstance(message.get("type"), str):
        raise SwarmError(Code.MESSAGE_MALFORMED, "between daemon and worker: no type")
    return message
