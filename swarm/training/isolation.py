"""Training alone: one owner's expert beside the frozen base, with no network (FlexOlmo 3.3).

    trained = train_expert(base, corpus, Recipe(steps=500), on_step=print)
    expert = Expert("law", "law", trained.tensors)

The model in training is the mixture of the base and this one expert, so a base of one expert makes
two slots, both always active. Everything of the base is frozen (no gradient, no decay): it is the
anchor to which all owners coordinate without knowing one another. What is trained is the expert's
matrices, or their low-rank factors, and its router rows and biases, which begin as its text makes
them. A bias never becomes positive.

A part of each batch is public text, from the base (MetaMoE, arXiv 2605.14289): beside other
experts, a router gives an expert some tokens that are not of its domain. There the expert is to do
no harm, and its router learns when to stay out. Without public text the router is not trained.
"""

from __future__ import annotations

import dataclasses
import hashlib
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from swarm.data.corpus import Corpus
from swarm.data.documents import DataReport
from swarm.data.sampler import Sampler
from swarm.errors import Code, SwarmError
from swarm.experts.artifact import MATRICES, Expert, ExpertTensors, origin_matrix
from swarm.experts.base import Base
from swarm.experts.embedding import F32, Tokens, embed, most_used, router_start
from swarm.experts.mixture import mixture
from swarm.model.transformer import Transformer
from swarm.training.adamw import AdamW
from swarm.training.balance import router_z_loss
from swarm.training.low_rank import LowRankExpert
from swarm.training.recipe import Recipe

ADAM_KEYS = ("step", "exp_avg", "exp_avg_sq")


@dataclass(frozen=True)
class Step:
    """One step; `loss` is the cross entropy in nats per token."""

    number: int
    loss: float
    grad_norm: float


@dataclass(frozen=True)
class TrainedExpert:
    """The result, and the facts for its card. `tokens` are those of the owner's text."""

    tensors: ExpertTensors
    tokens: int
    loss: float


