"""Peers that do fewer steps, or are late: what their updates weigh."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from test_training_trainer import MANIFEST, fragments, trainer

from swarm.collective.plan import WEIGHT_CLIP, normalized_weights
from swarm.training.unequal import MAX_STALENESS, staleness_weight, step_scale


def test_scales_by_hand() -> None:
    assert step_scale(30.0, 30) == 1.0
    assert step_scale(16.5, 30) == 0.55 and step_scale(16.5, 3) == 5.5
    for mean, steps in ((0.0, 3), (30.0, 0)):
        with pytest.raises(ValueError, match="step"):
            step_scale(mean, steps)


def test_the_older_an_update_the_less_it_weighs_and_then_nothing() -> None:
    weights = [staleness_weight(rounds) for rounds in range(5)]
    assert weights[0] == 1.0 and weights[1] == pytest.approx(0.7071, abs=1e-4)
    assert weights[2] == pytest.approx(0.5774, abs=1e-4) and MAX_STALENESS == 2
    assert weights[:3] == sorted(weights[:3], reverse=True)  # the sign of the exponent
    assert weights[3:] == [0.0, 0.0]
    with pytest.raises(ValueError, match="later round"):
        staleness_weight(-1)


def test_a_stale_weight_by_hand_in_a_mean_of_two() -> None:
    weights = normalized_weights(
        {"early": 100 * staleness_weight(0), "late": 100 * staleness_weight(1)}, WEIGHT_CLIP
    )
    assert weights["late"] / weights["early"] == pytest.approx(2**-0.5)


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
