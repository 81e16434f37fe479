"""One model from many branches: averaged whole (soup), or with their experts side by side (BTX)."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch

from swarm.assembly.baselines.training import copy_of
from swarm.errors import Code, SwarmError
from swarm.model.transformer import Transformer

F32 = npt.NDArray[np.float32]


@torch.no_grad()
def soup(models: Sequence[Transformer], weights: Sequence[float] | None = None) -> Transformer:
    """The average of all parameters (arXiv 2203.05482), weighted equally by default.

    Raises `USAGE` when models differ in their dimensions, or weights are not positive in sum.
    """
    shares = np.asarray([1.0] * len(models) if weights is None else weights, dtype=np.float64)
    if any(model.config != models[0].config for model in models):
        raise SwarmError(Code.USAGE, "models of different dimensions can not be averaged")
    if shares.shape != (len(models),) or not shares.sum() > 0:
        raise SwarmError(Code.USAGE, f"{len(models)} models need as many weights, some above 0")
    shares /= shares.sum()
    mixed = copy_of(models[0]).requires_grad_(False)
    parts = [dict(model.named_parameters()) for model in models]
    for name, parameter in mixed.named_parameters():
        terms = (share * part[name].double() for share, part in zip(shares, parts, strict=True))
        parameter.copy_(torch.stack(list(terms)).sum(dim=0))
    return mixed


@torch.no_grad()
def btx(
    branches: Sequence[Transformer], rows_LED: F32, bias_LE: F32, top_k: int = 2
) -> Transformer:
    """Branch-Train-MiX (arXiv 2403.07816) without its last stage, which trains on pooled text.

    The branches' feed-forward networks become the experts; all else is averaged. As no router can
    be trained, its rows [L, E, D] and biases [L, E] are given, made as those of an assembly.
    """
    averaged = soup(branches)
    config = dataclasses.replace(
        averaged.config,
        num_experts=len(branches),
        top_k=top_k,
        norm_topk_prob=True,
        router_bias=True,
    )
    model = Transformer(config, seed=None)
    shared = dict(averaged.named_parameters())
    for name, parameter in model.named_parameters():
        if ".mlp." not in name:
            parameter.copy_(shared[name])
    for layer, moe in enumerate(model.moe_layers):
        for expert, one in enumerate(branches):
            place = str(expert)
            source = one.moe_layers[layer].experts["0"].state_dict()
            moe.experts[place].load_state_dict(source)
            moe.gate.weight[place].copy_(torch.from_numpy(rows_LED[layer, expert]))
            moe.gate.bias[place].copy_(torch.tensor(bias_LE[layer, expert]))
    return model.requires_grad_(False)
