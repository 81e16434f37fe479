"""The training process's memory: what a step needs, measured, and what it may take.

memory = WorkerMemory(trainer)
memory.measure()                        # two small steps; changes no state of the trainer
memory.fit(budget_bytes, vram_share)    # sets trainer.rows_at_once; says what it did
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from pathlib import Path

import psutil
import torch

from node.memory import free_bytes
from swarm.training.micro_batch import StepMemory
from swarm.training.trainer import Trainer

ADAM_BYTES = 8  # of each trained value: two moments, fp32
USABLE = 0.9  # share of what the machine has left that an unlimited node plans with
PEAK = "VmHWM:"
RESET_PEAK = "5"  # of /proc/self/clear_refs


class WorkerMemory:
    """See the module docstring."""

    def __init__(self, trainer: Trainer) -> None:
        self._trainer = trainer
        self._step = StepMemory(0, 0)
        self._cuda = trainer.device.type == "cuda"

    @property
    def least_bytes(self) -> int:
        """Main memory without which not even one sequence at once can be trained."""
        return int(psutil.Process().memory_info().rss) if self._cuda else self._step.one

    @property
    def peak_bytes(self) -> int:
        """What a step needs as it is computed now."""
        return self._step.peak_bytes(self._trainer.rows_at_once)

    def measure(self) -> None:
        """Find out what a step needs. The optimizer's state, not there yet, is added."""
        trainer = self._trainer
        trainer.try_step(1)  # what is loaded and kept by the first
        self._give_back()
        adam = 0
        if not trainer.step:
            adam = ADAM_BYTES * sum(p.numel() for p in trainer.optimizer.parameters)
        one = self._peak_of(lambda: trainer.try_step(1))
        two = self._peak_of(lambda: trainer.try_step(2))
        self._step = StepMemory(one + adam, two + adam)

    def fit(self, limit_bytes: int, vram_share: float) -> str:
        """Compute as many sequences at once as fit; 0 is no limit. Returns a change in words."""
        trainer = self._trainer
        before = trainer.rows_at_once
        budget = self._vram_budget(vram_share) if self._cuda else limit_bytes or self._free()
        trainer.rows_at_once = self._step.rows_within(budget, trainer.config.batch_size)
        if trainer.rows_at_once < before:
            self._give_back()
        if trainer.rows_at_once == before:
            return ""
        return (
            f"{trainer.rows_at_once} of {trainer.config.batch_size} sequences at once: "
            f"{self.peak_bytes / 1e6:.0f} MB of {budget / 1e6:.0f} MB"
        )

    def _free(self) -> int:
        """What this process may take of what is left, what it has already included."""
        return int(USABLE * free_bytes()) + psutil.Process().memory_info().rss

    def _vram_budget(self, share: float) -> int:
        device = self._trainer.device
        free, total = torch.cuda.mem_get_info(device)
        torch.cuda.set_per_process_memory_fraction(share or 1.0, device)
        return min(int((share or 1.0) * total), free + torch.cuda.memory_reserved(device))

    def _give_back(self) -> None:
        """Return freed memory to the system: `keep_freed_memory` makes malloc keep it."""
        if self._cuda:
            torch.cuda.empty_cache()
        libc = ctypes.CDLL(None)
        if hasattr(libc, "malloc_trim"):
            libc.malloc_trim(0)

    def _peak_of(self, work: Callable[[], None]) -> int:
        """The most that this process had while it worked, in bytes; 0 where that is not told."""
        if self._cuda:
            torch.cuda.reset_peak_memory_stats(self._trainer.device)
            work()
            return torch.cuda.max_memory_reserved(self._trainer.device)
        try:
            Path("/proc/self/clear_refs").write_text(RESET_PEAK)
            work()
            lines = Path("/proc/self/status").read_text().splitlines()
            return next(1024 * int(line.split()[1]) for line in lines if line.startswith(PEAK))
        except (OSError, StopIteration):
            return 0
