"""Variants of a model, changes of subject, extraction, and the report of all of them."""

from __future__ import annotations

import dataclasses
import hashlib
import math

import numpy as np
import pytest
import torch

from node.evaluation_tables import tables
from swarm.data.corpus import Corpus
from swarm.data.documents import DataReport
from swarm.errors import Code, SwarmError
from swarm.evaluation import measure, token_losses
from swarm.evaluation.extraction import extract
from swarm.evaluation.reducing import merged, pruned
from swarm.evaluation.report import Plan, report
from swarm.evaluation.switching import switch
from swarm.evaluation.variants import with_rank, with_top_k, without_expert
from swarm.model.config import ModelConfig
from swarm.model.transformer import Transformer

CONFIG = ModelConfig(
    d_model=16, num_layers=2, num_heads=2, num_kv_heads=2, d_ff=24, num_experts=3, top_k=2,
    context_length=32, init_std=0.2,
)  # fmt: skip
TOKENS = torch.arange(40, 72)[None]


def biased(config: ModelConfig = CONFIG) -> Transformer:
    model = Transformer(dataclasses.replace(config, router_bias=True), seed=1)
    with torch.no_grad():
        for layer, moe in enumerate(model.moe_layers):
            for place, bias in enumerate(moe.gate.bias.values()):
                bias.fill_(-0.3 * place - layer)
    return model


def text(length: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, length).astype(np.uint16)


def corpus(seed: int) -> Corpus:
    train, valid = text(400, seed), text(200, seed + 1)
    return Corpus(train, valid, DataReport(), hashlib.sha256(train.tobytes()).hexdigest())


@torch.no_grad()
def logits(model: Transformer, tokens: torch.Tensor = TOKENS) -> torch.Tensor:
    return model(tokens).logits_BTV


def test_losses_of_tokens_sum_to_the_measurement():
    model, tokens = biased(), text(97)
    losses = token_losses(model, tokens, 32)
    assert losses.shape == (3, 32)
    assert losses.sum() == pytest.approx(measure(model, tokens, 32).nats)


def test_a_model_without_an_expert_is_one_whose_router_never_takes_it():
    model = biased()
    reference = biased()
    with torch.no_grad():
        for moe in reference.moe_layers:
            moe.gate.bias["1"].fill_(-1e9)
    fewer = without_expert(model, 1)
    assert fewer.config.num_experts == 2
    torch.testing.assert_close(logits(fewer), logits(reference), rtol=0, atol=1e-6)
    assert not torch.equal(logits(fewer), logits(model))


def test_all_experts_but_one_can_go():
    last = without_expert(without_expert(biased(), 2), 0)
    assert last.config.num_experts == last.config.top_k == 1
    for expert in (0, 1):
        with pytest.raises(SwarmError) as caught:
            without_expert(last, expert)
        assert caught.value.code is Code.USAGE


def test_top_k_changes_how_many_experts_answer():
    model = biased()
    assert torch.equal(logits(with_top_k(model, 2)), logits(model))
    counts = with_top_k(model, 3)(TOKENS).routing[0].counts_E
    assert counts.tolist() == [32, 32, 32]
    with pytest.raises(SwarmError):
        with_top_k(model, 4)


def test_rank_zero_is_the_origin_and_full_rank_the_expert_itself():
    model, origins = biased(), {2: (0, 1)}
    whole = with_rank(model, origins, 16)
    torch.testing.assert_close(logits(whole), logits(model), rtol=0, atol=1e-5)
    nothing = dict(with_rank(model, origins, 0).named_parameters())
    for layer, origin in enumerate(origins[2]):
        prefix = f"model.layers.{layer}.mlp.experts"
        for kind in ("gate_proj", "up_proj", "down_proj"):
            name = f"{kind}.weight"
            assert torch.equal(nothing[f"{prefix}.2.{name}"], nothing[f"{prefix}.{origin}.{name}"])
    one = with_rank(model, origins, 1)
    difference = one.moe_layers[0].experts["2"].gate_proj.weight - (
        one.moe_layers[0].experts["0"].gate_proj.weight
    )
    assert int(torch.linalg.matrix_rank(difference, rtol=1e-4)) == 1


USE = np.array([[0.5, 0.3, 0.2], [0.6, 0.1, 0.3]])


def test_merging_equal_experts_into_one_is_their_average_and_the_rest_stays():
    model = biased()
    before = dict(model.named_parameters())
    after = dict(merged(model, 2, USE, protected=1).named_parameters())
    for layer, (one, two) in enumerate(((0.3, 0.2), (0.1, 0.3))):
        for name in (f"model.layers.{layer}.mlp.{part}" for part in (
            "experts.{}.up_proj.weight", "gate.weight.{}", "gate.bias.{}"
        )):  # fmt: skip
            assert torch.equal(after[name.format(0)], before[name.format(0)])
            mean = (one * before[name.format(1)] + two * before[name.format(2)]) / (one + two)
            torch.testing.assert_close(after[name.format(1)], mean)
    assert torch.equal(logits(merged(model, 3, USE)), logits(model))


def test_the_most_alike_are_merged_first():
    model = biased(dataclasses.replace(CONFIG, num_experts=4))
    with torch.no_grad():
        for moe in model.moe_layers:
            for a, b in zip(moe.experts["1"].matrices, moe.experts["3"].matrices, strict=True):
                b.copy_(a + 1e-3)
    smaller = merged(model, 3, np.full((2, 4), 0.25))
    for layer, moe in enumerate(smaller.moe_layers):
        kept = model.moe_layers[layer].experts
        assert torch.equal(moe.experts["2"].up_proj.weight, kept["2"].up_proj.weight)
        torch.testing.assert_close(
            moe.experts["1"].up_proj.weight, kept["1"].up_proj.weight + 5e-4, rtol=0, atol=1e-6
        )


