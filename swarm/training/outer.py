"""Outer optimizer of one fragment: pure numpy functions on flat fp32 arrays.

Every peer must get the same bits, so each operation is separate and rounded to fp32 by itself: no
fused multiply-add, no sum whose order depends on the machine. Work goes in blocks that stay in the
cache, so that memory is read and written once.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from swarm.config import OuterConfig

F32 = npt.NDArray[np.float32]
BLOCK = 1 << 15  # values; three blocks of scratch and data fit a 512 KiB cache


def outer_learning_rate(config: OuterConfig, contributors: int) -> float:
    """Outer rate for a mean over `contributors` (at least 1) pseudo-gradients.

    By number of contributors as in "Scaling Laws for DiLoCo" (arXiv 2503.09799): 1 -> 0.4,
    2 to 7 -> 0.6, 8 or more -> 0.8. A rate in the configuration wins; `fedavg` has 1.
    """
    if contributors < 1:
        raise ValueError("without contributors a fragment is left as it is")
    if config.optimizer == "fedavg":
        return 1.0
    if config.learning_rate > 0:
        return config.learning_rate
    return 0.4 if contributors == 1 else 0.6 if contributors < 8 else 0.8


def update_fragment(
    config: OuterConfig,
    contributors: int,
    theta: F32,
    momentum: F32,
    mean: F32,
    *,
    out_theta: F32,
    out_momentum: F32,
) -> None:
    """Apply the run's outer optimizer to the mean of `contributors` pseudo-gradients.

    The outputs may be the inputs. Under `fedavg` the momentum is carried over as it is (zeros).
    """
    if config.optimizer == "fedavg":
        fedavg_step(theta, mean, out_theta=out_theta)
        if out_momentum is not momentum:
            out_momentum[...] = momentum
        return
    outer_step(
        theta,
        momentum,
        mean,
        learning_rate=outer_learning_rate(config, contributors),
        mu=config.momentum,
        out_theta=out_theta,
        out_momentum=out_momentum,
    )


def outer_step(
    theta: F32,
    momentum: F32,
    mean: F32,
    *,
    learning_rate: float,
    mu: float,
    out_theta: F32,
    out_momentum: F32,
) -> None:
    """SGD with Nesterov momentum in torch's convention: v = mu v + d; theta -= lr (d + mu v).

    `mean` is d, the mean of base minus local (DiLoCo, arXiv 2311.08105). All arrays are flat fp32
    of one length; the outputs may be the inputs.
    """
    rate, decay = np.float32(learning_rate), np.float32(mu)
    scratch = np.empty(min(BLOCK, len(theta)), dtype=np.float32)
    for start in range(0, len(theta), BLOCK):
        block = slice(start, min(start + BLOCK, len(theta)))
        velocity, delta = out_momentum[block], mean[block]
        step = scratch[: len(delta)]
        np.multiply(momentum[block], decay, out=velocity)
        np.add(velocity, delta, out=velocity)
        np.multiply(velocity, decay, out=step)
        np.add(step, delta, out=step)
        np.multiply(step, rate, out=step)
        np.subtract(theta[block], step, out=out_theta[block])


def fedavg_step(theta: F32, mean: F32, *, out_theta: F32) -> None:
    """theta - d: the plain mean of the contributors' parameters, as in SPES (arXiv 2602.11543)."""
    np.subtract(theta, mean, out=out_theta)
