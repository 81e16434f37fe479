"""Merging warm-up: similar experts are pulled together early in a run (SPES, arXiv 2602.11543).

In each layer every expert moves a little towards the mean of those most like it, compared by their
gate matrices: theta_i += strength * (mean of the neighbours - theta_i), each tensor with the tensor
of its own name. All of them are read before any is changed, so their order does not matter. Router
rows, momentum and optimizer states stay as they are. The strength is a pure function of the round.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from swarm.config import RunManifest
from swarm.model.fragments import FragmentLayout, TensorSlice
from swarm.training.similarity import cosines, mean_cosine, nearest

F32 = npt.NDArray[np.float32]
COMPARED = "gate_proj"  # the tensor that similarity is taken from


@dataclass(frozen=True)
class Merger:
    """What a merger did: cosines are means over layers and pairs of experts."""

    merged: dict[str, F32]
    strength: float
    cosine_before: float
    cosine_after: float


def merge_strength(manifest: RunManifest, round_index: int) -> float:
    """Strength of the merger at the end of a round (from 1); 0 when none is due.

    With fragments in groups each group has its merger in its turn: a cycle of rounds counts as one.
    """
    return _strengths(manifest, round_index)[0]


def merged_total(manifest: RunManifest, round_index: int) -> float:
    """Sum of the strengths of all mergers up to the end of a round, at most `merge.total_limit`."""
    return _strengths(manifest, round_index)[1]


def _strengths(manifest: RunManifest, round_index: int) -> tuple[float, float]:
    config, groups = manifest.merge, manifest.stream.groups
    if config.every_rounds == 0 or round_index < 1:
        return 0.0, 0.0
    cycle = (round_index - 1) // groups + 1
    strength = total = 0.0
    for at in range(config.every_rounds, min(cycle, config.rounds) + 1, config.every_rounds):
        nominal = config.strength * (1.0 - at / config.rounds)
        granted = min(nominal, config.total_limit - total)
        strength = granted if at == cycle else 0.0
        total += granted
    return strength, total


def merge_experts(
    layout: FragmentLayout,
    experts: Mapping[int, F32],
    receivers: Collection[int],
    strength: float,
    neighbours: int,
) -> Merger:
    """New flat values of the `receivers` among `experts` (flat fragments by index, unchanged).

    The same bits on every machine and for every order of the arguments.
    """
    order = sorted(experts)
    merged = {e: experts[e].copy() for e in sorted(receivers)}
    before = after = 0.0
    layers = range(layout.config.num_layers)
    for layer in layers:
        tensors = {e: _layer_tensors(layout, e, layer) for e in order}
        compared = {e: tensors[e][COMPARED] for e in order}
        table = cosines([compared[e].of(experts[e]).reshape(-1) for e in order])
        for e in merged:
            donors = [order[i] for i in nearest(table, order.index(e), neighbours)]
            if donors:
                _move(tensors, experts, donors, e, merged[e], strength)
        before += mean_cosine(table) / len(layers)
        now = {e: merged.get(e, experts[e]) for e in order}
        moved = cosines([compared[e].of(now[e]).reshape(-1) for e in order])
        after += mean_cosine(moved) / len(layers)
    names = {layout.expert_name(e): values for e, values in merged.items()}
    return Merger(names, strength, before, after)


def _layer_tensors(layout: FragmentLayout, expert: int, layer: int) -> dict[str, TensorSlice]:
    """Matrices of one expert in one layer, by kind; every expert has the same kinds."""
    prefix = f"model.layers.{layer}.mlp.experts.{expert}."
    parts = layout.tensors(layout.expert_name(expert))
    return {p.name[len(prefix) :].split(".")[0]: p for p in parts if p.name.startswith(prefix)}


def _move(
    tensors: Mapping[int, Mapping[str, TensorSlice]],
    experts: Mapping[int, F32],
    donors: list[int],
    expert: int,
    out: F32,
    strength: float,
) -> None:
    """Each operation is rounded to fp32 by itself, donors in ascending order."""
    count, share = np.float32(len(donors)), np.float32(strength)
    for kind, part in tensors[expert].items():
        own = part.of(experts[expert])
        mean = tensors[donors[0]][kind].of(experts[donors[0]]).copy()
        for donor in donors[1:]:
            np.add(mean, tensors[donor][kind].of(experts[donor]), out=mean)
        np.divide(mean, count, out=mean)
        np.subtract(mean, own, out=mean)
        np.multiply(mean, share, out=mean)
        np.add(own, mean, out=part.of(out))
