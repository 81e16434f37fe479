"""Peak memory of an inner step, measured: parameters, gradients, optimizer, activations."""

from __future__ import annotations

import dataclasses
import weakref
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map_only

from swarm.data import Corpus, Sampler
from swarm.training.trainer import Trainer
from tests.benchmarks.learning.results import Line
from tests.benchmarks.learning.settings import Experiment


class LiveTensors(TorchDispatchMode):
    """Follows the memory of all tensors that operations make, until they are freed.

    Attributes:
        peak: most bytes at one time, those of the `known` tensors included.
    """

    def __init__(self, known: Iterable[Tensor]) -> None:
        super().__init__()
        self.peak = self._now = 0
        self._living: dict[weakref.ref[torch.UntypedStorage], int] = {}
        for tensor in known:
            self._follow(tensor)

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        tree_map_only(Tensor, self._follow, result)
        return result

    def _follow(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        if weakref.ref(storage) in self._living:
            return
        self._living[weakref.ref(storage, self._forget)] = storage.nbytes()
        self._now += storage.nbytes()
        self.peak = max(self.peak, self._now)

    def _forget(self, reference: weakref.ref[torch.UntypedStorage]) -> None:
        self._now -= self._living.pop(reference)


def peak_training_bytes(trainer: Trainer) -> int:
    """Most bytes of tensors at one time in a training step, whatever they are for.

    Makes two steps; the second counts, as the first one makes the optimizer's state.
    """
    trainer.train_step()
    known = [*trainer.model.parameters(), *trainer.optimizer.state_tensors().values()]
    with LiveTensors(known) as live:
        trainer.train_step()
    return live.peak


def measure_memory(experiment: Experiment, corpus: Corpus) -> list[Line]:
    """Peak of one peer of each arm that `memory_arms` names, with both models."""
    lines = []
    sizes = {"of the experiment": {}, "larger": experiment.memory_model}
    for name, changes in sizes.items():
        for arm in experiment.arms:
            if arm.name not in experiment.memory_arms:
                continue
            manifest = dataclasses.replace(
                arm.manifest, model=dataclasses.replace(arm.manifest.model, **changes)
            )
            training, held = manifest.training, range(manifest.sync.experts_per_peer)
            sampler = Sampler(corpus, training.batch_size, training.sequence_length, seed=0)
            trainer = Trainer(manifest, sampler, held)
            trainer.load_initial()
            lines.append(
                {
                    "part": "memory",
                    "model": name,
                    "arm": arm.name,
                    "title": arm.title,
                    "parameter_bytes": sum(p.nbytes for p in trainer.model.parameters()),
                    "peak_train_bytes": peak_training_bytes(trainer),
                }
            )
    return lines
