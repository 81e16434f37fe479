"""Cosines between experts with the same bits on every machine.

A dot product in floating point depends on the order of its sum, and so on the BLAS, the SIMD width
and the number of threads. Values rounded to 16-bit integers do not have that problem: their
products are below 2**30, so sums of up to `BLOCK` of them are integers below 2**53, which fp64
holds exactly in whatever order they are added. Blocks are added as Python integers. What is left,
a square root and a division, is rounded correctly by IEEE 754 everywhere (adr/0012).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

F32 = npt.NDArray[np.float32]
F64 = npt.NDArray[np.float64]
LARGEST = 2**15 - 1  # of the rounded values
BLOCK = 1 << 22  # columns; LARGEST**2 * BLOCK < 2**53


def cosines(vectors: Sequence[F32]) -> F64:
    """Cosine of every pair of flat vectors of one length, [E, E]; 0 where a vector is zero.

    Within 1e-4 of the exact cosine for vectors whose values are of one magnitude.
    """
    count = len(vectors)
    dots = _gram(vectors)
    result = np.zeros((count, count))
    for i in range(count):
        for j in range(count):
            square = dots[i][i] * dots[j][j]
            if square:
                result[i, j] = float(dots[i][j]) / math.sqrt(float(square))
    return result


def nearest(cosines_EE: F64, expert: int, neighbours: int) -> list[int]:
    """The `neighbours` most similar other experts (at most all of them), in ascending order.

    Of equally similar ones those with the lower index.
    """
    others = [j for j in range(len(cosines_EE)) if j != expert]
    ranked = sorted(others, key=lambda j: (-cosines_EE[expert, j], j))
    return sorted(ranked[:neighbours])


def mean_cosine(cosines_EE: F64) -> float:
    """Mean over the pairs of different experts; 0 when there is only one."""
    count = len(cosines_EE)
    if count < 2:
        return 0.0
    pairs = cosines_EE[np.triu_indices(count, 1)].tolist()
    return math.fsum(pairs) / len(pairs)


def _gram(vectors: Sequence[F32]) -> list[list[int]]:
    """Exact dot products of the rounded vectors."""
    count, length = len(vectors), len(vectors[0]) if vectors else 0
    scales = [float(np.abs(v).max(initial=0.0)) for v in vectors]
    total = [[0] * count for _ in range(count)]
    width = max(1, min(BLOCK, BLOCK // max(1, count)))  # bounds the memory of the block too
    for start in range(0, length, width):
        rows = [_rounded(v[start : start + width], s) for v, s in zip(vectors, scales, strict=True)]
        block = np.stack(rows)
        for i, row in enumerate((block @ block.T).tolist()):
            total[i] = [old + int(new) for old, new in zip(total[i], row, strict=True)]
    return total


def _rounded(values: F32, largest: float) -> F64:
    """Values as fp64 integers, `largest` as LARGEST."""
    if largest == 0.0:
        return np.zeros(len(values))
    return np.rint(values.astype(np.float64) / largest * LARGEST)
