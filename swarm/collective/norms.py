"""Norms of contributions: clipping to the median, and who sent more than it declared. Pure.

    factors = clip_factors(plan.norms)              # by contributor: min(1, median / norm)
    watch = NormWatch(plan)                         # one per reducer and attempt
    watch.add("trunk.0", peer, values)              # raises `NormExceededError`
    accused = exceeded_norms(plan, reports)         # the leader, over all reducers' sums

Median-norm clipping (CLIPPED_MEAN) bounds what one peer can do to the mean: it counts at most as
much as the median contribution. A reducer sees only its parts, so nobody can measure a norm while
it reduces. Each contributor therefore declares the Euclidean norm of its whole contribution to a
fragment, as it is after the codec; the plan holds the norms, and everybody computes the same
factors. A lie is found when the sums of squares that the reducers saw add up to more than was
declared; a lie that declares too much only clips the liar.

The factors multiply the planned weights, which are not normalized again: clipping makes the mean
shorter, it does not give the clipped peer's share to the others.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence

import numpy as np

from swarm.collective.codecs import F32
from swarm.wire import collective_pb2 as pb

# Sums in fp32 differ by less; what a peer can win by it is nothing.
TOLERANCE = 1.01  # of squares
NORM_EXCEEDED = "NORM_EXCEEDED"


class NormExceededError(Exception):
    """A contribution is larger than declared; `peer` sent it."""

    def __init__(self, peer: str, fragment: str) -> None:
        super().__init__(f"{fragment} of {peer} is larger than the norm it declared")
        self.peer = peer


def clip_factors(norms: Sequence[float]) -> list[float]:
    """min(1, median / norm) for each contributor; the median is of the norms above 0."""
    positive = [n for n in norms if n > 0]
    median = float(np.median(positive)) if positive else 0.0
    return [min(1.0, median / n) if n > 0 else 1.0 for n in norms]


def squares_of(values: F32) -> float:
    """Sum of squares of a chunk; exact to about 1e-5, never overflowing for finite values."""
    squares = float(np.einsum("i,i->", values, values))  # one thread, unlike BLAS
    if not math.isfinite(squares):
        wide = values.astype(np.float64)
        squares = float(np.einsum("i,i->", wide, wide))
    return squares


class NormWatch:
    """Sums of squares of the contributions that one reducer saw."""

    def __init__(self, plan: pb.Plan) -> None:
        self._limits = _limits(plan)
        self._watched = {fragment for fragment, _ in self._limits}
        self._squares: dict[tuple[str, str], float] = defaultdict(float)

    def watches(self, fragment: str) -> bool:
        """Whether norms of contributions to the fragment were declared."""
        return fragment in self._watched

    def add(self, fragment: str, peer: str, values: F32) -> None:
        """Count a chunk. Raises `NormExceededError` as soon as the peer's sum is above its
        declared norm."""
        limit = self._limits.get((fragment, peer))
        if limit is None:
            return
        self._squares[fragment, peer] += squares_of(values)
        if self._squares[fragment, peer] > limit:
            raise NormExceededError(peer, fragment)

    def report(self) -> list[pb.PartNorm]:
        """What this reducer saw, for `Report.norms`."""
        return [
            pb.PartNorm(fragment=fragment, peer=peer, squares=squares)
            for (fragment, peer), squares in sorted(self._squares.items())
        ]


def _limits(plan: pb.Plan) -> dict[tuple[str, str], float]:
    return {
        (fragment.fragment, peer): norm * norm * TOLERANCE
        for fragment in plan.fragments
        if fragment.norms
        for peer, norm in zip(fragment.contributors, fragment.norms, strict=True)
    }


def exceeded_norms(plan: pb.Plan, reports: Mapping[str, pb.Report]) -> dict[str, str]:
    """Contributors whose parts add up to more than they declared, and why, by peer.

    `reports` are of reporting members. A member's word counts once for each fragment that it
    reduces and each contributor; like any reducer, it can accuse somebody falsely.
    """
    limits = _limits(plan)
    reducers = {f.fragment: {p.reducer for p in f.parts} for f in plan.fragments}
    total: dict[tuple[str, str], float] = defaultdict(float)
    for reporter, report in reports.items():
        said = {
            (n.fragment, n.peer): n.squares
            for n in report.norms
            if reporter in reducers.get(n.fragment, ()) and math.isfinite(n.squares)
        }
        for key, squares in said.items():
            total[key] += max(squares, 0.0)
    return {
        peer: f"its update of {fragment} is larger than it declared"
        for (fragment, peer), squares in sorted(total.items())
        if squares > limits.get((fragment, peer), math.inf)
    }
