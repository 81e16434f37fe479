"""What a round did, in numbers for people: balance, specialization, agreement. Pure, only numpy.

entropy, load     how evenly tokens go to experts
cosine            how alike the experts are: near 1 they are the same expert many times
conflict          whether a peer's update points where the mean of all did
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from swarm.config import OuterConfig
from swarm.model.fragments import FragmentLayout
from swarm.training.similarity import cosines, mean_cosine

F32 = npt.NDArray[np.float32]
SAMPLE = 1 << 15  # values of one matrix or fragment that are looked at


def routing_entropy(counts_LE: npt.ArrayLike) -> float:
    """Entropy of the experts' shares, mean over layers, as a share of the possible: 0 to 1."""
    shares_LE = _shares(counts_LE)
    if shares_LE.shape[1] < 2:
        return 1.0
    logs_LE = np.log(np.where(shares_LE > 0, shares_LE, 1.0))
    return float(-(shares_LE * logs_LE).sum(axis=1).mean() / np.log(shares_LE.shape[1]))


def largest_load(counts_LE: npt.ArrayLike) -> float:
    """Tokens of the busiest expert in units of an even share, mean over layers: 1 to E."""
    shares_LE = _shares(counts_LE)
    return float(shares_LE.max(axis=1).mean() * shares_LE.shape[1])


def expert_cosine(layout: FragmentLayout, experts: Mapping[int, F32]) -> float:
    """Mean cosine of the pairs of experts (flat fragments by index), over all their matrices."""
    order = sorted(experts)
    layers = range(layout.config.num_layers)
    means = []
    for layer in layers:
        rows = [_matrices(layout, e, layer, experts[e]) for e in order]
        means.append(mean_cosine(cosines(rows)))
    return float(np.mean(means))


def mean_update(config: OuterConfig, before: tuple[F32, F32], after: tuple[F32, F32]) -> F32:
    """The mean update that made `after` of `before`, both (parameters, momentum).

    Of a fragment that was merged too, plain averages show the merger as a part of it.
    """
    if config.optimizer == "fedavg":
        return before[0] - after[0]
    return after[1] - np.float32(config.momentum) * before[1]


def agreement(own: Sequence[F32], mean: Sequence[F32]) -> float:
    """Cosine of a peer's update with the mean update, over all fragments; 0 if either is zero."""
    dot = own_squares = mean_squares = 0.0
    for a, b in zip(own, mean, strict=True):
        x, y = _sampled(a).astype(np.float64), _sampled(b).astype(np.float64)
        weight = len(a) / max(1, len(x))
        dot += weight * float(x @ y)
        own_squares += weight * float(x @ x)
        mean_squares += weight * float(y @ y)
    scale = float(np.sqrt(own_squares) * np.sqrt(mean_squares))
    return dot / scale if scale > 0 else 0.0


def _shares(counts_LE: npt.ArrayLike) -> npt.NDArray[np.float64]:
    counts = np.asarray(counts_LE, dtype=np.float64)
    return np.asarray(counts / np.maximum(1.0, counts.sum(axis=1, keepdims=True)))


def _matrices(layout: FragmentLayout, expert: int, layer: int, values: F32) -> F32:
    prefix = f"model.layers.{layer}.mlp.experts.{expert}."
    parts = [p for p in layout.tensors(layout.expert_name(expert)) if p.name.startswith(prefix)]
    return np.concatenate([_sampled(p.of(values).reshape(-1)) for p in parts])


def _sampled(values: F32) -> F32:
    """About `SAMPLE` values at most, evenly spaced."""
    return values[:: max(1, len(values) // SAMPLE)]
