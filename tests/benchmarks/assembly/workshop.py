"""Trains what the arms need, once for each seed, and keeps it on disk.

All owners together take `owner_steps` times six steps; the arms that are trained take as many, of
the same batches' size, with the same optimizer, rates and schedule.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import safetensors.numpy

from swarm.assembly.baselines import branch, copy_of, fine_tune, unrestricted_moe
from swarm.experts.artifact import MATRICES, Expert, ExpertTensors
from swarm.experts.base import Base, load_base, make_base, save_base
from swarm.experts.embedding import make_space
from swarm.model.config import ModelConfig
from swarm.model.hf import load_hf, save_hf
from swarm.model.transformer import Transformer
from swarm.training.isolation import ExpertTraining, initial_tensors
from swarm.training.recipe import Recipe
from tests.benchmarks.assembly.texts import OWNERS, Texts

MODEL = ModelConfig(
    d_model=64, num_layers=3, num_heads=4, num_kv_heads=4, d_ff=128, num_experts=1, top_k=1,
    context_length=128,
)  # fmt: skip
BASE_RATE = 4e-3
OWNER_RATE = 1.5e-3  # larger steps take experts so far from the base that they do not mix


@dataclass(frozen=True)
class Scale:
    """How long everything trains, in steps of `batch` windows of `length` tokens."""

    base_steps: int = 2000
    owner_steps: int = 150
    batch: int = 16
    length: int = 128

    @property
    def owner_tokens(self) -> int:
        """Tokens of one owner."""
        return self.owner_steps * self.batch * self.length


class Workshop:
    """The trained parts of one seed. Each is trained when it is first asked for."""

    def __init__(self, directory: Path, texts: Texts, scale: Scale, seed: int) -> None:
        self.directory, self.texts, self.scale, self.seed = directory, texts, scale, seed
        self.recipe = Recipe(
            steps=scale.owner_steps,
            batch_size=scale.batch,
            sequence_length=scale.length,
            learning_rate=OWNER_RATE,
            seed=seed,
        )

    def base(self) -> Base:
        """A dense model of the public text."""
        path = self.directory / "base"
        if not (path / "base.json").exists():
            model = Transformer(MODEL, seed=self.seed)
            recipe = dataclasses.replace(
                self.recipe, steps=self.scale.base_steps, learning_rate=BASE_RATE
            )
            fine_tune(model, [self.texts.public], recipe)
            save_base(make_base(model, self.texts.public.train, {}), path)
        return load_base(path)

    def experts(self) -> list[Expert]:
        """The owners' experts: anchored, their routers made from their texts, then trained."""
        return [self._expert("expert", d, self._anchored(d, self.recipe)) for d in OWNERS]

    def experts_without_public(self) -> list[Expert]:
        """Trained on the owners' texts alone, so their routers stay as the texts made them."""
        recipe = dataclasses.replace(self.recipe, public_share=0.0)
        return [self._expert("own-text", d, self._anchored(d, recipe)) for d in OWNERS]

    def experts_without_embedding(self) -> list[Expert]:
        """As `experts`, but router rows begin as the anchor's."""
        recipe = dataclasses.replace(self.recipe, embedding_scale=0.0)
        return [self._expert("plain-row", d, self._anchored(d, recipe)) for d in OWNERS]

    def experts_without_anchor(self) -> list[Expert]:
        """Trained in the base's place, on the owners' texts alone; rows as the texts made them."""
        return [self._expert("alone", d, self._unanchored(d)) for d in OWNERS]

    def experts_of_ngrams(self) -> list[Expert]:
        """As `experts`, but routers begin as n-grams of the texts make them."""
        base, public = self.base(), self.texts.public.train
        base = dataclasses.replace(base, space=make_space(base.model, public, ngrams=True))
        return [self._expert("ngrams", d, self._anchored(d, self.recipe, base)) for d in OWNERS]

    def routers(self) -> list[Expert]:
        """Copies of the base's expert with rows made from the owners' texts, not trained."""
        base = self.base()
        return [
            self._expert(
                "router", d, lambda d=d: initial_tensors(base, self.texts.own[d].train, self.recipe)
            )
            for d in OWNERS
        ]

    def branches(self) -> list[Transformer]:
        """Copies of the base, each trained whole by one owner."""
        return [
            self._model(
                f"branch-{d}", lambda d=d: branch(self.base().model, self.texts.own[d], self.recipe)
            )
            for d in OWNERS
        ]

    def unrestricted(self, times: int) -> Transformer:
        """A mixture of as many experts as the assembly has, trained on all texts together."""
        recipe = dataclasses.replace(self.recipe, steps=times * len(OWNERS) * self.recipe.steps)
        corpora = [*self.texts.own.values()]
        return self._model(
            f"unrestricted-{times}x",
            lambda: unrestricted_moe(self.base().model, corpora, recipe, len(OWNERS) + 1, 2),
        )

    def _anchored(
        self, domain: str, recipe: Recipe, base: Base | None = None
    ) -> Callable[[], ExpertTensors]:
        def train() -> ExpertTensors:
            training = ExpertTraining(base or self.base(), self.texts.own[domain], recipe)
            while training.step < recipe.steps:
                training.train_step()
            return training.tensors()

        return train

    def _unanchored(self, domain: str) -> Callable[[], ExpertTensors]:
        def train() -> ExpertTensors:
            start = {e.domain: e.tensors for e in self.routers()}[domain]
            model = copy_of(self.base().model)
            corpora = [self.texts.own[domain]]
            fine_tune(model, corpora, self.recipe, lambda name: ".mlp.experts." in name)
            arrays = dict(start.arrays)
            for layer, moe in enumerate(model.moe_layers):
                for kind, values in zip(MATRICES, moe.experts["0"].matrices, strict=True):
                    arrays[f"layers.{layer}.{kind}.weight"] = values.numpy().copy()
            return ExpertTensors(arrays, start.origins)

        return train

    def _expert(self, kind: str, domain: str, train: Callable[[], ExpertTensors]) -> Expert:
        path = self.directory / f"{kind}-{domain}.safetensors"
        if not path.exists():
            self.directory.mkdir(parents=True, exist_ok=True)
            partial = path.with_suffix(".partial")
            partial.write_bytes(train().pack())
            partial.rename(path)
        arrays: dict[str, np.ndarray] = safetensors.numpy.load(path.read_bytes())
        return Expert(f"{kind}-{domain}", domain, ExpertTensors(arrays, (0,) * MODEL.num_layers))

    def _model(self, name: str, train: Callable[[], Transformer]) -> Transformer:
        path = self.directory / name
        if not (path / "model.safetensors").exists():
            model = train()
            save_hf(path, model.config, model)
        return load_hf(path).requires_grad_(False)
