"""An owner trains alone: its own expert moves, the base never does, stops cost nothing."""

from __future__ import annotations

import copy
import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from owners import LETTERS, RECIPE, corpus_of, tiny_base, trained

from swarm.errors import Code, SwarmError
from swarm.evaluation import bits_per_byte
from swarm.experts.artifact import ExpertTensors, check_tensors
from swarm.experts.base import (
    BASE_FILE,
    SAMPLE_FILE,
    SPACE_FILE,
    base_id,
    load_base,
    make_base,
    save_base,
)
from swarm.experts.embedding import embed
from swarm.training.checkpoint import load_checkpoint, save_checkpoint
from swarm.training.isolation import ExpertTraining, beside, initial_tensors, train_expert
from swarm.training.low_rank import by_energy, by_number, smallest_rank, truncate
from swarm.training.recipe import Recipe

LAW = LETTERS["law"]


def assert_equal(left: ExpertTensors, right: ExpertTensors) -> None:
    assert left.arrays.keys() == right.arrays.keys()
    for name, values in left.arrays.items():
        np.testing.assert_array_equal(values, right.arrays[name], name)


def test_training_helps_on_the_own_text_and_leaves_every_bit_of_the_base() -> None:
    base = tiny_base()
    before = {name: value.clone() for name, value in base.model.named_parameters()}
    valid = corpus_of(LAW).valid
    expert = trained("law")
    assert bits_per_byte(beside(base, expert), valid) < 0.99 * bits_per_byte(base.model, valid)
    for name, value in base.model.named_parameters():
        assert torch.equal(value, before[name]), name


def test_of_the_model_in_training_only_the_own_expert_moves() -> None:
    training = ExpertTraining(
        tiny_base(), corpus_of(LAW), dataclasses.replace(RECIPE, router_rate=1)
    )
    before = {name: value.detach().clone() for name, value in training.model.named_parameters()}
    for _ in range(3):
        training.train_step()
    for name, value in training.model.named_parameters():
        is_own = ".experts.1." in name or name.endswith(("gate.weight.1", "gate.bias.1"))
        assert torch.equal(value, before[name]) is not is_own, name


def test_a_stop_in_the_middle_changes_no_bit(tmp_path: Path) -> None:
    recipe = dataclasses.replace(RECIPE, rank=3, router_rate=0.5)
    whole = train_expert(tiny_base(), corpus_of(LAW), recipe).tensors
    first = ExpertTraining(tiny_base(), corpus_of(LAW), recipe)
    for _ in range(5):
        first.train_step()
    save_checkpoint(tmp_path / "state", *first.state_dict())
    second = ExpertTraining(tiny_base(), corpus_of(LAW), recipe)
    second.load_state_dict(*load_checkpoint(tmp_path / "state"))
    while second.step < recipe.steps:
        second.train_step()
    assert_equal(second.tensors(), whole)


def test_an_expert_that_saw_public_text_does_less_harm_where_it_is_not_wanted() -> None:
    base, elsewhere = tiny_base(), corpus_of(LETTERS["sums"], seed=1).valid
    harm = {}
    for share in (0.0, 0.5):
        recipe = dataclasses.replace(RECIPE, public_share=share, steps=40, learning_rate=3e-2)
        training = ExpertTraining(base, corpus_of(LAW), recipe)
        while training.step < recipe.steps:
            training.train_step()
        harm[share] = bits_per_byte(beside(base, training.tensors()), elsewhere)
        assert training.public_tokens == share * (training.own_tokens + training.public_tokens)
    assert harm[0.5] < harm[0.0] - 0.01


def test_a_base_without_a_sample_has_owners_train_on_their_text_alone() -> None:
    base = dataclasses.replace(tiny_base(), sample=tiny_base().sample[:0])
    training = ExpertTraining(base, corpus_of(LAW), RECIPE)
    training.train_step()
    assert training.public_tokens == 0
    assert training.own_tokens == RECIPE.steps * RECIPE.batch_size * RECIPE.sequence_length


@pytest.mark.parametrize("change", ["recipe", "text", "base"])
def test_a_state_of_something_else_is_refused(change: str) -> None:
    state = ExpertTraining(tiny_base(), corpus_of(LAW), RECIPE).state_dict()
    recipe = dataclasses.replace(RECIPE, steps=99) if change == "recipe" else RECIPE
    corpus = corpus_of(LAW, seed=1) if change == "text" else corpus_of(LAW)
    other = ExpertTraining(tiny_base(3 if change == "base" else 1), corpus, recipe)
    with pytest.raises(SwarmError) as caught:
        other.load_state_dict(*state)
    assert caught.value.code is Code.CHECKPOINT_CORRUPT


def test_biases_stay_at_or_below_zero_however_they_are_pulled() -> None:
    recipe = dataclasses.replace(RECIPE, router_rate=50.0, embedding_scale=0.0)
    tensors = train_expert(tiny_base(), corpus_of(LAW), recipe).tensors
    assert all(tensors.bias(layer) <= 0 for layer in range(2))


