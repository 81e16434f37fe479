"""Low-rank experts: trained as factors, or cut to factors after training (FlexMoRE, 2602.08818).

    small = truncate(base, tensors, by_number(16))
    small = truncate(base, tensors, by_energy(0.9))
    small, rank = smallest_rank(base, tensors, loss_of, tolerance=0.01)

The difference of each matrix from the base's is cut by its singular values. What is kept tends to
be the domain, what is lost partly noise, so a cut expert can be better in an assembly than a whole
one.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from swarm.experts.artifact import MATRICES, ExpertTensors, origin_matrix
from swarm.experts.base import Base

F32 = npt.NDArray[np.float32]
RankOf = Callable[[F32], int]
"""Singular values of one matrix, largest first, to the number that is kept."""


class LowRankExpert(nn.Module):
    """Stands in for an `Expert` in training: the base's matrices, frozen, plus trained factors.

    For each matrix [out, in], `<kind>_b` [out, R] begins at zero and `<kind>_a` [R, in] uniform
    (arXiv 2106.09685), so training begins at the base exactly.
    """

    def __init__(self, base: Base, layer: int, origin: int, rank: int, seed: int) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed * 1_000_003 + layer)
        for kind in MATRICES:
            whole = torch.from_numpy(origin_matrix(base, layer, origin, kind).copy())
            out, width = whole.shape
            a = torch.rand(min(rank, out, width), width, generator=generator) * 2 - 1
            self.register_buffer(kind, whole, persistent=False)
            setattr(self, f"{kind}_a", nn.Parameter(a * (3 / width) ** 0.5))
            setattr(self, f"{kind}_b", nn.Parameter(torch.zeros(out, len(a))))

    @property
    def matrices(self) -> tuple[Tensor, Tensor, Tensor]:
        """Gate [F, D], up [F, D], down [D, F], with gradient to the factors."""
        gate, up, down = (self._matrix(kind) for kind in MATRICES)
        return gate, up, down

    def factors(self, kind: str) -> tuple[F32, F32]:
        """The trained factors `b` and `a` of one matrix."""
        b, a = (getattr(self, f"{kind}_{part}").detach().cpu().numpy() for part in "ba")
        return b.copy(), a.copy()

    def _matrix(self, kind: str) -> Tensor:
        whole, b, a = (getattr(self, name) for name in (kind, f"{kind}_b", f"{kind}_a"))
        matrix: Tensor = whole + b @ a
        return matrix


def by_number(rank: int) -> RankOf:
    """The same rank for every matrix."""
    return lambda singular: min(rank, len(singular))


def by_energy(share: float) -> RankOf:
    """For each matrix the smallest rank that keeps `share` of its squared singular values."""

    def rank_of(singular: F32) -> int:
        energy = np.cumsum(np.square(singular, dtype=np.float64))
        if energy[-1] == 0.0:
            return 0
        return min(len(singular), int(np.searchsorted(energy, share * energy[-1])) + 1)

    return rank_of


@dataclass(frozen=True)
class Decomposed:
    """Singular value decompositions of an expert's differences, computed once for all ranks."""

    base: Base
    tensors: ExpertTensors
    parts: dict[str, tuple[F32, F32, F32]]  # by prefix: U [out, n], values [n], V transposed

    @classmethod
    def of(cls, base: Base, tensors: ExpertTensors) -> Decomposed:
        """Decompose each matrix's difference from the base."""
        parts = {}
        for layer, origin in enumerate(tensors.origins):
            whole = tensors.matrices(base, layer)
            for kind, values in zip(MATRICES, whole, strict=True):
                difference = values - origin_matrix(base, layer, origin, kind)
                u, singular, vt = np.linalg.svd(difference.astype(np.float64), full_matrices=False)
                parts[f"layers.{layer}.{kind}"] = (u, singular, vt)
        return cls(base, tensors, parts)

    def cut(self, rank_of: RankOf) -> ExpertTensors:
        """The expert with its differences cut to the ranks that `rank_of` gives."""
        arrays = {
            name: values
            for name, values in self.tensors.arrays.items()
            if name.endswith((".row", ".bias"))
        }
        for prefix, (u, singular, vt) in self.parts.items():
            rank = rank_of(singular)
            root = np.sqrt(singular[:rank])
            arrays[f"{prefix}.b"] = np.ascontiguousarray(u[:, :rank] * root, np.float32)
            arrays[f"{prefix}.a"] = np.ascontiguousarray(root[:, None] * vt[:rank], np.float32)
        return ExpertTensors(arrays, self.tensors.origins)


def truncate(base: Base, tensors: ExpertTensors, rank_of: RankOf) -> ExpertTensors:
    """An expert as factors; row and bias stay as they are."""
    return Decomposed.of(base, tensors).cut(rank_of)


def smallest_rank(
    base: Base,
    tensors: ExpertTensors,
    loss_of: Callable[[ExpertTensors], float],
    tolerance: float,
) -> tuple[ExpertTensors, int]:
    """The smallest power of two as rank whose held-out loss is within `tolerance` of the whole's.

    `loss_of` measures an expert, lower is better. Returns the whole expert, and the full rank,
    when no smaller one is good enough.
    """
    decomposed = Decomposed.of(base, tensors)
    full = max(len(singular) for _, singular, _ in decomposed.parts.values())
    limit = loss_of(tensors) * (1 + tolerance)
    rank = 1
    while rank < full:
        cut = decomposed.cut(by_number(rank))
        if loss_of(cut) <= limit:
            return cut, rank
        rank *= 2
    return tensors, full
