"""Generation: the cache changes nothing but speed, sampling does what its options say."""

from __future__ import annotations

from collections import Counter

import pytest
import torch

from swarm.errors import Code, SwarmError
from swarm.inference.engine import generate, sample
from swarm.inference.kv_cache import KVCache
from swarm.model.config import ModelConfig
from swarm.model.transformer import Transformer

CONFIG = ModelConfig(
    vocab_size=50, d_model=16, num_layers=2, num_heads=4, num_kv_heads=2, d_ff=24, num_experts=4,
    context_length=24, init_std=0.3,
)  # fmt: skip
PROMPT = [7, 3, 20, 11]


def greedy_without_cache(model: Transformer, tokens: list[int], count: int) -> list[int]:
    tokens = list(tokens)
    for _ in range(count):
        with torch.no_grad():
            tokens.append(int(model(torch.tensor([tokens])).logits_BTV[0, -1].argmax()))
    return tokens[-count:]


@pytest.mark.parametrize("held", [None, [1, 2]])
@pytest.mark.parametrize("pieces", [[1] * 20, [20], [7, 1, 1, 5, 6], [1, 19]])
@torch.no_grad()
def test_cached_decode_equals_full_forward(held, pieces):
    model = Transformer(CONFIG, experts=held)
    tokens_BT = torch.randint(0, 50, (3, 20), generator=torch.Generator().manual_seed(0))
    cache = KVCache(CONFIG, batch_size=3)
    parts = [model(part, cache).logits_BTV for part in tokens_BT.split(pieces, dim=1)]
    assert cache.length == 20
    torch.testing.assert_close(
        torch.cat(parts, dim=1), model(tokens_BT).logits_BTV, rtol=1e-5, atol=1e-5
    )


def test_greedy_generation_equals_repeated_full_forward():
    model = Transformer(CONFIG)
    tokens = list(generate(model, PROMPT, 15, temperature=0))
    assert tokens == greedy_without_cache(model, PROMPT, 15)
    assert len(set(tokens)) > 1


def test_tokens_come_one_by_one_and_the_prompt_is_left_alone():
    prompt = list(PROMPT)
    stream = generate(Transformer(CONFIG), prompt, 3, temperature=0)
    first = next(stream)
    assert not torch.is_inference_mode_enabled()
    assert [first, *stream] == list(generate(Transformer(CONFIG), prompt, 3, temperature=0))
    assert prompt == PROMPT


def test_generation_goes_on_beyond_the_context():
    model = Transformer(CONFIG)
    tokens = list(generate(model, PROMPT, 60, temperature=0))
    assert len(tokens) == 60
    assert tokens[:20] == greedy_without_cache(model, PROMPT, 20)
    # After 24 tokens the text goes on from the latest 12.
    assert tokens[21] == greedy_without_cache(model, (PROMPT + tokens)[13:25], 1)[0]


def test_prompt_longer_than_the_context_is_cut_from_the_left():
    model = Transformer(CONFIG)
    long = (PROMPT * 20)[:70]
    assert list(generate(model, long, 1, temperature=0)) == greedy_without_cache(
        model, long[-24:], 1
    )


def test_generation_ends_before_a_stop_token():
    model = Transformer(CONFIG)
    tokens = list(generate(model, PROMPT, 15, temperature=0))
    stop = tokens[6]
    assert (
        list(generate(model, PROMPT, 15, temperature=0, stop=(stop,)))
        == (tokens[: tokens.index(stop)])
    )


def test_equal_seeds_give_equal_text_and_others_do_not():
    model = Transformer(CONFIG)

    def run(seed: int) -> list[int]:
        return list(generate(model, PROMPT, 18, generator=torch.Generator().manual_seed(seed)))

    assert run(1) == run(1)
    assert run(1) != run(2)


def draws(**options: object) -> Counter[int]:
    logits = torch.tensor([0.5, 0.3, 0.15, 0.05]).log()
    generator = torch.Generator().manual_seed(0)
    return Counter(sample(logits, generator=generator, **options) for _ in range(2000))


def test_sampling_follows_the_probabilities():
    assert draws()[0] == pytest.approx(1000, abs=100)
    assert draws()[3] == pytest.approx(100, abs=50)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"top_k": 2}, {0, 1}),
        ({"top_k": 100}, {0, 1, 2, 3}),
        ({"top_p": 0.7}, {0, 1}),
        ({"top_p": 0.9}, {0, 1, 2}),
        ({"top_p": 1e-6}, {0}),
        ({"top_p": 0.9, "top_k": 1}, {0}),
        ({"temperature": 0.0}, {0}),
        ({"temperature": 0.01}, {0}),
    ],
)
def test_sampling_options_limit_what_can_be_drawn(options, expected):
    assert set(draws(**options)) == expected


@pytest.mark.parametrize(
    ("prompt", "options"),
    [
        ([], {}),
        ([50], {}),
        ([-1], {}),
        (PROMPT, {"temperature": -1.0}),
        (PROMPT, {"temperature": float("nan")}),
        (PROMPT, {"top_k": 0}),
        (PROMPT, {"top_p": 0.0}),
        (PROMPT, {"top_p": 1.1}),
    ],
)
def test_bad_request_is_refused_at_once(prompt, options):
    with pytest.raises(SwarmError) as caught:
        generate(Transformer(CONFIG), prompt, 5, **options)
    assert caught.value.code is Code.USAGE


def test_cache_refuses_more_than_its_capacity():
    model, cache = Transformer(CONFIG), KVCache(CONFIG, capacity=4)
    with pytest.raises(ValueError, match="cache of 4"):
        model(torch.zeros(1, 5, dtype=torch.int64), cache)
