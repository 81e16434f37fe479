"""How a chunk of fp32 values is written on the wire: `fp32`, `bf16`, `int8` or `int4`.

    codec = get_codec("int8")
    data = np.empty(codec.encoded_bytes(values.size), np.uint8)
    codec.encode_into(values, data)
    codec.decode_into(data, values)

Encoding and decoding are exact functions of the bytes: whoever decodes the same bytes gets the same
fp32 bits, on any machine. That is what bit parity under lossy codecs rests on (the reducer encodes
the mean once and adopts its own decoding).

**What was decoded once encodes to the same bytes again**, in every codec. So an update that went
through the codec before it is offered (`swarm.collective.feedback`) reaches the reducer without a
further loss. It holds for chunks that begin at a multiple of `ALIGNMENT` values, where blocks begin
too.

int8 and int4 are symmetric with one fp32 scale per block (1024 and 64 values). A block is written
as its scale, then one byte a value, or half of one (of n values, `i` in the low and
`i + ceil(n / 2)` in the high half of byte `i`, plus 8). A scale has 16 significant bits, so that
scale times level is exact; that is why encoding again changes nothing.

**What a codec makes of aligned chunks, one after the other, is what it makes of all as one chunk**:
so the bytes that a result is decoded from do not depend on how a round was cut.

The lossy codecs are compiled (_kernels.c) where there was a C compiler at installation; the numpy
code here gives the same bytes, four to five times slower.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Protocol

import numpy as np
import numpy.typing as npt

from swarm.errors import Code, SwarmError

LAYOUT = 2  # of encoded bytes, as in _codecs.h

try:
    from swarm.collective import _kernels
except ImportError:
    compiled = None
else:
    # One that was compiled from older source would write bytes that nobody else reads.
    current = getattr(_kernels, "LAYOUT", 1) == LAYOUT
    compiled = _kernels if current and sys.byteorder == "little" else None

F32 = npt.NDArray[np.float32]
U8 = npt.NDArray[np.uint8]
ALIGNMENT = 1024  # values; a multiple of every block
INT8_BLOCK = 1024
INT4_BLOCK = 64
PIECE = 64 * ALIGNMENT  # values that are worked on at a time
TINY = np.finfo(np.float32).tiny  # blocks with a smaller scale are written as zeros
# The largest scale with 16 significant bits whose 128-fold is finite.
MAX_SCALE = np.array(0x7BFFFF00, np.uint32).view(np.float32)
BF16_MAX = np.array(0x7F7F0000, np.uint32).view(np.float32)


class Codec(Protocol):
    """Encodes chunks of fp32 values; stateless.

    Values that are not finite stay so, or make `decode_into` raise `NON_FINITE`; finite values
    never become infinite.
    """

    name: str
    lossless: bool
    finite: bool  # whatever `decode_into` gives is finite

    def encoded_bytes(self, elements: int) -> int:
        """Exact payload size of `elements` values."""
        ...

    def encode_into(self, values: F32, out: U8) -> None:
        """Encode a contiguous chunk; `out` has exactly its encoded size."""
        ...

    def decode_into(self, data: U8, out: F32) -> None:
        """Decode exactly `out.size` values.

        Raises `MESSAGE_MALFORMED` on a wrong size or impossible scales, `NON_FINITE` on scales that
        are not finite.
        """
        ...


def encode(codec: Codec, values: F32) -> U8:
    """The encoded bytes of a chunk."""
    out = np.empty(codec.encoded_bytes(values.size), np.uint8)
    codec.encode_into(values, out)
    return out


def decode(codec: Codec, data: bytes | U8, elements: int) -> F32:
    """`elements` fp32 values. Raises as `Codec.decode_into`."""
    out = np.empty(elements, np.float32)
    codec.decode_into(np.frombuffer(data, np.uint8), out)
    return out


def _check_size(codec: Codec, data: U8, elements: int) -> None:
    expected = codec.encoded_bytes(elements)
    if data.size != expected:
        raise SwarmError(
            Code.MESSAGE_MALFORMED,
            f"{codec.name} chunk of {elements} values has {data.size} bytes, not {expected}",
        )


class Fp32Codec:
    """Little-endian fp32."""

    name = "fp32"
    lossless = True
    finite = False

    def encoded_bytes(self, elements: int) -> int:
        """Four bytes a value."""
        return 4 * elements

    def encode_into(self, values: F32, out: U8) -> None:
        """A copy of the bytes."""
        out.view("<f4")[:] = values

    def decode_into(self, data: U8, out: F32) -> None:
        """A copy of the bytes."""
        _check_size(self, data, out.size)
        out[:] = data.view("<f4")


class Bf16Codec:
    """Upper half of fp32, rounded to nearest even."""

    name = "bf16"
    lossless = False
    finite = False

    def encoded_bytes(self, elements: int) -> int:
        """Two bytes a value."""
        return 2 * elements

    def encode_into(self, values: F32, out: U8) -> None:
        """Round by integer arithmetic; finite values stay finite."""
        if compiled is not None:
            compiled.encode_bf16(values, out)
            return
        finite = bool(np.isfinite(values).all())
        bits = np.clip(values, -BF16_MAX, BF16_MAX).view(np.uint32)
        odd = bits >> np.uint32(16)
        odd &= np.uint32(1)
        bits += np.uint32(0x7FFF)
        bits += odd
        bits >>= np.uint32(16)
        if not finite:
            bits[~np.isfinite(values)] = 0x7FC0  # NaN
        np.copyto(out.view("<u2"), bits, casting="unsafe")

    def decode_into(self, data: U8, out: F32) -> None:
        """Exact widening."""
        _check_size(self, data, out.size)
        if compiled is not None:
            compiled.decode_bf16(data, out)
            return
        bits = out.view(np.uint32)
        np.copyto(bits, data.view("<u2"))
        bits <<= np.uint32(16)


class _BlockCodec:
    """Symmetric quantization to -levels..levels with one scale per block."""

    name: str
    lossless = False
    finite = True
    block: int
    levels: int

    def _num_blocks(self, elements: int) -> int:
        return -(-elements // self.block)

    def encoded_bytes(self, elements: int) -> int:
        """See `Codec`."""
        raise NotImplementedError

    def _pack(self, levels_BN: F32, out_BN: U8) -> None:
        """Write whole numbers within the levels."""
        raise NotImplementedError

    def _unpack(self, data_BN: U8, out_BN: F32) -> None:
        """Read what `_pack` wrote."""
        raise NotImplementedError

    def _runs(self, values: F32, data: U8) -> Iterator[tuple[F32, U8]]:
        """Blocks as rows, with their bytes: full ones, some at a time, then a shorter one.

        So few at a time that what is between stays in the processor's cache.
        """
        size, full = self.encoded_bytes(self.block), values.size // self.block
        step = PIECE // self.block
        for begin in range(0, full, step):
            end = min(full, begin + step)
            rows_BN = values[begin * self.block : end * self.block].reshape(-1, self.block)
            yield rows_BN, data[begin * size : end * size].reshape(-1, size)
        if full * self.block < values.size:
            yield values[full * self.block :].reshape(1, -1), data[full * size :].reshape(1, -1)

    def _encode(self, values: F32, out: U8) -> None:
        """NaN as the scale of a block that is not finite."""
        with np.errstate(all="ignore"):
            for rows_BN, data_BN in self._runs(values, out):
                levels_BN = np.abs(rows_BN)
                scale_B = self._scale(levels_BN.max(axis=1))
                data_BN[:, :4].view("<f4")[:, 0] = scale_B
                inverse_B = np.divide(np.float32(1), scale_B)
                inverse_B[scale_B == 0] = 0
                np.copyto(levels_BN, inverse_B[:, None])  # twice as fast as to multiply by a column
                np.multiply(rows_BN, levels_BN, out=levels_BN)
                np.rint(levels_BN, out=levels_BN)
                if (scale_B >= MAX_SCALE).any():
                    np.clip(levels_BN, -self.levels, self.levels, out=levels_BN)
                self._pack(levels_BN, data_BN[:, 4:])

    def _scale(self, largest_B: F32) -> F32:
        scale_B = largest_B / np.float32(self.levels)
        bits_B = scale_B.view(np.uint32)
        bits_B += np.uint32(0xFF)
        bits_B &= np.uint32(0xFFFFFF00)
        np.minimum(scale_B, MAX_SCALE, out=scale_B)
        scale_B[scale_B < TINY] = 0
        scale_B[~np.isfinite(largest_B)] = np.nan
        return scale_B

    def _decode(self, data: U8, out: F32) -> None:
        for rows_BN, data_BN in self._runs(out, data):
            scale_B: F32 = data_BN[:, :4].view("<f4")[:, 0]
            if not ((scale_B >= 0) & (scale_B <= MAX_SCALE)).all():
                if np.isfinite(scale_B).all():
                    raise SwarmError(Code.MESSAGE_MALFORMED, f"{self.name} chunk: impossible scale")
                raise SwarmError(Code.NON_FINITE, f"{self.name} chunk: a scale is not finite")
            self._unpack(data_BN[:, 4:], rows_BN)
            rows_BN *= scale_B[:, None]


class Int8Codec(_BlockCodec):
    """One byte a value, one scale per 1024 (largest magnitude / 127)."""

    name = "int8"
    block = INT8_BLOCK
    levels = 127

    def encoded_bytes(self, elements: int) -> int:
        """One byte a value and four per block."""
        return elements + 4 * self._num_blocks(elements)

    def encode_into(self, values: F32, out: U8) -> None:
        """Scale each block by its largest magnitude, round to nearest even."""
        if compiled is not None:
            compiled.encode_int8(values, out)
        else:
            self._encode(values, out)

    def decode_into(self, data: U8, out: F32) -> None:
        """One exact multiplication a value."""
        _check_size(self, data, out.size)
        if compiled is None or not compiled.decode_int8(data, out):
            self._decode(data, out)

    def _pack(self, levels_BN: F32, out_BN: U8) -> None:
        np.copyto(out_BN.view(np.int8), levels_BN, casting="unsafe")

    def _unpack(self, data_BN: U8, out_BN: F32) -> None:
        np.copyto(out_BN, data_BN.view(np.int8))


class Int4Codec(_BlockCodec):
    """Half a byte a value, one scale per 64 (largest magnitude / 7)."""

    name = "int4"
    block = INT4_BLOCK
    levels = 7

    def encoded_bytes(self, elements: int) -> int:
        """Half a byte a value, rounded up, and four per block."""
        return (elements + 1) // 2 + 4 * self._num_blocks(elements)

    def encode_into(self, values: F32, out: U8) -> None:
        """Scale each block by its largest magnitude, round to nearest even."""
        if compiled is not None:
            compiled.encode_int4(values, out)
        else:
            self._encode(values, out)

    def decode_into(self, data: U8, out: F32) -> None:
        """One exact multiplication a value."""
        _check_size(self, data, out.size)
        if compiled is None or not compiled.decode_int4(data, out):
            self._decode(data, out)

    def _pack(self, levels_BN: F32, out_BN: U8) -> None:
        levels_BN += np.float32(8)
        half = out_BN.shape[1]
        np.copyto(out_BN, levels_BN[:, :half], casting="unsafe")
        high_BN = levels_BN[:, half:].astype(np.uint8)
        out_BN[:, : high_BN.shape[1]] |= high_BN << np.uint8(4)

    def _unpack(self, data_BN: U8, out_BN: F32) -> None:
        half = data_BN.shape[1]
        np.copyto(out_BN[:, :half], data_BN & np.uint8(15))
        np.copyto(out_BN[:, half:], (data_BN >> np.uint8(4))[:, : out_BN.shape[1] - half])
        out_BN -= np.float32(8)


CODECS: dict[str, Codec] = {c.name: c for c in (Fp32Codec(), Bf16Codec(), Int8Codec(), Int4Codec())}


def get_codec(name: str) -> Codec:
    """The codec of that name. Raises `MESSAGE_MALFORMED`: names come from other peers."""
    codec = CODECS.get(name)
    if codec is None:
        raise SwarmError(Code.MESSAGE_MALFORMED, f"unknown codec {name!r}")
    return codec
