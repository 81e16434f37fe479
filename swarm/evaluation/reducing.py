"""Fewer experts for a size budget: similar ones merged, or the least used ones left out.

    use_LE = measure(model, tokens).routing_shares
    smaller = merged(model, 4, use_LE, protected=1)
    smaller = pruned(model, 4, use_LE, protected=1)

Merging averages pairs weighted by use, in every layer the most similar ones first (MC-SMoE, arXiv
2310.01334). It needs no alignment of hidden units where experts began as copies of one: those of
owners do. A merged expert is nobody's own, so it can not be withdrawn: measure and export it, but
keep the assembly.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Sequence

import torch
from torch import Tensor

from swarm.errors import Code, SwarmError
from swarm.evaluation.measure import Shares
from swarm.evaluation.variants import without_expert
from swarm.model.experts import MixtureOfExperts
from swarm.model.transformer import Transformer

_KINDS = ("gate_proj", "up_proj", "down_proj")
_UNUSED = 1e-6  # least weight in an average, so that two unused experts have one


@torch.no_grad()
def merged(model: Transformer, keep: int, use_LE: Shares, protected: int = 0) -> Transformer:
    """The model with `keep` experts; the first `protected` stay as they are.

    `use_LE` [L, E]: the weights in averages, such as shares of routed tokens. Raises `USAGE` when
    `keep` is out of range.
    """
    _check(model, keep, protected)
    config = dataclasses.replace(
        model.config, num_experts=keep, top_k=min(model.config.top_k, keep)
    )
    smaller = Transformer(config, seed=None)
    values = dict(model.named_parameters())
    for name, parameter in smaller.named_parameters():
        if ".mlp.experts." not in name and ".mlp.gate." not in name:
            parameter.copy_(values[name])
    for layer, (source, target) in enumerate(
        zip(model.moe_layers, smaller.moe_layers, strict=True)
    ):
        use_E = [max(_UNUSED, float(use)) for use in use_LE[layer]]
        groups = _groups(source, keep, use_E, protected)
        for place, group in enumerate(groups):
            _put_average(source, target, group, [use_E[expert] for expert in group], place)
    return smaller.requires_grad_(False)


def pruned(model: Transformer, keep: int, use_LE: Shares, protected: int = 0) -> Transformer:
    """The model with its `keep` most used experts; arguments and errors as `merged`."""
    _check(model, keep, protected)
    total = use_LE.sum(axis=0)
    free = sorted(range(protected, model.config.num_experts), key=lambda e: (total[e], -e))
    for expert in sorted(free[: model.config.num_experts - keep], reverse=True):
        model = without_expert(model, expert)
    return model


def _check(model: Transformer, keep: int, protected: int) -> None:
    total = model.config.num_experts
    if not max(1, protected + (protected < total)) <= keep <= total:
        least = max(1, protected + 1)
        raise SwarmError(Code.USAGE, f"{keep} experts: need {least} to {total}")


def _groups(
    moe: MixtureOfExperts, keep: int, use_E: Sequence[float], protected: int
) -> list[list[int]]:
    """Experts that become one, in the order of the first of each; the most alike are put together.

    Likeness is the cosine of differences from the first expert where it is protected, since what
    they have in common says nothing.
    """
    flat = {e: _flat(moe, e) for e in range(len(use_E))}
    if protected:
        flat = {e: values - flat[0] for e, values in flat.items()}
    groups = [[expert] for expert in range(len(use_E))]
    while len(groups) > keep:
        centres = {
            number: sum((use_E[e] * flat[e] for e in group), torch.zeros_like(flat[0]))
            for number, group in enumerate(groups)
            if number >= protected
        }
        a, b = max(
            itertools.combinations(centres, 2),
            key=lambda pair: torch.cosine_similarity(centres[pair[0]], centres[pair[1]], dim=0),
        )
        groups[a] += groups.pop(b)
    return groups


def _flat(moe: MixtureOfExperts, expert: int) -> Tensor:
    matrices = (getattr(moe.experts[str(expert)], kind).weight for kind in _KINDS)
    return torch.cat([matrix.flatten() for matrix in matrices]).double()


def _put_average(
    source: MixtureOfExperts,
    target: MixtureOfExperts,
    group: Sequence[int],
    weights: Sequence[float],
    place: int,
) -> None:
    def average(parts: Sequence[Tensor]) -> Tensor:
        if len(parts) == 1:
            return parts[0]
        pairs = zip(weights, parts, strict=True)
        return torch.stack([weight / sum(weights) * part for weight, part in pairs]).sum(dim=0)

    for kind in _KINDS:
        matrices = [getattr(source.experts[str(e)], kind).weight for e in group]
        getattr(target.experts[str(place)], kind).weight.copy_(average(matrices))
    target.gate.weight[str(place)].copy_(average([source.gate.weight[str(e)] for e in group]))
    if source.gate.bias:
        target.gate.bias[str(place)].copy_(average([source.gate.bias[str(e)] for e in group]))
