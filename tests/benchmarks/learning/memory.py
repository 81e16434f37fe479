"""Peak memory of an inner step, measured: parameters, gradients, optimizer, activations."""

from __future__ import annotations

import weakref
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map_only

from swarm.training.trainer import Trainer


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
