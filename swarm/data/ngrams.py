"""Texts as counts of hashed n-grams of bytes: what they are about, seen without a model."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

F32 = npt.NDArray[np.float32]
LENGTHS = (3, 4, 5)  # bytes in an n-gram
_MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)  # of Fibonacci hashing


def hashed_ngrams(texts: Sequence[bytes], bucket_bits: int) -> F32:
    """Counts [N, D], logarithmic, each text's row of length 1 (of 0 for fewer than 3 bytes)."""
    rows_ND = np.zeros((len(texts), 1 << bucket_bits), np.float32)
    for row_D, text in zip(rows_ND, texts, strict=True):
        bytes_T = np.frombuffer(text, np.uint8).astype(np.uint64)
        for length in LENGTHS:
            row_D += np.bincount(_buckets(bytes_T, length, bucket_bits), minlength=len(row_D))
    rows_ND = np.log1p(rows_ND)
    rows_ND /= np.maximum(np.linalg.norm(rows_ND, axis=1, keepdims=True), 1e-12)
    return rows_ND


def _buckets(
    bytes_T: npt.NDArray[np.uint64], length: int, bucket_bits: int
) -> npt.NDArray[np.int64]:
    """The bucket of each n-gram of `length` bytes; the length is part of what is hashed."""
    count = max(0, len(bytes_T) - length + 1)
    packed_N = np.full(count, length, np.uint64)
    for offset in range(length):
        packed_N = packed_N * np.uint64(256) + bytes_T[offset : offset + count]
    return ((packed_N * _MULTIPLIER) >> np.uint64(64 - bucket_bits)).astype(np.int64)
