"""Peers that do fewer steps than others: what their updates weigh."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from test_training_trainer import MANIFEST, fragments, trainer

from swarm.training.unequal import step_scale


def test_scales_by_hand() -> None:
    assert step_scale(30.0, 30) == 1.0
    assert step_scale(16.5, 30) == 0.55 and step_scale(16.5, 3) == 5.5
    for mean, steps in ((0.0, 3), (30.0, 0)):
        with pytest.raises(ValueError, match="step"):
            step_scale(mean, steps)


def share_of_the_slow(scaled: bool) -> float:
    """Share of the mean update's length that is the slow peer's: 3 steps beside 30."""
    lengths = {}
    for peer, steps in (("fast", 30), ("slow", 3)):
        quiet = replace(MANIFEST, training=replace(MANIFEST.training, weight_decay=0.0))
        work = trainer(manifest=quiet)
        base = fragments(work)["trunk.0"]
        for _ in range(steps):
            work.train_step()
        delta = base - fragments(work)["trunk.0"]
        scale = step_scale(16.5, steps) if scaled else 1.0
        lengths[peer] = float(np.linalg.norm(delta)) * scale * steps  # weighs by its tokens
    return lengths["slow"] / sum(lengths.values())


def test_unscaled_a_slow_peer_counts_twice_less_and_scaled_as_its_tokens_say() -> None:
    """AdamW moves by the step, so raw updates favour the fast twice; 3 of 33 tokens are 9 %."""
    assert share_of_the_slow(scaled=False) < 0.04
    assert 0.07 < share_of_the_slow(scaled=True) < 0.3
