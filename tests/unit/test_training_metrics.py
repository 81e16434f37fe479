"""Numbers about balance, specialization and agreement: computed by hand where they can be."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from swarm.config import BalanceConfig, OuterConfig, RunManifest, TrainingConfig
from swarm.data import Corpus, DataReport, Sampler
from swarm.model.config import ModelConfig
from swarm.model.fragments import FragmentLayout, initial_fragment
from swarm.model.transformer import Transformer
from swarm.training.coupling import coupling_loss
from swarm.training.metrics import (
    agreement,
    expert_cosine,
    largest_load,
    mean_update,
    routing_entropy,
)
from swarm.training.outer import update_fragment
from swarm.training.probe import RoutingProbe, routing_divergence
from swarm.training.trainer import Trainer

MODEL = ModelConfig(d_model=16, num_layers=2, num_heads=2, num_kv_heads=2, d_ff=24, num_experts=4)
TOKENS = torch.arange(64).view(2, 32)


def vector(*values: float) -> np.ndarray:
    return np.array(values, dtype=np.float32)


def test_entropy_is_one_when_even_and_zero_when_one_expert_gets_all() -> None:
    assert routing_entropy([[5, 5, 5, 5], [1, 1, 1, 1]]) == pytest.approx(1.0)
    assert routing_entropy([[9, 0, 0, 0], [0, 9, 0, 0]]) == 0.0
    assert routing_entropy([[4, 4, 0, 0]]) == pytest.approx(0.5)  # ln 2 / ln 4
    assert routing_entropy([[3]]) == 1.0


def test_the_largest_load_is_in_units_of_an_even_share() -> None:
    assert largest_load([[5, 5, 5, 5]]) == 1.0
    assert largest_load([[8, 0, 0, 0], [1, 1, 1, 1]]) == 2.5


def test_experts_that_are_copies_have_cosine_one() -> None:
    layout = FragmentLayout.of(MODEL, 1, "expert")
    one = initial_fragment(MODEL, layout, "expert.0", 0)
    other = initial_fragment(MODEL, layout, "expert.1", 0)
    assert expert_cosine(layout, {0: one, 1: one, 2: one}) == pytest.approx(1.0)
    assert abs(expert_cosine(layout, {0: one, 1: other})) < 0.1
    opposite = expert_cosine(layout, {0: one, 1: one, 2: -one})
    assert opposite == pytest.approx(-1 / 3)  # 1, -1, -1


@pytest.mark.parametrize("optimizer", ["nesterov", "fedavg"])
def test_the_mean_update_can_be_read_off_two_commits(optimizer: str) -> None:
    config = OuterConfig(optimizer=optimizer)
    theta, momentum, mean = vector(1.0, 2.0), vector(0.0, 0.0), vector(0.25, -0.5)
    after = np.empty_like(theta), np.empty_like(theta)
    update_fragment(config, 2, theta, momentum, mean, out_theta=after[0], out_momentum=after[1])
    assert mean_update(config, (theta, momentum), after).tolist() == mean.tolist()


def test_agreement_is_the_cosine_over_all_fragments() -> None:
    assert agreement([vector(3.0), vector(4.0)], [vector(6.0), vector(8.0)]) == pytest.approx(1.0)
    assert agreement([vector(1.0, 0.0)], [vector(0.0, 1.0)]) == 0.0
    assert agreement([vector(1.0)], [vector(-2.0)]) == -1.0
    assert agreement([vector(0.0)], [vector(1.0)]) == 0.0


# ---- the routing of a fixed batch ---------------------------------------------------------------


def test_the_same_parameters_route_the_same_and_others_differ() -> None:
    probe = RoutingProbe(TOKENS)
    first, again = Transformer(MODEL, seed=1), Transformer(MODEL, seed=1)
    before = probe.look(first)
    assert [layer.shape for layer in before] == [(4, 64), (4, 64)]
    assert torch.allclose(before[0].sum(dim=0), torch.ones(64))
    assert all(torch.equal(a, b) for a, b in zip(before, probe.look(again), strict=True))
    assert routing_divergence(before, before) == 0.0
    with torch.no_grad():
        for layer in again.model.layers:
            layer.mlp.gate.weight["2"] += 1.0
    changed = probe.look(again)
    assert routing_divergence(before, changed) > 0.01


def test_the_divergence_by_hand() -> None:
    p, q = torch.tensor([[0.5], [0.5]]), torch.tensor([[0.25], [0.75]])
    expected = 0.5 * np.log(0.5 / 0.25) + 0.5 * np.log(0.5 / 0.75)
    assert routing_divergence([p, p], [q, p]) == pytest.approx(expected / 2)


def test_experts_that_a_peer_does_not_hold_have_probability_zero() -> None:
    held = Transformer(MODEL, [1, 3], seed=1)
    look = RoutingProbe(TOKENS).look(held)
    assert look[0][[0, 2]].sum() == 0 and look[0][[1, 3]].min() > 0


def test_more_than_ten_experts_are_told_apart() -> None:
    model = Transformer(replace(MODEL, num_experts=12), seed=1)
    layer = model.model.layers[0].mlp
    with torch.no_grad():
        for e in range(12):
            layer.gate.weight[str(e)].fill_(1.0 if e == 10 else 0.0)
    look = RoutingProbe(TOKENS).look(model)[0]
    assert torch.equal(look[2], look[11]) and not torch.allclose(look[10], look[2])


# ---- coupling of experts and router -------------------------------------------------------------


def coupled_model(own: float, other: float, experts: int = 2) -> Transformer:
    """Row i is unit vector i; gate j answers to it with `own` if i = j, else with `other`."""
    model = Transformer(replace(MODEL, num_experts=experts, num_layers=1), seed=0)
    with torch.no_grad():
        mlp = model.model.layers[0].mlp
        for e in range(experts):
            mlp.gate.weight[str(e)].zero_()[e] = 1.0
            gate = mlp.experts[str(e)].gate_proj.weight.zero_()
            gate[0, :experts] = other
            gate[0, e] = own
    return model


def test_the_coupling_loss_by_hand() -> None:
    # A = [[2, 5], [5, 2]]: both terms are relu(5 - 2) for both pairs, over n^2 = 4
    assert coupling_loss(coupled_model(2.0, 5.0), 1.0, noise=False).item() == pytest.approx(3.0)
    # alpha 0.5: relu(5 - 1), so 4 * 4 / 4
    assert coupling_loss(coupled_model(2.0, 5.0), 0.5, noise=False).item() == pytest.approx(4.0)
    assert coupling_loss(coupled_model(5.0, 2.0), 1.0, noise=False).item() == 0.0


def test_the_rows_of_more_than_ten_experts_are_held_against_their_own_gates() -> None:
    assert coupling_loss(coupled_model(5.0, 2.0, experts=12), 1.0, noise=False).item() == 0.0
    assert coupling_loss(coupled_model(2.0, 5.0, experts=12), 1.0, noise=False).item() > 0.0


def test_the_noise_on_rows_is_smaller_than_half_the_way_to_the_next_row() -> None:
    model = coupled_model(5.0, 0.0)  # |R_0 - R_1| = sqrt(2), so factors are from 0.29 to 1.71
    torch.manual_seed(0)
    losses = [coupling_loss(model, 1.0).item() for _ in range(200)]
    assert all(loss == 0.0 for loss in losses)


def test_training_with_the_coupling_loss_couples_experts_to_their_rows() -> None:
    text = np.frombuffer(b"the quick brown fox jumps over the lazy dog. " * 40, np.uint8)
    corpus = Corpus(text.astype(np.uint16), text[:50].astype(np.uint16), DataReport(), "c")
    gaps = []
    for weight in (0.0, 1.0):
        manifest = RunManifest(
            model=MODEL,
            training=TrainingConfig(batch_size=2, sequence_length=16, warmup_tokens=0),
            balance=BalanceConfig(coupling_weight=weight),
        )
        trainer = Trainer(manifest, Sampler(corpus, 2, 16, 0), range(4))
        trainer.load_initial()
        for _ in range(60):
            trainer.train_step()
        gaps.append(coupling_loss(trainer.model, 1.0, noise=False).item())
    assert gaps[1] < 0.5 * gaps[0]
