"""The same model with an expert less, another number of active experts, or experts of low rank."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from swarm.errors import Code, SwarmError
from swarm.model.config import ModelConfig
from swarm.model.transformer import Transformer

Origins = Mapping[int, Sequence[int]]  # by expert, for each layer the expert that it began as


def with_top_k(model: Transformer, top_k: int) -> Transformer:
    """The model with `top_k` active experts. Raises `CONFIG_INVALID` when it has not as many."""
    config = dataclasses.replace(model.config, top_k=top_k)
    return _filled(model, config, dict(model.named_parameters()))


def without_expert(model: Transformer, expert: int) -> Transformer:
    """The model as if `expert` had never been in it; those above move down by one place.

    Raises `USAGE` for the only expert, or one that is not there.
    """
    total = model.config.num_experts
    if total == 1 or not 0 <= expert < total:
        raise SwarmError(Code.USAGE, f"expert {expert} of {total} can not be left out")
    top_k = min(model.config.top_k, total - 1)
    config = dataclasses.replace(model.config, num_experts=total - 1, top_k=top_k)
    kept = [place for place in range(total) if place != expert]
    values = dict(model.named_parameters())
    return _filled(model, config, {n: values[_moved(n, kept)] for n in _names(model, config)})


def with_rank(model: Transformer, origins: Origins, rank: int) -> Transformer:
    """The model with the experts in `origins` cut to `rank` (FlexMoRE, arXiv 2602.08818).

    What is cut is the difference of each matrix from that of the expert which it began as.
    """
    values = dict(model.named_parameters())
    for expert, by_layer in origins.items():
        for layer, origin in enumerate(by_layer):
            for kind in ("gate_proj", "up_proj", "down_proj"):
                prefix = f"model.layers.{layer}.mlp.experts."
                name = f"{prefix}{expert}.{kind}.weight"
                start = values[f"{prefix}{origin}.{kind}.weight"].detach()
                cut = start + _cut(values[name].detach() - start, rank)
                values[name] = torch.nn.Parameter(cut, requires_grad=False)
    return _filled(model, model.config, values)


def _cut(matrix: Tensor, rank: int) -> Tensor:
    u, singular, vt = torch.linalg.svd(matrix.double(), full_matrices=False)
    cut: Tensor = (u[:, :rank] * singular[:rank]) @ vt[:rank]
    return cut.to(matrix.dtype)


def _moved(name: str, kept: Sequence[int]) -> str:
    """The name in the larger model of a parameter of the one whose places are `kept`."""
    for part in (".mlp.experts.", ".mlp.gate.weight.", ".mlp.gate.bias."):
        before, found, after = name.partition(part)
        if found:
            place, dot, rest = after.partition(".")
            return f"{before}{found}{kept[int(place)]}{dot}{rest}"
    return name


def _names(model: Transformer, config: ModelConfig) -> list[str]:
    return [name for name, _ in Transformer(config, seed=None).named_parameters()]


@torch.no_grad()
def _filled(
    model: Transformer, config: ModelConfig, values: Mapping[str, torch.nn.Parameter]
) -> Transformer:
    made = Transformer(config, seed=None).requires_grad_(False)
    for name, parameter in made.named_parameters():
        parameter.copy_(values[name])
    return made
