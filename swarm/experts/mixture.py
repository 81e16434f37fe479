"""One model from the base and any experts of owners: the base's experts first, then theirs.

    model = mixture(base, [law, medicine])

A pure function: the order of the experts in the list does not matter, and without any the model is
the base, bit for bit. Rows and biases come with their experts.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

import numpy as np
import torch

from swarm.errors import Code, SwarmError
from swarm.experts.artifact import MATRICES, Expert
from swarm.experts.base import Base
from swarm.model.transformer import Transformer

EXTRA_EXPERTS = 3  # with a dense base, FlexOlmo gains up to 4 of 8 and nothing beyond
FULL_MARGIN = 2.5  # chosen among 0 to 4 with four and with six owners (docs/isolated.md)


def in_order(experts: Sequence[Expert]) -> list[Expert]:
    """Experts in the order of their places in a mixture: by domain, then id."""
    return sorted(experts, key=lambda expert: (expert.domain, expert.id))


def margin_of(experts: int) -> float:
    """By how much the base's biases are raised beside so many owners' experts.

    Each owner's router says "my text or public text?" and knows nothing of the others. The more
    there are, the more of them are wrong about a token at once: so more is left to the base. One
    expert alone works as its owner trained it.
    """
    return FULL_MARGIN * (1 - 1 / experts)


def mixture(
    base: Base,
    experts: Sequence[Expert],
    top_k: int | None = None,
    margin: float | None = None,
) -> Transformer:
    """The model of `base` with `experts`, all of which were checked against it.

    `top_k`: experts that process a token; by default `EXTRA_EXPERTS` more than in the base, or all.
    Owners train with one more: base and expert. `margin`: added to the biases of the base's
    experts, by default `margin_of` the number of the others, which stay as their owners made them.
    The weights of the chosen sum to 1, as in training: with a base of one expert always, else if
    they do in the base. Raises `USAGE` when an expert comes twice, `top_k` is out of range or
    `margin` not finite.
    """
    if not experts:
        return _copy(base)
    ordered = in_order(experts)
    total = base.size + len(ordered)
    wanted = min(base.model.config.top_k + EXTRA_EXPERTS, total) if top_k is None else top_k
    if len({expert.id for expert in ordered}) < len(ordered):
        raise SwarmError(Code.USAGE, "an expert was named twice")
    if not 1 <= wanted <= total:
        raise SwarmError(Code.USAGE, f"top-k {wanted} is not in 1..{total}")
    if margin is not None and not math.isfinite(margin):
        raise SwarmError(Code.USAGE, f"a margin of {margin} is no number")
    config = dataclasses.replace(
        base.model.config,
        num_experts=total,
        top_k=wanted,
        norm_topk_prob=base.size == 1 or base.model.config.norm_topk_prob,
        router_bias=True,
    )
    model = Transformer(config, seed=None)
    _put(model, dict(base.model.named_parameters()))
    for place, expert in enumerate(ordered, start=base.size):
        _put(model, _named(base, expert, place))
    _prefer(model, base.size, margin_of(len(ordered)) if margin is None else margin)
    return model


def _copy(base: Base) -> Transformer:
    model = Transformer(base.model.config, seed=None)
    _put(model, dict(base.model.named_parameters()))
    return model


def _named(base: Base, expert: Expert, place: int) -> dict[str, torch.Tensor]:
    """An expert's tensors by the names that they have at `place`."""
    named: dict[str, torch.Tensor] = {}
    for layer in range(base.model.config.num_layers):
        prefix = f"model.layers.{layer}.mlp"
        named[f"{prefix}.gate.weight.{place}"] = _tensor(expert.tensors.row(layer))
        named[f"{prefix}.gate.bias.{place}"] = torch.tensor(expert.tensors.bias(layer))
        matrices = expert.tensors.matrices(base, layer)
        for kind, values in zip(MATRICES, matrices, strict=True):
            named[f"{prefix}.experts.{place}.{kind}.weight"] = _tensor(values)
    return named


def _tensor(values: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.array(values, dtype=np.float32))


@torch.no_grad()
def _prefer(model: Transformer, count: int, margin: float) -> None:
    for moe in model.moe_layers:
        for place in range(count):
            moe.gate.bias[str(place)].fill_(margin)


@torch.no_grad()
def _put(model: Transformer, values: dict[str, torch.Tensor]) -> None:
    parameters = dict(model.named_parameters())
    for name, value in values.items():
        parameters[name].copy_(value)
