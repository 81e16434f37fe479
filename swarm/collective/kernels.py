"""How the contributions to a chunk become its result, for each `Operation` of the plan.

    kernel = make_kernel(fragment_plan, elements)   # elements: of the largest chunk
    kernel.begin(total)                             # flat fp32, becomes the result
    for position, values in enumerate(contributions_in_the_plan's_order):
        kernel.add(position, values)                # values are only read
    kernel.finish()

or, for weighted sums where they are compiled, in one go, in about half the time:

    kernel.at_once(codec, encoded_contributions, total, encoded_mean)   # False: not so

Contributions are taken in the plan's (sorted) order with separate fp32 multiplications and
additions, so a result depends neither on timing nor on the machine.

| operation | result | extra memory | MiB/s of contributions, 4 / 16 peers |
|---|---|---|---|
| MEAN, CLIPPED_MEAN | weighted sum | 1 chunk | 23,000 / 12,000 |
| SUM, MAX, MIN | of each coordinate | 1 chunk | 30,000 / 10,000 |
| TRIMMED_MEAN, MEDIAN | of each coordinate, no weights | n chunks | 5,000 / 1,500 |

(One thread of a 2-core Xeon, `python tests/benchmarks/bench_kernels.py`.)

TRIMMED_MEAN leaves out the `max(1, n // 4)` highest and as many lowest values of each coordinate,
so up to a quarter of the peers may lie; with fewer than 3 contributors it is the plain mean.
Sources: Yin et al. 2018 (arXiv 1803.01498) for trimmed mean and median.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
import numpy.typing as npt

from swarm.collective import codecs
from swarm.collective.codecs import F32, U8, Codec
from swarm.collective.norms import clip_factors
from swarm.wire import collective_pb2 as pb


class Kernel(Protocol):
    """See the module docstring; one per fragment and thread."""

    hides_infinities: bool  # a value that is not finite may leave no trace in the result

    def begin(self, total: F32) -> None:
        """Start a chunk whose result is written to `total`."""
        ...

    def add(self, position: int, values: F32) -> None:
        """The contribution of the plan's contributor number `position`; in order."""
        ...

    def finish(self) -> None:
        """The chunk's contributions are complete."""
        ...


def all_finite(values: F32) -> bool:
    """Whether no value of a contiguous array is NaN or infinite."""
    if codecs.compiled is not None:
        return bool(codecs.compiled.all_finite(values))
    return bool(np.isfinite(values).all())


def make_kernel(fragment: pb.FragmentPlan, elements: int) -> Kernel:
    """The kernel for a fragment of a plan; an unspecified operation is the mean."""
    count = len(fragment.contributors)
    if fragment.operation in (pb.MAX, pb.MIN):
        return Extreme(np.maximum if fragment.operation == pb.MAX else np.minimum)
    if fragment.operation == pb.MEDIAN:
        return Middle(count, (count - 1) // 2, elements)
    if fragment.operation == pb.TRIMMED_MEAN:
        return Middle(count, trimmed(count), elements)
    weights = [1.0] * count if fragment.operation == pb.SUM else list(fragment.weights)
    if fragment.operation == pb.CLIPPED_MEAN and fragment.norms:
        factors = clip_factors(fragment.norms)
        weights = [w * f for w, f in zip(weights, factors, strict=True)]
    return WeightedSum(weights, elements)


def trimmed(count: int) -> int:
    """How many values TRIMMED_MEAN leaves out at each end."""
    return max(1, count // 4) if count >= 3 else 0


class WeightedSum:
    """Weights are rounded to fp32."""

    hides_infinities = False

    def __init__(self, weights: list[float], elements: int) -> None:
        self._weights = np.array(weights, np.float32)
        self._term = np.empty(elements, np.float32)
        self._total: F32 = self._term

    def begin(self, total: F32) -> None:
        """See `Kernel`."""
        self._total = total

    def add(self, position: int, values: F32) -> None:
        """See `Kernel`."""
        weight: np.float32 = self._weights[position]
        if position == 0:
            np.multiply(values, weight, out=self._total)
        elif weight == 1:
            np.add(self._total, values, out=self._total)
        else:
            term = self._term[: values.size]
            np.multiply(values, weight, out=term)
            np.add(self._total, term, out=self._total)

    def finish(self) -> None:
        """See `Kernel`."""

    def at_once(
        self, codec: Codec, contributions: Sequence[U8 | F32], own: int, total: F32, mean: U8
    ) -> bool:
        """The whole chunk, and for a lossy codec what it makes of the result.

        `contributions` are encoded, but for number `own`, if there is such a one. `mean` is for the
        encoded result (empty where the codec is lossless), `total` gets what it decodes to: the
        same bits as one step after the other. False when it can not be done so, or when something
        is not finite or not decodable; what `total` and `mean` have then is of no use.
        """
        if codecs.compiled is None:
            return False
        add_up = getattr(codecs.compiled, f"sum_{codec.name}")
        return bool(add_up(tuple(contributions), own, self._weights, total, mean))


class Extreme:
    """The largest or smallest value of each coordinate."""

    hides_infinities = True

    def __init__(self, pick: np.ufunc) -> None:
        self._pick = pick
        self._total: F32 = np.empty(0, np.float32)

    def begin(self, total: F32) -> None:
        """See `Kernel`."""
        self._total = total

    def add(self, position: int, values: F32) -> None:
        """See `Kernel`."""
        if position == 0:
            np.copyto(self._total, values)
        else:
            self._pick(self._total, values, out=self._total)

    def finish(self) -> None:
        """See `Kernel`."""
        self._total += np.float32(0)  # which of 0 and -0 is larger depends on the machine


class Middle:
    """The mean of each coordinate's values without `cut` at each end of their order."""

    hides_infinities = True

    def __init__(self, count: int, cut: int, elements: int) -> None:
        self._rows_NE = np.empty((count, elements), np.float32)
        self._spare = np.empty(elements, np.float32)
        self._network = sorting_network(count)
        self._kept = range(cut, count - cut)
        self._total: F32 = self._spare

    def begin(self, total: F32) -> None:
        """See `Kernel`."""
        self._total = total

    def add(self, position: int, values: F32) -> None:
        """See `Kernel`."""
        self._rows_NE[position, : values.size] = values

    def finish(self) -> None:
        """See `Kernel`."""
        size = self._total.size
        rows: list[npt.NDArray[np.float32]] = [row[:size] for row in self._rows_NE]
        spare = self._spare[:size]
        for low, high in self._network:
            np.minimum(rows[low], rows[high], out=spare)
            np.maximum(rows[low], rows[high], out=rows[high])
            rows[low], spare = spare, rows[low]
        np.copyto(self._total, rows[self._kept[0]])
        for index in self._kept[1:]:
            np.add(self._total, rows[index], out=self._total)
        self._total *= np.float32(1 / len(self._kept))
        self._total += np.float32(0)  # as in `Extreme`


def sorting_network(count: int) -> list[tuple[int, int]]:
    """Pairs (low, high) to be put in order, one after the other; sorts `count` values.

    Batcher's merge exchange (Knuth, The Art of Computer Programming 5.2.2, algorithm M).
    """
    network: list[tuple[int, int]] = []
    top = 1 << max(count - 1, 0).bit_length() >> 1
    p = top
    while p > 0:
        q, r, d = top, 0, p
        while True:
            network += [(i, i + d) for i in range(count - d) if i & p == r]
            if q == p:
                break
            d, q, r = q - p, q >> 1, p
        p >>= 1
    return network
