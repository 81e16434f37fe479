"""Which fragments a round averages, and how a result meets the steps made since. Pure.

With `stream.groups` = G a round has `inner_steps / G` steps and averages every G-th fragment, so
each fragment is averaged every `inner_steps` (Streaming DiLoCo, arXiv 2501.18512): the bytes of a
round fall to 1 / G, those of the run stay. A fragment that is not due keeps its local values.

With `stream.overlap` the next round is trained while this one is averaged. Three corrections say
what becomes of the local parameters x when the new ones, theta, arrive:

    delayed   theta + (x - x_sent)          the steps since are kept
    eager     theta + (x - x_guess)         the same, from a better guess of theta than x_sent
    mix       alpha x + (1 - alpha) theta   Streaming DiLoCo; the rest of x is in the next update

The guess of `eager` is the outer step on this peer's new update together with the others' last
ones (arXiv 2502.12996). All of it concerns local parameters only: what is committed has the same
bits everywhere, whatever a peer did with its own.
"""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
import numpy.typing as npt

from swarm.config_learning import StreamConfig
from swarm.model.fragments import FragmentLayout

F32 = npt.NDArray[np.float32]


def group_of(layout: FragmentLayout, name: str, groups: int) -> int:
    """Group of a fragment: parts of the trunk and experts are dealt out in turn, each by itself."""
    expert = layout.expert_index(name)
    number = layout.trunk_names.index(name) if expert is None else expert
    return number % groups


def is_due(layout: FragmentLayout, name: str, groups: int, round_index: int) -> bool:
    """Whether round `round_index` (from 1) averages the fragment."""
    return group_of(layout, name, groups) == (round_index - 1) % groups


def due(layout: FragmentLayout, names: Collection[str], groups: int, round_index: int) -> list[str]:
    """Those of `names` that the round averages, in the layout's order."""
    return [n for n in layout.names if n in names and is_due(layout, n, groups, round_index)]


def guessed_mean(own: F32, own_before: F32, mean_before: F32, share: float) -> F32:
    """Mean update of a round whose other updates are not there yet (eager updates).

    `own` is this peer's update now, `own_before` its last one, which had the weight `share` in
    `mean_before`: the others are taken to do once more what they did.
    """
    change = own - own_before
    change *= np.float32(share)
    change += mean_before
    return change


def corrected(config: StreamConfig, local: F32, reference: F32, theta: F32) -> F32:
    """Local parameters after `theta` has arrived; a new array.

    `reference` is where the local steps began: the parameters that were sent, or the eager guess.
    """
    if config.correction == "mix":
        alpha = np.float32(config.mixing)
        return local * alpha + theta * (np.float32(1.0) - alpha)
    return theta + (local - reference)