class ExpertTraining:
    """The loop of one owner; deterministic on a CPU for equal arguments.

    `start`: the expert before its first step, by default `initial_tensors`. Raises `DATA_EMPTY`
    when the text is shorter than one window.

    Attributes:
        own_tokens: of the owner's text, that all steps take together.
        public_tokens: of the base's sample, beside them.
    """

    def __init__(
        self,
        base: Base,
        corpus: Corpus,
        recipe: Recipe,
        device: str = "cpu",
        start: ExpertTensors | None = None,
    ) -> None:
        if recipe.sequence_length > base.model.config.context_length:
            limit = base.model.config.context_length
            raise SwarmError(Code.USAGE, f"sequences are longer than the base's context of {limit}")
        self.base = base
        self.recipe = recipe
        self.step = 0
        self.whole = True  # False while a step changes the state, and if that was interrupted
        self.loss = math.nan
        self._public = _public_sampler(base, recipe)
        public = self._public.batch_size if self._public is not None else 0
        own = recipe.batch_size - public
        self.sampler = Sampler(corpus, own, recipe.sequence_length, recipe.seed)
        self.own_tokens = recipe.steps * own * recipe.sequence_length
        self.public_tokens = recipe.steps * public * recipe.sequence_length
        start = start or initial_tensors(base, corpus.train, recipe)
        self.origins = start.origins
        self._device = torch.device(device)
        self.model = beside(base, start)
        if recipe.rank is not None:
            self._train_factors(recipe.rank)
        self.model.to(self._device)
        self.own = self._freeze_all_but_own()
        router = [p for name, p in self.own.items() if ".mlp.gate." in name]
        matrices = [p for name, p in self.own.items() if ".mlp.gate." not in name]
        groups: list[dict[str, Any]] = [
            {"params": matrices, "share": 1.0},
            {"params": router, "share": recipe.router_rate if public else 0.0},
        ]
        self._adam = AdamW(groups, lr=0.0, betas=(0.9, 0.95), weight_decay=0.0)

    def train_step(self) -> Step:
        """One AdamW step on the next batch.

        Raises `NON_FINITE` before anything is changed when the loss or a gradient is not finite.
        """
        position = self.sampler.state()
        try:
            loss, norm = self._gradients()
        except BaseException:
            self.sampler.restore(position)  # also interrupted: then this step was not begun
            raise
        self.whole = False
        for group in self._adam.param_groups:
            group["lr"] = self.recipe.rate(self.step) * group["share"]
        self._adam.step()
        self._keep_biases_negative()
        self.step, self.loss = self.step + 1, loss
        self.whole = True
        return Step(self.step, self.loss, norm)

    def _gradients(self) -> tuple[float, float]:
        """Loss and gradient norm of the next batch."""
        batch_BT = torch.from_numpy(self._next_batch()).to(self._device)
        output = self.model(batch_BT[:, :-1])
        logits_NV = output.logits_BTV.float().flatten(0, 1)
        loss = F.cross_entropy(logits_NV, batch_BT[:, 1:].flatten())
        total = loss + self.recipe.z_loss_weight * router_z_loss(output.routing)
        self.model.zero_grad(set_to_none=True)
        torch.autograd.backward(total)
        norm = nn.utils.clip_grad_norm_(self.own.values(), self.recipe.grad_clip).item()
        if not (math.isfinite(loss.item()) and math.isfinite(norm)):
            raise SwarmError(
                Code.NON_FINITE,
                f"step {self.step + 1}: loss {loss.item()}, gradient norm {norm}",
                "nothing was changed; lower the learning rate",
            )
        return loss.item(), norm

    def _next_batch(self) -> np.ndarray:
        own_BT = self.sampler.next_batch()
        if self._public is None:
            return own_BT
        self._public.position = self.step  # one batch a step, so it needs no state of its own
        return np.concatenate([own_BT, self._public.next_batch()])

    def tensors(self) -> ExpertTensors:
        """The expert as it is now."""
        arrays: dict[str, np.ndarray] = {}
        for layer, moe in enumerate(self.model.moe_layers):
            place, prefix = str(self.base.size), f"layers.{layer}"
            arrays[f"{prefix}.row"] = _array(moe.gate.weight[place])
            arrays[f"{prefix}.bias"] = _array(moe.gate.bias[place])
            expert = moe.experts[place]
            for kind in MATRICES:
                if isinstance(expert, LowRankExpert):
                    b, a = expert.factors(kind)
                    arrays |= {f"{prefix}.{kind}.b": b, f"{prefix}.{kind}.a": a}
                else:
                    arrays[f"{prefix}.{kind}.weight"] = _array(getattr(expert, kind).weight)
        return ExpertTensors(arrays, self.origins)

    def state_dict(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """All that going on needs: own parameters, Adam state, position in the text."""
        tensors = {name: value.detach().cpu().clone() for name, value in self.own.items()}
        for name, parameter in self.own.items():
            for key in ADAM_KEYS if parameter in self._adam.state else ():
                tensors[f"{name}/{key}"] = self._adam.state[parameter][key].detach().cpu()
        meta = {
            "base": self.base.id,
            "recipe": dataclasses.asdict(self.recipe),
            "step": self.step,
            "sampler": self.sampler.state(),
        }
        return tensors, meta

    def load_state_dict(self, tensors: Mapping[str, Tensor], meta: Mapping[str, Any]) -> None:
        """Go on exactly where `state_dict` was taken. Raises `CHECKPOINT_CORRUPT` if it is none.

        It must be of the same base, text and recipe.
        """
        same = (meta.get("base"), meta.get("recipe")) == (
            self.base.id,
            dataclasses.asdict(self.recipe),
        )
        if not same:
            raise SwarmError(
                Code.CHECKPOINT_CORRUPT,
                "the training state is of another base, or of other settings",
                "go on with the same settings, or begin in another directory",
            )
        self.sampler.restore(meta["sampler"])
        try:
            self.step = int(meta["step"])
            with torch.no_grad():
                for name, parameter in self.own.items():
                    parameter.copy_(tensors[name])
                    if f"{name}/{ADAM_KEYS[0]}" in tensors:  # else it had no gradient yet
                        state = {key: tensors[f"{name}/{key}"].clone() for key in ADAM_KEYS}
                        self._adam.state[parameter] = state
        except (KeyError, TypeError, ValueError, RuntimeError) as error:
            raise SwarmError(Code.CHECKPOINT_CORRUPT, f"unusable state: {error}") from error

    def _train_factors(self, rank: int) -> None:
        for layer, moe in enumerate(self.model.moe_layers):
            factors = LowRankExpert(self.base, layer, self.origins[layer], rank, self.recipe.seed)
            moe.experts[str(self.base.size)] = factors

    def _freeze_all_but_own(self) -> dict[str, nn.Parameter]:
        place, own = self.base.size, {}
        for name, parameter in self.model.named_parameters():
            is_own = f".mlp.experts.{place}." in name or name.endswith(
                (f".mlp.gate.weight.{place}", f".mlp.gate.bias.{place}")
            )
            parameter.requires_grad_(is_own)
            if is_own:
                own[name] = parameter
        return own

    @torch.no_grad()
    def _keep_biases_negative(self) -> None:
        for moe in self.model.moe_layers:
            cast(nn.Parameter, moe.gate.bias[str(self.base.size)]).clamp_(max=0.0)


def train_expert(
    base: Base,
    corpus: Corpus,
    recipe: Recipe,
    on_step: Callable[[Step], None] = lambda step: None,
) -> TrainedExpert:
    """Train to the end in one go; for stops in between, use `ExpertTraining`.

    Raises `DATA_EMPTY`, `USAGE` or `NON_FINITE`.
    """
    training = ExpertTraining(base, corpus, recipe)
    while training.step < recipe.steps:
        on_step(training.train_step())
    return TrainedExpert(training.tensors(), training.own_tokens, training.loss)


def _public_sampler(base: Base, recipe: Recipe) -> Sampler | None:
    """Windows of the base's sample, or None where there is too little of it or none is wanted."""
    wanted, length = recipe.public_sequences, recipe.sequence_length
    if not wanted or len(base.sample) <= length:
        return None
    digest = hashlib.sha256(base.sample.tobytes()).hexdigest()
    public = Corpus(base.sample, base.sample[:0], DataReport(), digest)
    return Sampler(public, wanted, length, recipe.seed)


def beside(base: Base, tensors: ExpertTensors) -> Transformer:
    """The model of an owner: a token takes one expert more than in the base."""
    return mixture(base, [Expert("own", "own", tensors)], base.model.config.top_k + 1)


def initial_tensors(base: Base, tokens: Tokens, recipe: Recipe) -> ExpertTensors:
    """The expert before its first step: a copy of the base's, its router made from the text.

    In each layer it is the base's expert that the text uses most.
    """
    embedding_LP = embed(base.model, base.space, tokens)
    return tensors_at(base, most_used(base.model, tokens), embedding_LP, recipe)


def tensors_at(
    base: Base, origins: tuple[int, ...], embedding_LP: F32, recipe: Recipe
) -> ExpertTensors:
    """Copies of the base's experts `origins`, by layer, with the router of an embedding [L, P]."""
    rows_LD, bias_L = router_start(base.space, embedding_LP, recipe.embedding_scale, recipe.margin)
    arrays: dict[str, np.ndarray] = {}
    for layer, origin in enumerate(origins):
        anchor = base.model.moe_layers[layer].gate.weight[str(origin)]
        arrays[f"layers.{layer}.row"] = _array(anchor) + rows_LD[layer]
        arrays[f"layers.{layer}.bias"] = bias_L[layer, ...]
        for kind in MATRICES:
            whole = origin_matrix(base, layer, origin, kind)
            arrays[f"layers.{layer}.{kind}.weight"] = whole.copy()
    return ExpertTensors(arrays, origins)


def _array(values: Tensor) -> np.ndarray:
    return values.detach().float().cpu().numpy().copy()
