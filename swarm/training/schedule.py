"""Inner learning rate as a pure function of the run's tokens, so that all peers agree on it."""

from __future__ import annotations

import math

from swarm.config import TrainingConfig


def learning_rate(config: TrainingConfig, tokens: int) -> float:
    """Linear warm-up to the peak over `warmup_tokens`, then a cosine down to the final ratio.

    `tokens` counts what the whole run has committed. After `total_tokens` the rate stays at
    `learning_rate * min_learning_rate_ratio`.
    """
    peak = config.learning_rate
    if tokens < config.warmup_tokens:
        return peak * tokens / config.warmup_tokens
    span = max(1, config.total_tokens - config.warmup_tokens)
    progress = min(1.0, (tokens - config.warmup_tokens) / span)
    floor = config.min_learning_rate_ratio
    return peak * (floor + (1.0 - floor) * 0.5 * (1.0 + math.cos(math.pi * progress)))


def gain_ramp(optimizer_age_steps: int, inner_steps: int) -> float:
    """Factor on the rate of a fragment whose Adam state is `optimizer_age_steps` old.

    Fresh second moments make the first steps too bold, so the rate rises over a tenth of a round.
    """
    return min(1.0, (optimizer_age_steps + 1) / max(1, inner_steps // 10))
