"""Outer optimizers: hand-computed numbers, torch's convention, the same bits in any blocking."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest
import torch

from swarm.config import OuterConfig
from swarm.training import outer
from swarm.training.outer import fedavg_step, outer_learning_rate, outer_step, update_fragment


def vector(*values: float) -> np.ndarray:
    return np.array(values, dtype=np.float32)


def random_vector(count: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(count).astype(np.float32)


def test_two_nesterov_steps_computed_by_hand() -> None:
    theta, momentum = vector(1.0, -2.0), vector(0.0, 0.0)
    options = {"learning_rate": 0.5, "mu": 0.5, "out_theta": theta, "out_momentum": momentum}
    outer_step(theta, momentum, vector(1.0, 4.0), **options)
    # v = d; theta -= 0.5 * (d + 0.5 v) = 0.75 d
    assert momentum.tolist() == [1.0, 4.0] and theta.tolist() == [0.25, -5.0]
    outer_step(theta, momentum, vector(2.0, 0.0), **options)
    # v = 0.5 v + d = [2.5, 2]; theta -= 0.5 * (d + 0.5 v) = [1.625, 0.5]
    assert momentum.tolist() == [2.5, 2.0] and theta.tolist() == [-1.375, -5.5]


def test_nesterov_is_torchs_sgd_within_rounding() -> None:
    count = 3 * outer.BLOCK // 2 + 17
    parameter = torch.nn.Parameter(torch.from_numpy(random_vector(count, 0)))
    reference = torch.optim.SGD([parameter], lr=0.6, momentum=0.9, nesterov=True)
    theta = parameter.detach().numpy().copy()
    momentum = np.zeros_like(theta)
    for step in range(5):
        mean = random_vector(count, step + 1)
        parameter.grad = torch.from_numpy(mean.copy())
        reference.step()
        outer_step(
            theta,
            momentum,
            mean,
            learning_rate=0.6,
            mu=0.9,
            out_theta=theta,
            out_momentum=momentum,
        )
    np.testing.assert_allclose(theta, parameter.detach().numpy(), rtol=2e-6, atol=2e-6)


@pytest.mark.parametrize("block", [1, 7, 1000, 1 << 20])
def test_bits_do_not_depend_on_the_block_size_nor_on_working_in_place(
    block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    theta, momentum, mean = (random_vector(2500, seed) for seed in (1, 2, 3))
    # The formula, one rounded operation at a time.
    mu, rate = np.float32(0.9), np.float32(0.7)
    velocity = momentum * mu + mean
    expected = theta - (velocity * mu + mean) * rate
    monkeypatch.setattr(outer, "BLOCK", block)
    outer_step(
        theta, momentum, mean, learning_rate=0.7, mu=0.9, out_theta=theta, out_momentum=momentum
    )
    assert theta.tobytes() == expected.tobytes()
    assert momentum.tobytes() == velocity.tobytes()


def test_the_result_is_the_same_on_every_machine() -> None:
    """A golden hash: a fused or reordered operation anywhere changes it."""
    index = np.arange(10_000, dtype=np.float32)
    theta, momentum, mean = (index * np.float32(f) for f in (1.1e-3, -3.7e-4, 9.3e-5))
    outer_step(
        theta, momentum, mean, learning_rate=0.6, mu=0.9, out_theta=theta, out_momentum=momentum
    )
    digest = hashlib.sha256(theta.astype("<f4").tobytes() + momentum.astype("<f4").tobytes())
    assert digest.hexdigest()[:16] == "0003eaf5ae755f6b"


def test_fedavg_is_theta_minus_the_mean_and_keeps_no_momentum() -> None:
    config = OuterConfig(optimizer="fedavg", momentum=0.9)
    theta, momentum = random_vector(100, 1), np.zeros(100, dtype=np.float32)
    local = [random_vector(100, 2), random_vector(100, 3)]
    mean = ((theta - local[0]) + (theta - local[1])) / np.float32(2)
    out_theta, out_momentum = np.empty_like(theta), np.full(100, 9.0, dtype=np.float32)
    update_fragment(
        config, 2, theta, momentum, mean, out_theta=out_theta, out_momentum=out_momentum
    )
    assert out_theta.tobytes() == (theta - mean).tobytes()
    np.testing.assert_allclose(out_theta, (local[0] + local[1]) / 2, atol=1e-6)
    assert not out_momentum.any()
    in_place = theta.copy()
    fedavg_step(in_place, mean, out_theta=in_place)
    assert in_place.tobytes() == out_theta.tobytes()


def test_a_single_holder_under_fedavg_gets_exactly_its_own_parameters() -> None:
    config = OuterConfig(optimizer="fedavg")
    base, local = vector(1.0, 2.0, 3.0), vector(1.5, 1.0, 3.0)
    out, momentum = np.empty_like(base), np.zeros_like(base)
    update_fragment(config, 1, base, momentum, base - local, out_theta=out, out_momentum=momentum)
    assert out.tolist() == local.tolist()


def test_the_rate_follows_the_number_of_contributors_unless_it_is_given() -> None:
    auto = OuterConfig()
    rates = [outer_learning_rate(auto, n) for n in (1, 2, 4, 7, 8, 100)]
    assert rates == [0.4, 0.6, 0.6, 0.6, 0.8, 0.8]
    assert outer_learning_rate(OuterConfig(learning_rate=0.7), 1) == 0.7
    assert outer_learning_rate(OuterConfig(optimizer="fedavg", learning_rate=0.7), 4) == 1.0
    with pytest.raises(ValueError, match="left as it is"):
        outer_learning_rate(auto, 0)
