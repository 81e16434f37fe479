"""How an owner trains an expert: all that a state has to agree on to be gone on from."""

from __future__ import annotations

import math
from dataclasses import dataclass

from swarm.errors import Code, SwarmError


@dataclass(frozen=True, kw_only=True)
class Privacy:
    """A budget of differential privacy, and the norm to which each record's gradient is cut."""

    epsilon: float
    delta: float = 1e-5
    max_grad_norm: float = 1.0

    def __post_init__(self) -> None:
        for name in ("epsilon", "max_grad_norm"):
            if not 0 < getattr(self, name) < math.inf:
                raise SwarmError(Code.USAGE, f"{name} must be above 0")
        if not 0 < self.delta < 1:
            raise SwarmError(Code.USAGE, "delta must be between 0 and 1")


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How an owner trains. The rate rises over `warmup` of the steps, then falls as a cosine."""

    steps: int = 1000
    batch_size: int = 16
    sequence_length: int = 128
    learning_rate: float = 2e-3
    final_rate: float = 0.1  # as a share of the peak
    warmup: float = 0.05
    # Of rows and biases, as a share of the experts'. It takes effect only beside public text: where
    # all text is one that the expert should win, rows learn to win everywhere.
    router_rate: float = 3.0
    # Of the sequences of a batch, how many are public text: what an expert has never seen it spoils
    # where a router sends it there by mistake.
    public_share: float = 0.5
    rank: int | None = None  # of trained factors; None trains whole matrices
    z_loss_weight: float = 1e-3
    grad_clip: float = 1.0
    embedding_scale: float = 2.0
    margin: float = 0.0
    seed: int = 0
    privacy: Privacy | None = None  # None: no guarantee

    def __post_init__(self) -> None:
        for name in ("steps", "batch_size", "sequence_length"):
            if getattr(self, name) < 1:
                raise SwarmError(Code.USAGE, f"{name} must be at least 1")
        if not 0 <= self.public_share < 1:
            raise SwarmError(Code.USAGE, "the share of public text must be from 0 to below 1")
        if self.rank is not None and self.rank < 1:
            raise SwarmError(Code.USAGE, "the rank must be at least 1")

    @property
    def public_sequences(self) -> int:
        """Sequences of public text in a batch; at least one is the owner's."""
        return min(self.batch_size - 1, round(self.public_share * self.batch_size))

    def rate(self, step: int) -> float:
        """Learning rate of the step with this number, from 0."""
        rising = self.warmup * self.steps
        if step + 1 < rising:
            return self.learning_rate * (step + 1) / rising
        progress = (step - rising) / max(1.0, self.steps - rising)
        cosine = 0.5 * (1 + math.cos(math.pi * min(1.0, max(0.0, progress))))
        return self.learning_rate * (self.final_rate + (1 - self.final_rate) * cosine)
