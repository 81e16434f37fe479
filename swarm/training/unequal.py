"""Scale of the update of a peer that does fewer steps than the others. Pure.

AdamW moves a peer by about its number of steps, whatever they were worth. So of peers that weigh by
tokens, one with twice the steps would count four times: twice in the weight, twice in the length of
its update. `step_scale` takes the length out (as FedNova does for SGD, arXiv 2007.07481).
"""

from __future__ import annotations


def step_scale(mean_steps: float, steps: int) -> float:
    """Factor on an update of `steps` (at least 1) inner steps; 1 when all do the same number.

    Its mean length is then that of an update of `mean_steps`, which the last commit says, so that
    everybody scales to the same.
    """
    if steps < 1 or not mean_steps > 0:
        raise ValueError("there is no update without a step")
    return mean_steps / steps
