"""Baselines of assemblies: what is averaged, mixed or chosen is what they say."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest
import torch

from swarm.assembly.baselines import (
    branch,
    btx,
    copy_of,
    output_ensemble,
    posterior,
    prompt_routing,
    soup,
    unrestricted_moe,
)
from swarm.assembly.baselines.training import upcycled
from swarm.data.corpus import Corpus
from swarm.data.documents import DataReport
from swarm.errors import Code, SwarmError
from swarm.evaluation import bits_per_byte
from swarm.model.config import ModelConfig
from swarm.model.transformer import Transformer
from swarm.training.recipe import Recipe

DENSE = ModelConfig(
    d_model=16, num_layers=2, num_heads=2, num_kv_heads=2, d_ff=24, num_experts=1, top_k=1,
    context_length=32,
)  # fmt: skip
RECIPE = Recipe(steps=40, batch_size=4, sequence_length=16, learning_rate=1e-2)
TOKENS = torch.arange(60, 90)[None]


def corpus(line: bytes) -> Corpus:
    tokens = np.frombuffer(line * 60, np.uint8).astype(np.uint16)
    return Corpus(tokens, tokens[:200], DataReport(), hashlib.sha256(line).hexdigest())


LAW, CODE = corpus(b"whereas the party of the first part "), corpus(b"for i in range(n): x += i\n")


@pytest.fixture(scope="module")
def base() -> Transformer:
    return Transformer(DENSE, seed=0).requires_grad_(False)


@pytest.fixture(scope="module")
def branches(base: Transformer) -> list[Transformer]:
    return [branch(base, text, RECIPE) for text in (LAW, CODE)]


@torch.no_grad()
def logits(model: Transformer) -> torch.Tensor:
    return model(TOKENS).logits_BTV


def test_a_branch_learns_its_owners_text_and_leaves_the_base_alone(base, branches):
    before = logits(copy_of(base))
    for own, other, model in ((LAW, CODE, branches[0]), (CODE, LAW, branches[1])):
        assert bits_per_byte(model, own.valid) < 0.6 * bits_per_byte(base, own.valid)
        assert bits_per_byte(model, own.valid) < 0.6 * bits_per_byte(model, other.valid)
    assert torch.equal(logits(base), before)


def test_a_soup_is_the_weighted_average_of_all_parameters(branches):
    mixed = soup(branches, [3, 1])
    for name, values in mixed.named_parameters():
        a, b = (dict(model.named_parameters())[name] for model in branches)
        torch.testing.assert_close(values, 0.75 * a + 0.25 * b)
    assert torch.equal(logits(soup([branches[0]] * 3)), logits(branches[0]))


@pytest.mark.parametrize("weights", [[1], [0, 0], [1, -1]])
def test_a_soup_of_nothing_is_refused(branches, weights):
    with pytest.raises(SwarmError) as caught:
        soup(branches, weights)
    assert caught.value.code is Code.USAGE


def test_btx_has_the_branches_as_experts_and_routes_by_the_given_rows(branches):
    rows = np.zeros((2, 2, 16), np.float32)
    bias = np.zeros((2, 2), np.float32)
    bias[:, 1] = -1e9
    only_first = btx(branches, rows, bias, top_k=1)
    averaged = soup(branches)
    for layer, moe in enumerate(averaged.moe_layers):
        moe.experts["0"].load_state_dict(branches[0].moe_layers[layer].experts["0"].state_dict())
    torch.testing.assert_close(logits(only_first), logits(averaged), rtol=0, atol=1e-6)
    both = btx(branches, rows, np.zeros((2, 2), np.float32))
    assert both(TOKENS).routing[0].counts_E.tolist() == [30, 30]


def test_an_upcycled_model_begins_as_the_dense_one(base):
    config = ModelConfig(**{**vars(DENSE), "num_experts": 3, "top_k": 2})
    torch.testing.assert_close(logits(upcycled(base, config, 1)), logits(base), rtol=0, atol=1e-6)
    with pytest.raises(SwarmError):
        upcycled(upcycled(base, config, 1), config, 1)


def test_the_unrestricted_mixture_learns_all_texts(base):
    model = unrestricted_moe(base, [LAW, CODE], RECIPE, experts=3, top_k=2)
    for text in (LAW, CODE):
        assert bits_per_byte(model, text.valid) < 0.7 * bits_per_byte(base, text.valid)


# Two models, one window of three tokens: the first is sure, the second knows nothing.
LOSSES = -np.log(np.array([[[0.9, 0.9, 0.9]], [[0.1, 0.1, 0.1]]]))


def test_the_posterior_is_bayes_rule_over_what_was_seen():
    found = posterior(LOSSES)
    np.testing.assert_allclose(found[:, 0, 0], [0.5, 0.5])
    np.testing.assert_allclose(found[:, 0, 1], [0.9, 0.1])
    np.testing.assert_allclose(found[:, 0, 2], [0.81 / 0.82, 0.01 / 0.82])
    np.testing.assert_allclose(posterior(LOSSES, top_k=1)[:, 0, 2], [1, 0])


def test_an_ensemble_mixes_probabilities_not_losses():
    np.testing.assert_allclose(np.exp(-output_ensemble(LOSSES)[0, :2]), [0.5, 0.82])


def test_a_prompt_chooses_one_model_for_the_rest():
    losses = np.array([[[9.0, 9.0, 1.0], [1.0, 1.0, 1.0]], [[1.0, 1.0, 5.0], [9.0, 9.0, 9.0]]])
    expected = [[9.0, 9.0, 5.0], [1.0, 1.0, 1.0]]  # the prompt is read by the first
    np.testing.assert_array_equal(prompt_routing(losses, prompt=2), expected)
    with pytest.raises(SwarmError):
        prompt_routing(losses, prompt=3)
