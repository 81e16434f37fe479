"""Weights of peers that are not like the others: fewer steps, or late. Pure.

AdamW moves a peer by about its number of steps, whatever they were worth. So of peers that weigh by
tokens, one with twice the steps would count four times: twice in the weight, twice in the length of
its update. `step_scale` takes the length out (as FedNova does for SGD, arXiv 2007.07481).
"""

from __future__ import annotations

MAX_STALENESS = 2  # rounds; an older update is dropped
STALENESS_EXPONENT = -0.5  # below zero: the weight must fall with the age


def step_scale(mean_steps: float, steps: int) -> float:
    """Factor on an update of `steps` (at least 1) inner steps; 1 when all do the same number.

    Its mean length is then that of an update of `mean_steps`, which the last commit says, so that
    everybody scales to the same.
    """
    if steps < 1 or not mean_steps > 0:
        raise ValueError("there is no update without a step")
    return mean_steps / steps


def staleness_weight(rounds_late: int, max_staleness: int = MAX_STALENESS) -> float:
    """Factor on the weight of an update that missed its round: (1 + s)^-0.5, then 0.

    1 when it is in time (s = 0), 0.71 one round late, 0.58 two; later ones are dropped. It must be
    applied plainly: momentum on stale updates of single peers is what breaks asynchronous training
    (Async Local-SGD, arXiv 2401.09135).
    """
    if rounds_late < 0:
        raise ValueError("an update can not be of a later round")
    if rounds_late > max_staleness:
        return 0.0
    return float((1 + rounds_late) ** STALENESS_EXPONENT)