def test_the_least_used_are_pruned():
    model = biased()
    torch.testing.assert_close(logits(pruned(model, 2, USE)), logits(without_expert(model, 1)))
    only = pruned(model, 1, USE)
    assert torch.equal(logits(only), logits(without_expert(without_expert(model, 2), 1)))
    for keep, protected in ((0, 0), (4, 0), (1, 1)):
        with pytest.raises(SwarmError) as caught:
            merged(model, keep, USE, protected)
        assert caught.value.code is Code.USAGE


def test_a_switch_costs_nothing_when_the_text_before_does_not_matter():
    model = biased()
    torch.nn.init.zeros_(model.lm_head.weight)
    found = switch(model, text(400, 1), text(400, 2), length=16)
    assert found.after_switch == found.at_home == pytest.approx(math.log2(259))
    assert found.cost == 0.0 and found.by_quarter == (0, 0, 0, 0)


def test_a_switch_compares_the_same_bytes_in_two_contexts():
    model, first, second = biased(), text(34, 1), text(34, 2)
    found = switch(model, first, second, length=32)
    row = np.concatenate([first[:16], second[16:33]])
    for context, value in ((row, found.after_switch), (second[:33], found.at_home)):
        nats = token_losses(model, context, 32)[0, 16:].sum()
        assert value == pytest.approx(nats / math.log(2) / 16)


@pytest.mark.parametrize(("length", "size", "code"), [(4, 99, "USAGE"), (32, 20, "DATA_EMPTY")])
def test_a_switch_that_does_not_fit_is_refused(length, size, code):
    with pytest.raises(SwarmError) as caught:
        switch(biased(), text(size), text(size), length)
    assert caught.value.code.value == code


class Parrot(Transformer):
    """Says that every token is followed by the next number."""

    def forward(self, tokens_BT, cache=None):
        output = super().forward(tokens_BT, cache)
        following = torch.nn.functional.one_hot((tokens_BT + 1) % 259, 259).float()
        return dataclasses.replace(output, logits_BTV=following)


def test_what_a_model_remembers_comes_out_and_what_it_does_not_stays():
    remembered = np.arange(200, dtype=np.uint16)
    found = extract(Parrot(CONFIG), remembered, prompt=8, length=8, pieces=5)
    assert (found.pieces, found.exact, found.tokens, found.prefix) == (5, 1.0, 1.0, 8.0)
    half = remembered.copy()
    half[4::8] = 250
    found = extract(Parrot(CONFIG), half[:16], prompt=8, length=8, pieces=5)
    assert (found.pieces, found.exact, found.prefix) == (1, 0.0, 4.0)
    assert found.tokens == pytest.approx(7 / 8)  # after the wrong one it goes on from its own


def test_extraction_needs_a_piece_that_fits():
    for size, length, code in ((10, 8, Code.DATA_EMPTY), (100, 40, Code.USAGE)):
        with pytest.raises(SwarmError) as caught:
            extract(biased(), text(size), prompt=8, length=length)
        assert caught.value.code is code


def test_the_report_has_what_the_plan_asks_for_and_nothing_else():
    texts = {"law": corpus(1), "poems": corpus(5)}
    names = ["base", "law", "code"]
    assert report(biased(), names, texts, Plan()).keys() == {"experts", "domains"}
    plan = Plan(
        leave_out=[1, 2], top_k=[1, 3], ranks=[2], origins={1: (0, 0)}, sizes=[2], protected=1,
        switches=True, extraction=True,
    )  # fmt: skip
    result = report(biased(), names, texts, plan, unseen=["poems"])
    assert [found["unseen"] for found in result["domains"].values()] == [False, True]
    assert list(result["leave_one_out"]) == ["law", "code"]
    expected = measure(without_expert(biased(), 1), texts["poems"].valid).bits_per_byte
    assert result["leave_one_out"]["law"]["poems"] == expected
    assert list(result["top_k"]) == ["1", "3"] and list(result["rank"]) == ["2"]
    assert list(result["size"]) == ["merged to 2", "pruned to 2"]
    assert set(result["switch"]) == {"law > poems", "poems > law"}
    assert result["extraction"]["law"].keys() == {"training", "held_out"}
    assert len(list(tables(result))) == 1 + CONFIG.num_layers + 4 + 2


def test_plots_are_pictures(tmp_path):
    pytest.importorskip("matplotlib")
    from node.evaluation_plots import write_plots

    plan = Plan(leave_out=[1], top_k=[1, 2], ranks=[1], origins={1: (0, 0)}, switches=True)
    texts = {"law": corpus(1), "poems": corpus(5)}
    result = report(biased(), ["base", "law", "code"], texts, plan)
    written = write_plots(result, tmp_path / "plots")
    names = {"bits-per-byte", "routing", "leave-one-out", "top-k", "rank", "switch"}
    assert {path.stem for path in written} == names
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in written)


def test_plots_without_matplotlib_say_what_to_install(monkeypatch):
    from node.evaluation_plots import require_matplotlib

    monkeypatch.setitem(__import__("sys").modules, "matplotlib", None)
    with pytest.raises(SwarmError) as caught:
        require_matplotlib()
    assert caught.value.code is Code.USAGE and "expertswarm[plot]" in caught.value.hint
