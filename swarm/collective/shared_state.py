"""A shared state as one flat tensor: named arrays of any dtype laid end to end as bytes. Pure.

The bytes travel as fp32 values that nobody computes with. Names, dtypes and shapes are part of the
bytes, so peers with another layout have another hash, and a receiver can check what it gets.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import msgpack
import numpy as np
import numpy.typing as npt

from swarm.collective.codecs import F32
from swarm.errors import Code, SwarmError

Array = npt.NDArray[Any]


def _layout(state: Mapping[str, Array]) -> bytes:
    fields = [(name, state[name].dtype.str, list(state[name].shape)) for name in sorted(state)]
    return bytes(msgpack.packb(fields))


def pack(state: Mapping[str, Array], revision: int) -> tuple[F32, bytes]:
    """A copy of revision and arrays as flat fp32, and the layout that `unpack` needs.

    Raises `USAGE` for arrays of Python objects.
    """
    for name, array in state.items():
        if array.dtype.hasobject:
            raise SwarmError(Code.USAGE, f"{name!r} holds Python objects, not numbers")
    layout = _layout(state)
    header = len(layout).to_bytes(4, "little") + layout
    pieces = [header, revision.to_bytes(8, "little")]
    pieces += [np.ascontiguousarray(state[name]).tobytes() for name in sorted(state)]
    data = b"".join(pieces)
    data += bytes(-len(data) % 4)
    return np.frombuffer(data, dtype="<f4"), header


def unpack(values: F32, header: bytes) -> tuple[dict[str, Array], int]:
    """The arrays of a packed state, read-only views, and its revision.

    Raises `STATE_MISMATCH` when its layout is another than `header`'s.
    """
    data = values.data.cast("B").toreadonly()
    layout = [(n, np.dtype(d), tuple(s)) for n, d, s in msgpack.unpackb(header[4:])]
    sizes = [kind.itemsize * math.prod(shape) for _, kind, shape in layout]
    size = len(header) + 8 + sum(sizes)
    if bytes(data[: len(header)]) != header or len(data) != size + -size % 4:
        raise SwarmError(
            Code.STATE_MISMATCH,
            "the group's shared state has other names, shapes or dtypes than this peer's",
            "give sync_shared_state the same arrays on every peer",
        )
    state: dict[str, Array] = {}
    position = len(header) + 8
    revision = int.from_bytes(data[len(header) : position], "little")
    for (name, kind, shape), count in zip(layout, sizes, strict=True):
        view = np.frombuffer(data, dtype=np.uint8, count=count, offset=position)
        state[name] = view.view(kind).reshape(shape)
        position += count
    return state, revision
