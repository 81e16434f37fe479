"""Schedule and router losses: pure functions with hand-computed values."""

from __future__ import annotations

import pytest
import torch

from swarm.config import BalanceConfig, TrainingConfig
from swarm.model.router import RouterStats
from swarm.training.balance import load_balance_loss, own_factor, router_z_loss
from swarm.training.schedule import gain_ramp, learning_rate

CONFIG = TrainingConfig(
    learning_rate=1.0, min_learning_rate_ratio=0.1, warmup_tokens=100, total_tokens=1100
)


def stats(probabilities: list[float], counts: list[int], z_loss: float = 0.0) -> RouterStats:
    probabilities_E = torch.tensor(probabilities, requires_grad=True)
    return RouterStats(probabilities_E, torch.tensor(counts), torch.tensor(z_loss))


def test_the_rate_warms_up_linearly_and_falls_on_a_cosine_of_the_runs_tokens() -> None:
    assert learning_rate(CONFIG, 0) == 0.0
    assert learning_rate(CONFIG, 25) == 0.25
    assert learning_rate(CONFIG, 100) == 1.0
    assert learning_rate(CONFIG, 600) == pytest.approx(0.55)
    assert learning_rate(CONFIG, 1100) == pytest.approx(0.1)
    assert learning_rate(CONFIG, 10**9) == pytest.approx(0.1)
    falling = [learning_rate(CONFIG, t) for t in range(100, 1101, 50)]
    assert falling == sorted(falling, reverse=True)


def test_a_run_without_warm_up_starts_at_the_peak() -> None:
    config = TrainingConfig(learning_rate=1.0, warmup_tokens=0, total_tokens=1)
    assert learning_rate(config, 0) == 1.0


def test_a_fresh_optimizer_state_ramps_up_over_a_tenth_of_a_round() -> None:
    assert [gain_ramp(age, 40) for age in (0, 1, 3, 4, 400)] == [0.25, 0.5, 1.0, 1.0, 1.0]
    assert gain_ramp(0, 5) == 1.0


def test_load_balance_is_one_when_uniform_and_grows_with_imbalance() -> None:
    assert load_balance_loss([stats([0.5, 0.5], [7, 7])], None).item() == pytest.approx(1.0)
    # E * sum f p = 2 * (0.75 * 0.6 + 0.25 * 0.4)
    assert load_balance_loss([stats([0.6, 0.4], [6, 2])], None).item() == pytest.approx(1.1)


def test_the_swarms_counts_replace_the_peers_own() -> None:
    layers = [stats([0.6, 0.4], [6, 2]), stats([0.6, 0.4], [6, 2])]
    swarm_LE = torch.tensor([[1.0, 3.0], [0.0, 0.0]])  # nothing known of the second layer
    loss = load_balance_loss(layers, swarm_LE)
    # first layer: 2 * (0.25 * 0.6 + 0.75 * 0.4) = 0.9; second falls back to its own: 1.1
    assert loss.item() == pytest.approx(1.0)
    loss.backward()
    # Expert 1 is overloaded in the swarm, so its probability is pushed down most.
    gradient_E = layers[0].probs_mean_E.grad
    assert gradient_E is not None and gradient_E[1] > gradient_E[0]


def test_a_peers_own_experts_count_less_in_the_first_fifth_of_the_run() -> None:
    config = BalanceConfig(own_factor=0.7)
    factors = [own_factor(config, progress) for progress in (0.0, 0.1, 0.2, 0.9, 2.0)]
    assert factors == pytest.approx([0.7, 0.85, 1.0, 1.0, 1.0])
    layers = [stats([0.5, 0.5], [5, 5])]
    loss = load_balance_loss(layers, None, torch.tensor([0.5, 1.0]))
    # shares 2.5 : 5, so 2 * (1/3 * 0.5 + 2/3 * 0.5); the own expert is pushed down less
    assert loss.item() == pytest.approx(1.0)
    loss.backward()
    assert layers[0].probs_mean_E.grad.tolist() == pytest.approx([2 / 3, 4 / 3])


def test_the_z_loss_is_the_mean_over_layers() -> None:
    assert router_z_loss([stats([1.0], [1], 2.0), stats([1.0], [1], 4.0)]).item() == 3.0
