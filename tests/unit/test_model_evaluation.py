"""Bits per byte and routing shares against values computed by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from swarm.errors import Code, SwarmError
from swarm.evaluation import bits_per_byte, evaluate, measure, routing_shares
from swarm.model.config import ModelConfig
from swarm.model.transformer import Transformer

CONFIG = ModelConfig(
    d_model=16, num_layers=2, num_heads=2, num_kv_heads=2, d_ff=24, num_experts=4,
    context_length=32, init_std=0.2,
)  # fmt: skip
BOS, EOS = 256, 257


def text(length: int = 101, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, length).astype(np.uint16)


def test_model_that_knows_nothing_needs_the_logarithm_of_the_vocabulary():
    model = Transformer(CONFIG)
    torch.nn.init.zeros_(model.lm_head.weight)
    assert bits_per_byte(model, text()) == pytest.approx(math.log2(259))


def test_special_tokens_cost_bits_but_count_as_no_bytes():
    model = Transformer(CONFIG)
    torch.nn.init.zeros_(model.lm_head.weight)
    tokens = np.array([BOS, 65, 66, EOS, BOS, 67, EOS], np.uint16)
    assert bits_per_byte(model, tokens) == pytest.approx(6 * math.log2(259) / 3)


@torch.no_grad()
def test_every_token_but_the_first_is_predicted_once_with_its_window_as_context():
    model, tokens = Transformer(CONFIG), text(24)
    nats = 0.0
    for start in (0, 10, 20):  # windows of 10 inputs, the last one of 3
        window = torch.from_numpy(tokens[start : start + 11].astype(np.int64))
        logprobs = model(window[None, :-1]).logits_BTV[0].log_softmax(-1)
        nats -= float(logprobs.gather(1, window[1:, None]).sum())
    result = measure(model, tokens, sequence_length=10)
    assert result.tokens == result.bytes == 23
    assert result.nats == pytest.approx(nats, rel=1e-5)


@pytest.mark.parametrize("batch_size", [1, 3, 100])
def test_batch_size_does_not_matter(batch_size):
    model = Transformer(CONFIG)
    assert bits_per_byte(model, text(), 8, batch_size) == pytest.approx(
        bits_per_byte(model, text(), 8), rel=1e-5
    )


def test_limit_uses_the_first_tokens_only():
    model = Transformer(CONFIG)
    limited = measure(model, text(200), limit_tokens=50)
    assert limited.tokens == 50
    assert limited.nats == pytest.approx(measure(model, text(200)[:51]).nats)


def test_routing_shares_are_the_routers_counts():
    model = Transformer(CONFIG)
    shares = routing_shares(model, text(33))
    assert shares.shape == (2, 4)
    np.testing.assert_allclose(shares.sum(axis=1), 1)
    stats = model(torch.from_numpy(text(33)[:-1].astype(np.int64))[None]).routing
    expected = torch.stack([layer.counts_E for layer in stats]).numpy() / 64
    np.testing.assert_allclose(shares, expected)


def test_table_has_every_model_on_every_domain():
    models = {"a": Transformer(CONFIG, seed=0), "b": Transformer(CONFIG, seed=1)}
    corpora = {"law": text(60, 1), "code": text(60, 2)}
    table = evaluate(models, corpora, sequence_length=16)
    assert table.domains == ("law", "code") and table.models == ("a", "b")
    for domain, tokens in corpora.items():
        for name, model in models.items():
            assert table.bits_per_byte[domain][name] == bits_per_byte(model, tokens, 16)
            assert np.array_equal(table.routing[domain][name], routing_shares(model, tokens, 16))
    values = [table.bits_per_byte[domain]["a"] for domain in corpora]
    assert table.mean("a") == pytest.approx(sum(values) / 2)


def test_evaluation_leaves_the_model_trainable():
    model = Transformer(CONFIG)
    bits_per_byte(model, text())
    model(torch.zeros(1, 4, dtype=torch.int64)).logits_BTV.sum().backward()
    assert model.lm_head.weight.grad is not None


@pytest.mark.parametrize("tokens", [[], [65], [BOS, EOS]])
def test_text_without_a_byte_to_predict_is_refused(tokens):
    with pytest.raises(SwarmError) as caught:
        bits_per_byte(Transformer(CONFIG), np.array(tokens, np.uint16))
    assert caught.value.code is Code.DATA_EMPTY


def test_model_with_another_vocabulary_is_refused():
    model = Transformer(ModelConfig(vocab_size=300))
    with pytest.raises(SwarmError) as caught:
        bits_per_byte(model, text())
    assert caught.value.code is Code.USAGE
