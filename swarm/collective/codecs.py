"""How a chunk of fp32 values is written on the wire: `fp32`, `bf16` or `int8`.

Encoding and decoding are exact functions of the bytes: whoever decodes the same bytes gets the same
fp32 bits, on any machine. That is what bit parity under lossy codecs rests on (the reducer encodes
the mean once and adopts its own decoding).

int8 is symmetric with one fp32 scale per block of 1024 values: payload = scales, then bytes.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np
import numpy.typing as npt

from swarm.errors import Code, SwarmError

F32 = npt.NDArray[np.float32]
INT8_BLOCK = 1024


class Codec(Protocol):
    """Encodes chunks of fp32 values; stateless."""

    name: str

    def encoded_bytes(self, elements: int) -> int:
        """Exact payload size of `elements` values."""
        ...

    def encode(self, values: F32) -> bytes:
        """Encode a contiguous chunk."""
        ...

    def decode(self, data: bytes, elements: int) -> F32:
        """Decode into `elements` fp32 values. Raises `MESSAGE_MALFORMED` on a wrong size."""
        ...


def _check_size(codec: Codec, data: bytes, elements: int) -> None:
    expected = codec.encoded_bytes(elements)
    if len(data) != expected:
        raise SwarmError(
            Code.MESSAGE_MALFORMED,
            f"{codec.name} chunk of {elements} values has {len(data)} bytes, not {expected}",
        )


class Fp32Codec:
    """Little-endian fp32, lossless."""

    name = "fp32"

    def encoded_bytes(self, elements: int) -> int:
        """Four bytes a value."""
        return 4 * elements

    def encode(self, values: F32) -> bytes:
        """The bytes as they are."""
        return values.astype("<f4", copy=False).tobytes()

    def decode(self, data: bytes, elements: int) -> F32:
        """A read-only view of the bytes."""
        _check_size(self, data, elements)
        return np.frombuffer(data, dtype="<f4")


class Bf16Codec:
    """Upper half of fp32, rounded to nearest even."""

    name = "bf16"

    def encoded_bytes(self, elements: int) -> int:
        """Two bytes a value."""
        return 2 * elements

    def encode(self, values: F32) -> bytes:
        """Round to nearest even by integer arithmetic; finite values only."""
        bits = values.astype("<f4", copy=False).view(np.uint32)
        rounded = bits + np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))
        return (rounded >> np.uint32(16)).astype("<u2").tobytes()

    def decode(self, data: bytes, elements: int) -> F32:
        """Exact widening."""
        _check_size(self, data, elements)
        halves = np.frombuffer(data, dtype="<u2").astype(np.uint32)
        return (halves << np.uint32(16)).view(np.float32)


class Int8Codec:
    """Symmetric int8 with one fp32 scale per 1024 values (largest magnitude / 127)."""

    name = "int8"

    def encoded_bytes(self, elements: int) -> int:
        """One byte a value and four per block."""
        return elements + 4 * -(-elements // INT8_BLOCK)

    def encode(self, values: F32) -> bytes:
        """Scale each block by its largest magnitude, round to nearest even."""
        blocks_BN = np.zeros((-(-values.size // INT8_BLOCK), INT8_BLOCK), dtype=np.float32)
        blocks_BN.reshape(-1)[: values.size] = values
        scale_B1 = np.abs(blocks_BN).max(axis=1, keepdims=True) / np.float32(127)
        inverse_B1 = np.divide(
            np.float32(1), scale_B1, out=np.zeros_like(scale_B1), where=scale_B1 > 0
        )
        # A scale in the subnormal range has an infinite inverse; such a block rounds to zero.
        inverse_B1[~np.isfinite(inverse_B1)] = 0
        quantized_BN = np.rint(blocks_BN * inverse_B1).clip(-127, 127).astype(np.int8)
        scales: bytes = scale_B1.astype("<f4").tobytes()
        quantized: bytes = quantized_BN.reshape(-1)[: values.size].tobytes()
        return scales + quantized

    def decode(self, data: bytes, elements: int) -> F32:
        """One multiplication a value."""
        _check_size(self, data, elements)
        num_blocks = -(-elements // INT8_BLOCK)
        scale_B = np.frombuffer(data, dtype="<f4", count=num_blocks)
        out = np.frombuffer(data, dtype=np.int8, offset=4 * num_blocks).astype(np.float32)
        out *= np.repeat(scale_B, INT8_BLOCK)[:elements]
        return out


CODECS: dict[str, Codec] = {c.name: c for c in (Fp32Codec(), Bf16Codec(), Int8Codec())}


def get_codec(name: str) -> Codec:
    """The codec of that name. Raises `MESSAGE_MALFORMED`: names come from other peers."""
    codec = CODECS.get(name)
    if codec is None:
        raise SwarmError(Code.MESSAGE_MALFORMED, f"unknown codec {name!r}")
    return codec