def test_a_text_that_is_not_like_the_public_one_is_far_from_it_and_nearest_to_itself() -> None:
    base = tiny_base()
    law, again, sums = (
        embed(base.model, base.space, corpus_of(letters, seed).train)
        for letters, seed in ((LAW, 0), (LAW, 1), (LETTERS["sums"], 0))
    )
    assert np.linalg.norm(law - again) < 0.2 * np.linalg.norm(law - sums)
    assert np.linalg.norm(law) > 0.2
    tensors = initial_tensors(base, corpus_of(LAW).train, Recipe())
    assert all(tensors.bias(layer) < 0 for layer in range(2))


def test_an_embedding_by_n_grams_tells_what_the_hidden_states_would_and_stays_in_the_base(
    tmp_path: Path,
) -> None:
    base = tiny_base()
    public = np.concatenate([corpus_of(letters).train for letters in LETTERS.values()])
    by_ngrams = make_base(base.model, public, {}, ngrams=True)
    assert by_ngrams.id != base.id
    save_base(by_ngrams, tmp_path)
    read = load_base(tmp_path)
    assert read.id == by_ngrams.id
    for letters in LETTERS.values():
        text = corpus_of(letters, seed=1).train
        told = embed(read.model, read.space, text)
        np.testing.assert_array_equal(told, embed(base.model, by_ngrams.space, text))
        measured = embed(base.model, base.space, text)
        cosine = (told * measured).sum() / np.linalg.norm(told) / np.linalg.norm(measured)
        assert cosine > 0.9
        assert 0.3 < np.linalg.norm(told) / np.linalg.norm(measured) < 1.1


def test_beside_a_base_of_several_experts_the_most_used_one_is_copied() -> None:
    base = tiny_base(3)
    tensors = initial_tensors(base, corpus_of(LAW).train, RECIPE)
    check_tensors(tensors, base)
    for layer, origin in enumerate(tensors.origins):
        copied = base.model.moe_layers[layer].experts[str(origin)]
        np.testing.assert_array_equal(tensors.matrices(base, layer)[0], copied.gate_proj.weight)
    trained_model = beside(base, tensors)
    assert (trained_model.config.num_experts, trained_model.config.top_k) == (4, 3)


def test_factors_begin_at_the_base_and_give_what_their_product_gives() -> None:
    base = tiny_base()
    tensors = trained("law", rank=4)
    assert tensors.ranks == (4, 4)
    check_tensors(tensors, base)
    start = ExpertTraining(base, corpus_of(LAW), dataclasses.replace(RECIPE, rank=4)).tensors()
    whole = initial_tensors(base, corpus_of(LAW).train, RECIPE)
    for layer in range(2):
        for mine, public in zip(
            start.matrices(base, layer), whole.matrices(base, layer), strict=True
        ):
            np.testing.assert_array_equal(mine, public)


def test_an_expert_is_cut_by_number_by_energy_and_by_what_it_costs() -> None:
    base, whole = tiny_base(), trained("law")
    full = truncate(base, whole, by_number(16))
    for ours, theirs in zip(full.matrices(base, 0), whole.matrices(base, 0), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-5)
    assert max(truncate(base, whole, by_number(2)).ranks) == 2
    half, most = (max(truncate(base, whole, by_energy(share)).ranks) for share in (0.5, 0.99))
    assert 1 <= half < most

    def loss(tensors: ExpertTensors) -> float:
        return bits_per_byte(beside(base, tensors), corpus_of(LAW).valid)

    cut, rank = smallest_rank(base, whole, loss, tolerance=0.01)
    assert loss(cut) <= 1.01 * loss(whole)
    if rank > 1:
        assert loss(truncate(base, whole, by_number(rank // 2))) > 1.01 * loss(whole)


@pytest.mark.parametrize("file", [SPACE_FILE, SAMPLE_FILE])
def test_a_base_is_read_as_it_was_written_and_refused_when_one_value_changed(
    file: str, tmp_path: Path
) -> None:
    base = tiny_base()
    save_base(base, tmp_path)
    read = load_base(tmp_path)
    assert read.id == base.id
    np.testing.assert_array_equal(read.sample, base.sample)
    assert (tmp_path / BASE_FILE).exists()
    whole = (tmp_path / file).read_bytes()
    data = bytearray(whole)
    data[-1] ^= 1
    (tmp_path / file).write_bytes(data)
    with pytest.raises(SwarmError) as caught:
        load_base(tmp_path)
    assert caught.value.code is Code.MODEL_UNREADABLE
    (tmp_path / file).write_bytes(whole + bytes(2**25))
    with pytest.raises(SwarmError) as caught:
        load_base(tmp_path)
    assert caught.value.code is Code.ARTIFACT_OVERSIZED


def test_a_base_that_is_not_finite_is_neither_made_nor_read(tmp_path: Path) -> None:
    base = copy.deepcopy(tiny_base())
    base.space.mean_LD[0, 0] = np.nan
    save_base(dataclasses.replace(base, id=base_id(base.model, base.space, base.sample)), tmp_path)
    with pytest.raises(SwarmError, match=r"space\.mean of the base") as caught:
        load_base(tmp_path)
    assert caught.value.code is Code.NON_FINITE
    with torch.no_grad():
        base.model.lm_head.weight[0, 0] = np.inf
    with pytest.raises(SwarmError) as caught:
        make_base(base.model, corpus_of(LAW).train, {})
    assert caught.value.code is Code.NON_FINITE
