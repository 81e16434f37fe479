"""Training with differential privacy: what is cut, what noise is added, and what that spends."""

from __future__ import annotations

import dataclasses
import functools
import math
import sys

import numpy as np
import pytest
import torch
from opacus.accountants import RDPAccountant
from owners import LETTERS, RECIPE, corpus_of, tiny_base

from swarm.errors import Code, SwarmError
from swarm.experts.artifact import check_tensors
from swarm.training import private
from swarm.training.isolation import initial_tensors
from swarm.training.privacy import PrivacyPlan, plan_privacy, spent
from swarm.training.private import PrivateTraining, add_cut, cut_records, noise_key
from swarm.training.recipe import Privacy, Recipe

BUDGET = Privacy(epsilon=8.0, delta=1e-3, max_grad_norm=0.5)
PLANS = functools.cache(plan_privacy)
PRIVATE = dataclasses.replace(RECIPE, privacy=BUDGET)
WHOLE = corpus_of(LETTERS["law"])
LAW = dataclasses.replace(WHOLE, train=WHOLE.train[:1700])


def training(recipe: Recipe = PRIVATE, secret: bytes = b"secret", base: int = 1) -> PrivateTraining:
    return PrivateTraining(tiny_base(base), LAW, recipe, secret)


def with_noise(training: PrivateTraining, **changes: float) -> PrivateTraining:
    training.plan = dataclasses.replace(training.plan, **changes)
    return training


def gradient(training: PrivateTraining) -> torch.Tensor:
    """All trained gradients of the next step, flat."""
    training._gradients()
    return torch.cat([p.grad.flatten() for p in training._trained if p.grad is not None])


def refusal(recipe: Recipe) -> SwarmError:
    with pytest.raises(SwarmError) as caught:
        training(recipe)
    return caught.value


@pytest.fixture(autouse=True)
def one_plan_for_all(monkeypatch: pytest.MonkeyPatch) -> None:
    """The accountant takes a second for each plan."""
    monkeypatch.setattr(private, "plan_privacy", PLANS)


@pytest.fixture(scope="module")
def plan() -> PrivacyPlan:
    return plan_privacy(BUDGET, records=400, batch_size=4, steps=100)


def test_the_spent_epsilon_is_the_accountants_of_all_that_was_made_of_the_text(plan):
    accountant = RDPAccountant()
    accountant.step(noise_multiplier=plan.start_noise, sample_rate=1.0)
    for _ in range(100):
        accountant.step(noise_multiplier=plan.step_noise, sample_rate=4 / 400)
    assert plan.epsilon == pytest.approx(accountant.get_epsilon(delta=BUDGET.delta))
    assert 0.97 * BUDGET.epsilon < plan.epsilon <= BUDGET.epsilon
    less = [(plan.start_noise, 1.0, 1), (plan.step_noise / 1.02, 0.01, 100)]
    assert spent(less, BUDGET.delta) > BUDGET.epsilon  # no less noise would do


def test_every_record_is_cut_to_the_norm_and_small_ones_are_left_as_they_are():
    sums = [torch.zeros(3), torch.zeros(2)]
    add_cut(sums, [torch.tensor([30.0, 0.0, 40.0]), None], 5.0)
    torch.testing.assert_close(sums[0], torch.tensor([3.0, 0.0, 4.0]))
    add_cut(sums, [None, torch.tensor([0.3, 0.4])], 5.0)
    torch.testing.assert_close(sums[1], torch.tensor([0.3, 0.4]))
    with pytest.raises(SwarmError):
        add_cut(sums, [torch.tensor([math.nan, 0.0, 0.0]), None], 5.0)


def test_without_noise_a_step_is_the_mean_of_the_cut_gradients_of_its_records():
    ours = with_noise(training(), step_noise=0.0, sample_rate=1.0)
    ours.records = ours.records[:20]
    found = gradient(ours) * RECIPE.batch_size
    assert found.norm() <= BUDGET.max_grad_norm * len(ours.records)
    expected = torch.zeros_like(found)
    for record in ours.records:
        _, parts = ours._of_record(record)
        flat = torch.cat([part.flatten() for part in parts])
        expected += flat * min(1.0, BUDGET.max_grad_norm / float(flat.norm()))
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6)


