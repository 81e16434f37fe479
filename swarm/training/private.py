"""Training alone with differential privacy (DP-SGD, arXiv 1607.00133).

    training = PrivateTraining(base, corpus, Recipe(privacy=Privacy(epsilon=8, delta=1e-5)), secret)
    training.plan.epsilon                        # what the finished expert has spent

A record is a piece of one document of at most a sequence and a token; no token is in two. Each step
takes every record with the same chance, cuts each one's gradient to `max_grad_norm`, adds noise to
their sum, and gives that to Adam. The router's start is made of a noisy mean in the same way. What
is not covered: the held-out numbers and counts on a card, and whatever else is told of the text.

Gradients of single records come from passes over single records: the experts' hand-written gradient
has no batched form. Noise and samples are drawn from `secret`, which nobody else may know: who can
draw the noise again can take it away. They are floating-point numbers of a generator that was not
made for cryptography.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from swarm.data.corpus import Corpus
from swarm.data.tokenizer import ByteTokenizer
from swarm.errors import Code, SwarmError
from swarm.experts.artifact import ExpertTensors
from swarm.experts.base import Base
from swarm.experts.embedding import EMBED_TOKENS, F32, Tokens, embed
from swarm.training.balance import router_z_loss
from swarm.training.isolation import ExpertTraining, tensors_at
from swarm.training.privacy import PrivacyPlan, plan_privacy
from swarm.training.recipe import Recipe

EMBEDDING_LIMIT = 0.5  # norm of a record's embedding, in those of a typical token of public text
_START, _SAMPLE, _NOISE = range(3)  # streams of random numbers


class PrivateTraining(ExpertTraining):
    """As `ExpertTraining`, with `recipe.privacy` kept. `secret`: unpredictable bytes.

    Raises `USAGE` as `plan_privacy`, or without `recipe.privacy`.
    """

    def __init__(
        self, base: Base, corpus: Corpus, recipe: Recipe, secret: bytes, device: str = "cpu"
    ) -> None:
        privacy = recipe.privacy
        if privacy is None:
            raise SwarmError(Code.USAGE, "private training needs a privacy budget")
        # Each record is the owner's; the router would learn to win everywhere.
        recipe = dataclasses.replace(recipe, public_share=0.0, router_rate=0.0)
        self.records = cut_records(corpus.train, recipe.sequence_length + 1)
        self.plan = plan_privacy(privacy, len(self.records), recipe.batch_size, recipe.steps)
        self._key = noise_key(secret, base, corpus, recipe)
        start = private_start(base, self.records, recipe, self.plan, self._random(_START, 0))
        super().__init__(base, corpus, recipe, device, start)
        self._trained = [p for name, p in self.own.items() if ".mlp.gate." not in name]

    def _gradients(self) -> tuple[float, float]:
        """Noisy gradients of the records that this step's sample takes."""
        chosen = self._random(_SAMPLE, self.step).random(len(self.records)) < self.plan.sample_rate
        sums = [torch.zeros_like(parameter) for parameter in self._trained]
        losses = []
        for number in np.flatnonzero(chosen):
            loss, gradients = self._of_record(self.records[number])
            losses.append(loss)
            add_cut(sums, gradients, self.plan.max_grad_norm)
        self._make_noisy(sums)
        norm = math.sqrt(sum(float(value.square().sum()) for value in sums))
        return (sum(losses) / len(losses) if losses else self.loss), norm

    def _of_record(self, record: Tokens) -> tuple[float, Sequence[Tensor | None]]:
        tokens_1T = torch.from_numpy(record[None].astype(np.int64)).to(self._device)
        output = self.model(tokens_1T[:, :-1])
        loss = F.cross_entropy(output.logits_BTV.float().flatten(0, 1), tokens_1T[0, 1:])
        total = loss + self.recipe.z_loss_weight * router_z_loss(output.routing)
        gradients = torch.autograd.grad(total, self._trained, allow_unused=True)
        if not math.isfinite(loss.item()):
            raise SwarmError(
                Code.NON_FINITE,
                f"step {self.step + 1}: loss {loss.item()}",
                "nothing was changed; lower the learning rate",
            )
        return loss.item(), gradients

    def _make_noisy(self, sums: Sequence[Tensor]) -> None:
        """Also where no record had a gradient: what is left out would tell of the text."""
        random = self._random(_NOISE, self.step)
        deviation = self.plan.step_noise * self.plan.max_grad_norm
        for parameter, total in zip(self._trained, sums, strict=True):
            noise = torch.from_numpy(random.normal(0.0, deviation, tuple(total.shape)))
            total += noise.to(total)
            total /= self.recipe.batch_size  # the expected number; the actual one is secret
            parameter.grad = total

    def _random(self, stream: int, number: int) -> np.random.Generator:
        return np.random.Generator(np.random.Philox(key=self._key, counter=[0, 0, number, stream]))


