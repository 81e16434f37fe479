"""How much noise a privacy budget asks for, by the accountant of Opacus (Renyi, arXiv 1908.10530).

    plan = plan_privacy(Privacy(epsilon=8, delta=1e-5), records=5000, batch_size=16, steps=1000)
    plan.step_noise                    # noise multiplier of each step
    plan.epsilon                       # spent after all steps; at most what was asked

Two things are made of the text: the mean embedding that router rows come from, once, of all
records, and the steps, each of a Poisson sample. Both add Gaussian noise; their sum is accounted.
Needs `expertswarm[privacy]`. Two budgets differ by one record; their number counts as public.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass

from swarm.errors import Code, SwarmError
from swarm.training.recipe import Privacy

START_SHARE = 0.1  # of epsilon that the router's start may take alone
NOISE_RANGE = (0.3, 1e4)  # noise multipliers; below it the accountant's bound says nothing
PRECISION = 1.01
Mechanism = tuple[float, float, int]  # noise multiplier, sample rate, times


@dataclass(frozen=True, kw_only=True)
class PrivacyPlan:
    """What to add where. Noise multipliers are standard deviations in units of the norm limit."""

    records: int
    sample_rate: float
    steps: int
    start_noise: float
    step_noise: float
    max_grad_norm: float
    epsilon: float
    delta: float

    def facts(self) -> dict[str, float]:
        """For the card."""
        return {
            "epsilon": round(self.epsilon, 4),
            "delta": self.delta,
            "records": self.records,
            "sample_rate": self.sample_rate,
            "noise_multiplier": self.step_noise,
            "start_noise_multiplier": self.start_noise,
            "max_grad_norm": self.max_grad_norm,
        }


def plan_privacy(privacy: Privacy, records: int, batch_size: int, steps: int) -> PrivacyPlan:
    """The least noise, within 1 %, that keeps `steps` of `batch_size` records on average in budget.

    Raises `USAGE` when the records are too few for the batch, the batch or delta, when no noise is
    enough, or when Opacus is not installed.
    """
    if records <= batch_size or privacy.delta * records >= 1:
        raise SwarmError(
            Code.USAGE,
            f"{records} records are too few for batches of {batch_size} and delta {privacy.delta}",
            "delta must be below 1 / records; take more text, a smaller batch or a smaller delta",
        )
    rate = batch_size / records
    start = least_noise([], 1.0, 1, START_SHARE * privacy.epsilon, privacy.delta)
    before = [(start, 1.0, 1)]
    noise = least_noise(before, rate, steps, privacy.epsilon, privacy.delta)
    return PrivacyPlan(
        records=records,
        sample_rate=rate,
        steps=steps,
        start_noise=start,
        step_noise=noise,
        max_grad_norm=privacy.max_grad_norm,
        epsilon=spent([*before, (noise, rate, steps)], privacy.delta),
        delta=privacy.delta,
    )


def least_noise(
    before: Sequence[Mechanism], rate: float, steps: int, epsilon: float, delta: float
) -> float:
    """The smallest noise multiplier with which `before` and `steps` more stay within the budget."""
    low, high = NOISE_RANGE
    if spent([*before, (high, rate, steps)], delta) > epsilon:
        raise SwarmError(
            Code.USAGE,
            f"no noise keeps {steps} steps within epsilon {epsilon:g} at delta {delta:g}",
            "allow a larger epsilon or delta",
        )
    while high / low > PRECISION:
        middle = math.sqrt(low * high)
        if spent([*before, (middle, rate, steps)], delta) > epsilon:
            low = middle
        else:
            high = middle
    return high


def spent(mechanisms: Sequence[Mechanism], delta: float) -> float:
    """Epsilon of the mechanisms one after the other."""
    try:
        from opacus.accountants import RDPAccountant
    except ImportError as error:
        hint = "pip install 'expertswarm[privacy]'"
        raise SwarmError(Code.USAGE, "opacus is not installed", hint) from error
    accountant = RDPAccountant()
    accountant.history = list(mechanisms)
    with warnings.catch_warnings():  # that a tighter bound may exist
        warnings.simplefilter("ignore")
        return float(accountant.get_epsilon(delta=delta))
