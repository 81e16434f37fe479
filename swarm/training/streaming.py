"""Which fragments a round averages, and how a result meets the steps made since. Pure.

With `stream.groups` = G a round has `inner_steps / G` steps and averages every G-th fragment, so
each fragment is averaged every `inner_steps` (Streaming DiLoCo, arXiv 2501.18512): the bytes of a
round fall to 1 / G, those of the run stay. A fragment that is not due keeps its local values.

With `stream.overlap` the next round is trained while this one is averaged. Three corrections say
what becomes of the local parameters x when the new ones, theta, arrive:

    delayed   theta + (x - x_sent)          the steps since are kept
    eager     theta + (x - x_guess)         the same, from a better guess of theta than x_sent
    mix       alpha x + (1 - alpha) theta   Streaming DiLoCo; the rest of x is in the next update

The guess of `eager` has this peer's new update together with the others' last ones (arXiv
2502.12996). All of it concerns local parameters only: what is committed has the same
bits everywhere, whatever a peer did with its own.
"""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
import numpy.typing as npt

from swarm.config import OuterConfig, StreamConfig
from swarm.model.fragments import FragmentLayout
from swarm.training.outer import outer_learning_rate

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


def guessed_theta(base: F32, base_before: F32, own: F32, own_before: F32, gain: float) -> F32:
    """What a fragment may become when the others' updates are not there yet (eager updates).

    It moves once more as it did from `base_before` to `base`, and by `gain` times what is new in
    this peer's own update. For plain averages, and `gain` the weight of this peer, that is the
    outer step on the mean of its new update and the others' last ones.
    """
    change = own - own_before
    change *= np.float32(gain)
    guess = base - base_before
    guess += base
    guess -= change
    return guess


def eager_gain(config: OuterConfig, contributors: int) -> float:
    """How far a fragment moves for one unit of change in one of `contributors` equal updates."""
    rate = outer_learning_rate(config, contributors)
    momentum = 0.0 if config.optimizer == "fedavg" else config.momentum
    return rate * (1.0 + momentum) / contributors


def corrected(config: StreamConfig, local: F32, reference: F32, theta: F32) -> F32:
    """Local parameters after `theta` has arrived; a new array.

    `reference` is where the local steps began: the parameters that were sent, or the eager guess.
    """
    if config.correction == "mix":
        alpha = np.float32(config.mixing)
        return local * alpha + theta * (np.float32(1.0) - alpha)
    return theta + (local - reference)
