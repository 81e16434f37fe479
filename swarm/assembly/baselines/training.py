"""Models that are trained whole: one owner's branch, and a mixture of experts on all texts."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import nn

from swarm.data.corpus import Corpus
from swarm.data.sampler import Sampler
from swarm.errors import Code, SwarmError
from swarm.model.config import ModelConfig
from swarm.model.transformer import Transformer
from swarm.training.balance import load_balance_loss, router_z_loss
from swarm.training.recipe import Recipe

BALANCE_WEIGHT = 0.01  # as in OLMoE (arXiv 2409.02060)


def copy_of(model: Transformer) -> Transformer:
    """An independent model with the same weights, all trainable."""
    copied = Transformer(model.config, model.held, seed=None)
    copied.load_state_dict(model.state_dict())
    return copied.requires_grad_(True)


def fine_tune(
    model: Transformer,
    corpora: Sequence[Corpus],
    recipe: Recipe,
    trained: Callable[[str], bool] = lambda name: True,
    balance_weight: float = 0.0,
) -> None:
    """Train `model` in place, each step on the next of `corpora` in turn.

    `trained` chooses parameters by name. Optimizer, schedule and losses are those of
    `swarm.training.isolation`, so equal steps are equal compute but for frozen parameters.
    Raises `DATA_EMPTY` for a text shorter than a window and `NON_FINITE` when training diverges.
    """
    length, batch = recipe.sequence_length, recipe.batch_size
    samplers = [Sampler(corpus, batch, length, recipe.seed) for corpus in corpora]
    chosen = [p for name, p in model.named_parameters() if trained(name)]
    model.requires_grad_(False)
    for parameter in chosen:
        parameter.requires_grad_(True)
    adam = torch.optim.AdamW(chosen, lr=0.0, betas=(0.9, 0.95), weight_decay=0.0)
    for step in range(recipe.steps):
        batch_BT = torch.from_numpy(samplers[step % len(samplers)].next_batch())
        output = model(batch_BT[:, :-1])
        logits_NV = output.logits_BTV.float().flatten(0, 1)
        loss = F.cross_entropy(logits_NV, batch_BT[:, 1:].flatten())
        loss = loss + recipe.z_loss_weight * router_z_loss(output.routing)
        if balance_weight:
            loss = loss + balance_weight * load_balance_loss(output.routing, None)
        adam.zero_grad(set_to_none=True)
        torch.autograd.backward(loss)
        norm = nn.utils.clip_grad_norm_(chosen, recipe.grad_clip).item()
        if not (math.isfinite(loss.item()) and math.isfinite(norm)):
            raise SwarmError(Code.NON_FINITE, f"step {step}: loss {loss.item()}, gradient {norm}")
        adam.param_groups[0]["lr"] = recipe.rate(step)
        adam.step()
    model.requires_grad_(False)


def branch(base: Transformer, corpus: Corpus, recipe: Recipe) -> Transformer:
    """A copy of the base, all of it trained on one owner's text (BTM, arXiv 2208.03306)."""
    model = copy_of(base)
    fine_tune(model, [corpus], recipe)
    return model


def unrestricted_moe(
    base: Transformer, corpora: Sequence[Corpus], recipe: Recipe, experts: int, top_k: int
) -> Transformer:
    """A mixture whose experts begin as the dense base, trained whole on all texts together.

    Router rows begin at small values of the seed, so the experts part. With `recipe.steps` as
    large as all owners' together it has the same compute as they have.
    """
    config = dataclasses.replace(base.config, num_experts=experts, top_k=top_k, norm_topk_prob=True)
    model = upcycled(base, config, recipe.seed)
    fine_tune(model, corpora, recipe, balance_weight=BALANCE_WEIGHT)
    return model


@torch.no_grad()
def upcycled(base: Transformer, config: ModelConfig, seed: int) -> Transformer:
    """A model with the dense base's weights in every expert (arXiv 2212.05055).

    Raises `USAGE` when the base has several experts.
    """
    if base.config.num_experts != 1:
        raise SwarmError(Code.USAGE, f"a dense base has one expert, not {base.config.num_experts}")
    model = Transformer(config, seed=seed)
    values = dict(base.named_parameters())
    for name, parameter in model.named_parameters():
        if ".mlp.gate." not in name:
            parameter.copy_(values[dense_name(name)])
    return model


def dense_name(name: str) -> str:
    """The dense base's parameter for that of any expert."""
    before, found, after = name.partition(".mlp.experts.")
    return f"{before}{found}0.{after.split('.', 1)[1]}" if found else name
