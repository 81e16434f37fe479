"""How many inner steps a peer does in a round, so that unequal peers arrive together. Pure.

DyLU (Async Local-SGD, arXiv 2401.09135): H_p = H * v_p / v_max, rounded down, so a slower peer is
early by less than a step and never late. In a synchronous round it is what FedCompass gives too:
one group, whose expected arrival is that of its fastest member with all its steps.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

NEWEST_SHARE = 0.9  # of the newest measurement in the smoothed speed (FedCompass)
SAME_SPEED = 1.03  # who is slower by less does all steps too: measurements vary by as much


def smoothed_seconds(before: float, measured: float) -> float:
    """Seconds per inner step after a new measurement; 0 = not known, for both."""
    if not measured > 0 or not math.isfinite(measured):
        return before
    if not before > 0:
        return measured
    return NEWEST_SHARE * measured + (1 - NEWEST_SHARE) * before


def step_counts(
    seconds_per_step: Mapping[str, float], inner_steps: int, min_inner_steps: int
) -> dict[str, int]:
    """Inner steps of each peer in the next round, `min_inner_steps` to `inner_steps`.

    Whose speed is not known (0) does all of them: it is measured by that.
    """
    known = [s for s in seconds_per_step.values() if s > 0]
    fastest = min(known, default=0.0)
    counts = {}
    for peer, seconds in sorted(seconds_per_step.items()):
        if seconds <= SAME_SPEED * fastest:
            counts[peer] = inner_steps
        else:
            counts[peer] = max(min_inner_steps, math.floor(inner_steps * fastest / seconds))
    return counts