def cut_records(tokens: Tokens, length: int) -> list[Tokens]:
    """Pieces of 2 to `length` tokens, ids [N]; each is of one document."""
    starts = np.union1d([0], np.flatnonzero(tokens == ByteTokenizer.BOS))
    pieces = []
    for start, end in zip(starts, [*starts[1:], len(tokens)], strict=True):
        pieces += [tokens[at : min(at + length, end)] for at in range(start, end, length)]
    return [piece for piece in pieces if len(piece) >= 2]


def noise_key(secret: bytes, base: Base, corpus: Corpus, recipe: Recipe) -> np.ndarray:
    """Key of the random numbers: other text or settings never see the same noise twice.

    Two experts with the same noise and a difference in anything else would tell it.
    """
    facts = json.dumps([base.id, corpus.sha256, dataclasses.asdict(recipe)], sort_keys=True)
    digest = hashlib.sha256(secret + facts.encode()).digest()
    return np.frombuffer(digest[:16], "<u8")


def add_cut(sums: Sequence[Tensor], values: Sequence[Tensor | None], limit: float) -> None:
    """Add one record's gradients to the sums, all together cut to the norm `limit`.

    Raises `NON_FINITE`, as no factor would cut such a gradient.
    """
    present = [value for value in values if value is not None]
    norm = math.sqrt(sum(float(value.double().square().sum()) for value in present))
    if not math.isfinite(norm):
        raise SwarmError(Code.NON_FINITE, "a gradient is not finite", "lower the learning rate")
    factor = min(1.0, limit / norm) if norm else 0.0
    for total, value in zip(sums, values, strict=True):
        if value is not None:
            total.add_(value, alpha=factor)


def private_start(
    base: Base,
    records: Sequence[Tokens],
    recipe: Recipe,
    plan: PrivacyPlan,
    random: np.random.Generator,
) -> ExpertTensors:
    """`initial_tensors` from a noisy mean of the records' embeddings, each cut to a norm.

    Of more records than `EMBED_TOKENS` allow, each is taken with the same chance; never by its
    place, which depends on the records before it.
    """
    count = min(len(records), max(1, EMBED_TOKENS // (recipe.sequence_length + 1)))
    chosen = random.random(len(records)) < count / len(records)
    shape = base.space.projection_LPD.shape[:2]
    limit = EMBEDDING_LIMIT * math.sqrt(shape[0] * shape[1])
    sum_LP = random.normal(0.0, plan.start_noise * limit, shape)
    for place in np.flatnonzero(chosen):
        embedding_LP = embed(base.model, base.space, records[int(place)])
        norm = float(np.linalg.norm(embedding_LP))
        sum_LP += embedding_LP * min(1.0, limit / max(norm, 1e-12))
    mean_LP: F32 = (sum_LP / count).astype(np.float32)
    return tensors_at(base, nearest_experts(base, mean_LP), mean_LP, recipe)


def nearest_experts(base: Base, embedding_LP: F32) -> tuple[int, ...]:
    """By layer, the base's expert that its router prefers for the state of an embedding."""
    nearest = []
    for layer, moe in enumerate(base.model.moe_layers):
        state_D = base.space.mean_LD[layer] + (
            np.linalg.pinv(base.space.projection_LPD[layer]) @ embedding_LP[layer]
        )
        rows = [moe.gate.weight[str(e)].detach().cpu().numpy() for e in range(base.size)]
        nearest.append(int(np.argmax(np.stack(rows) @ state_D)))
    return tuple(nearest)