def test_the_noise_has_the_size_that_was_accounted_also_when_a_step_has_no_record():
    silent = with_noise(training(), sample_rate=0.0)
    noise = gradient(silent)
    deviation = silent.plan.step_noise * BUDGET.max_grad_norm / RECIPE.batch_size
    assert float(noise.std()) == pytest.approx(deviation, rel=0.05)
    assert abs(float(noise.mean())) < 4 * deviation / math.sqrt(len(noise))
    assert (noise != 0).all()


def test_each_record_is_taken_in_each_step_with_the_chance_that_was_accounted():
    ours = training()
    drawn = [
        ours._random(1, step).random(len(ours.records)) < ours.plan.sample_rate
        for step in range(200)
    ]
    mean, count = float(np.mean(drawn)), np.size(drawn)
    rate = RECIPE.batch_size / len(ours.records)
    assert ours.plan.sample_rate == rate
    assert abs(mean - rate) < 5 * math.sqrt(rate / count)


def test_no_token_is_in_two_records_and_no_record_in_two_documents():
    tokens = np.array([256, *range(9), 257, 256, 50, 51, 257, 256], np.uint16)
    records = cut_records(tokens, 5)
    assert [record.tolist() for record in records] == [
        [256, 0, 1, 2, 3], [4, 5, 6, 7, 8], [256, 50, 51, 257],
    ]  # fmt: skip  # pieces of one token predict nothing


def test_who_does_not_know_the_secret_can_not_draw_the_noise_again_nor_its_owner_by_accident():
    base = tiny_base()
    keys = [
        noise_key(secret, base, corpus, recipe).tobytes()
        for secret, corpus, recipe in (
            (b"secret", LAW, PRIVATE),
            (b"another", LAW, PRIVATE),
            (b"secret", corpus_of(LETTERS["law"], seed=1), PRIVATE),
            (b"secret", LAW, dataclasses.replace(PRIVATE, steps=13)),
        )
    ]
    assert len(set(keys)) == 4


@pytest.mark.parametrize("experts", [1, 3])
def test_the_expert_is_a_usable_one_and_a_stop_changes_no_bit(experts: int):
    recipe = dataclasses.replace(PRIVATE, steps=4)
    whole, first, second = (training(recipe, base=experts) for _ in range(3))
    for _ in range(4):
        whole.train_step()
    first.train_step()
    second.load_state_dict(*first.state_dict())
    while second.step < 4:
        second.train_step()
    check_tensors(second.tensors(), tiny_base(experts))
    for name, values in whole.tensors().arrays.items():
        np.testing.assert_array_equal(values, second.tensors().arrays[name], name)


def test_with_much_text_and_a_large_budget_the_routers_start_is_near_the_exact_one():
    recipe = dataclasses.replace(
        PRIVATE,
        sequence_length=31,  # records as long as the windows that the exact one is made of
        privacy=dataclasses.replace(BUDGET, epsilon=1000.0),
    )
    much = dataclasses.replace(WHOLE, train=np.tile(WHOLE.train, 4))
    ours = PrivateTraining(tiny_base(), much, recipe, b"secret").tensors()
    exact = initial_tensors(tiny_base(), WHOLE.train, recipe)
    for layer in range(2):
        anchor = tiny_base().model.moe_layers[layer].gate.weight["0"].numpy()
        told, true = ours.row(layer) - anchor, exact.row(layer) - anchor
        assert told @ true > 0.9 * np.linalg.norm(told) * np.linalg.norm(true)
        assert ours.bias(layer) == pytest.approx(exact.bias(layer), rel=0.3)


def test_a_budget_that_can_not_be_kept_is_refused():
    too_small = dataclasses.replace(BUDGET, epsilon=1e-6)
    assert refusal(dataclasses.replace(PRIVATE, privacy=too_small)).code is Code.USAGE
    tells_whole_records = dataclasses.replace(BUDGET, delta=0.5)
    assert "too few" in refusal(dataclasses.replace(PRIVATE, privacy=tells_whole_records)).message
    assert "too few" in refusal(dataclasses.replace(PRIVATE, batch_size=5000)).message
    with pytest.raises(SwarmError):
        Privacy(epsilon=math.nan, delta=0.1)


def test_without_opacus_the_error_says_what_to_install(monkeypatch):
    PLANS.cache_clear()
    monkeypatch.setitem(sys.modules, "opacus.accountants", None)
    error = refusal(PRIVATE)
    assert error.code is Code.USAGE
    assert "expertswarm[privacy]" in error.hint
