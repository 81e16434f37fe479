"""Fewer sequences at once: the same step in less memory, chosen from two measured peaks."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from swarm.config import RunManifest, TrainingConfig
from swarm.data import Sampler, prepare_corpus
from swarm.model.config import ModelConfig
from swarm.training.micro_batch import StepMemory
from swarm.training.trainer import Trainer

MANIFEST = RunManifest(
    model=ModelConfig(d_model=32, num_layers=2, d_ff=32, num_experts=4, context_length=64),
    training=TrainingConfig(inner_steps=4, batch_size=6, sequence_length=32),
)


@pytest.fixture(scope="module")
def texts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("texts")
    for number in range(20):
        (directory / f"{number}.txt").write_text(f"{number} is a number, and so is it. " * 40)
    return directory


def trained(texts: Path, rows_at_once: int, load: bool = True) -> Trainer:
    corpus = prepare_corpus(str(texts), texts.parent / "shards")
    trainer = Trainer(MANIFEST, Sampler(corpus, 6, 32, 0), held=[0, 1])
    trainer.load_initial()
    trainer.rows_at_once = rows_at_once
    if load:
        trainer.set_global_load(np.full((2, 4), 100))
    for _ in range(3):
        trainer.train_step()
    return trainer


@pytest.mark.parametrize("rows", [1, 4])
def test_a_step_in_parts_is_the_whole_step_up_to_rounding(texts: Path, rows: int) -> None:
    whole, parts = trained(texts, 6), trained(texts, rows)
    for (name, a), (_, b) in zip(
        whole.model.named_parameters(), parts.model.named_parameters(), strict=True
    ):
        torch.testing.assert_close(a, b, atol=2e-5, rtol=1e-3, msg=name)
    assert whole.sampler.position == parts.sampler.position


def test_trying_a_step_changes_nothing(texts: Path) -> None:
    tried, quiet = trained(texts, 6), trained(texts, 6)
    for rows in (1, 2, None):
        tried.try_step(rows)
    assert tried.train_step().loss == quiet.train_step().loss
    for a, b in zip(tried.model.parameters(), quiet.model.parameters(), strict=True):
        assert torch.equal(a, b)


@given(
    one=st.integers(1, 10**9),
    row=st.integers(0, 10**8),
    budget=st.integers(0, 10**10),
    batch=st.integers(1, 64),
)
def test_the_rows_that_are_chosen_fit_and_one_more_would_not_be_safe(
    one: int, row: int, budget: int, batch: int
) -> None:
    memory = StepMemory(one, one + row)
    rows = memory.rows_within(budget, batch)
    assert 1 <= rows <= batch
    if budget and row:
        assert rows == 1 or memory.peak_bytes(rows) <= 0.95 * budget
        assert rows == batch or memory.peak_bytes(rows + 1) > 0.95 * budget - 1
    else:
        assert rows == batch


def test_more_memory_never_means_fewer_rows() -> None:
    memory = StepMemory(100, 110)
    chosen = [memory.rows_within(budget, 16) for budget in range(1, 400)]
    assert chosen == sorted(chosen) and {chosen[0], chosen[-1]} == {1, 16}
    assert replace(memory, two=90).rows_within(1, 16) == 16  # measured nonsense
