"""Experts are put together and taken out again without a trace."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path

import pytest
import torch
from owners import LETTERS, corpus_of, signed_card, tiny_base, trained

from node.cli import run_command_line
from swarm.assembly import assemble_experts, load_assembly, load_model, save_assembly
from swarm.assembly.isolated import ASSEMBLY_FILE, Choice, Offer, choose
from swarm.assembly.router_tuning import TUNING_FILE, RouterTuning, TuningRecipe, tune_router
from swarm.errors import Code, SwarmError
from swarm.experts.artifact import Expert, save_expert
from swarm.experts.base import save_base
from swarm.experts.mixture import FULL_MARGIN, margin_of, mixture
from swarm.experts.withdrawals import Notices, sign_notice
from swarm.identity import Identity
from swarm.model.config import ModelConfig
from swarm.model.hf import WEIGHTS
from swarm.model.router import Router

OWNERS = {domain: Identity.generate() for domain in LETTERS}
TOKENS_BT = torch.tensor([[97, 98, 32, 50, 51, 32, 99, 100]])


def offer(domain: str) -> Offer:
    tensors = trained(domain, rank=4 if domain == "sums" else None)
    signed = signed_card(OWNERS[domain], domain, tensors, tensors.pack())
    return Offer(signed, Expert(signed.id, domain, tensors, OWNERS[domain].peer_id))


LAW, SUMS = offer("law"), offer("sums")


def refusal(action: object) -> Code:
    with pytest.raises(SwarmError) as caught:
        action()  # type: ignore[operator]
    return caught.value.code


def test_the_order_of_the_experts_changes_no_byte(tmp_path: Path) -> None:
    for name, offers in (("a", [LAW, SUMS]), ("b", [SUMS, LAW])):
        save_assembly(assemble_experts(tiny_base(), offers), tmp_path / name)
    for file in (WEIGHTS, ASSEMBLY_FILE, "config.json"):
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()


def test_an_assembly_is_read_as_it_was_written(tmp_path: Path) -> None:
    made = assemble_experts(tiny_base(), [LAW, SUMS])
    save_assembly(made, tmp_path / "model")
    read = load_assembly(tmp_path / "model")
    assert read.cards == (LAW.card, SUMS.card)
    assert torch.equal(read.model(TOKENS_BT).logits_BTV, made.model(TOKENS_BT).logits_BTV)
    gate = read.model.moe_layers[1].gate
    assert gate.bias["1"].item() == LAW.expert.tensors.bias(1) < 0
    model, facts = load_model(tmp_path / "model")
    assert model.config.router_bias
    assert facts["experts"] == ["law", "sums"]


@pytest.mark.parametrize("experts", [1, 3])
def test_with_everybody_out_the_model_is_the_base_bit_for_bit(experts: int, tmp_path: Path) -> None:
    base = tiny_base(experts)
    save_assembly(assemble_experts(base, []), tmp_path / "model")
    model, _ = load_model(tmp_path / "model")
    assert torch.equal(model(TOKENS_BT).logits_BTV, base.model(TOKENS_BT).logits_BTV)


def test_nothing_of_an_expert_that_is_out_remains(tmp_path: Path) -> None:
    chosen = choose([LAW, SUMS], Notices(), Choice(exclude=["sums"]))
    save_assembly(assemble_experts(tiny_base(), [LAW, SUMS]), tmp_path / "model")
    both = b"".join(path.read_bytes() for path in sorted((tmp_path / "model").iterdir()))
    save_assembly(assemble_experts(tiny_base(), chosen), tmp_path / "model")
    one = b"".join(path.read_bytes() for path in sorted((tmp_path / "model").iterdir()))
    row, gate = SUMS.expert.tensors.row(0), SUMS.expert.tensors.matrices(tiny_base(), 0)[0]
    for trace in (row.tobytes(), gate.tobytes(), SUMS.card.card.owner.encode(), b"sums"):
        assert trace in both
        assert trace not in one


def test_back_in_again_is_as_if_it_had_never_been_out(tmp_path: Path) -> None:
    for name in ("before", "after"):
        save_assembly(assemble_experts(tiny_base(), [SUMS, LAW]), tmp_path / name)
        save_assembly(assemble_experts(tiny_base(), [LAW]), tmp_path / "out")
    before, after = ((tmp_path / name / WEIGHTS).read_bytes() for name in ("before", "after"))
    assert before == after


def test_weights_of_the_chosen_experts_sum_to_one() -> None:
    model = mixture(tiny_base(), [LAW.expert, SUMS.expert], top_k=2)
    routing = model.moe_layers[0].gate(torch.randn(50, 16))
    torch.testing.assert_close(routing.weights_KN.sum(dim=0), torch.ones(50))


def test_the_more_owners_the_more_is_left_to_the_base_and_their_biases_stay_theirs() -> None:
    alone = mixture(tiny_base(), [LAW.expert]).moe_layers[0].gate.bias
    beside = mixture(tiny_base(), [LAW.expert, SUMS.expert]).moe_layers[0].gate.bias
    given = mixture(tiny_base(), [LAW.expert, SUMS.expert], margin=3.0).moe_layers[0].gate.bias
    assert [bias["0"].item() for bias in (alone, beside, given)] == [0.0, margin_of(2), 3.0]
    assert margin_of(2) < margin_of(4) < margin_of(100) < FULL_MARGIN
    for place, offer in (("1", LAW), ("2", SUMS)):
        assert float(beside[place]) == float(offer.expert.tensors.bias(0))


def test_the_command_takes_a_margin(tmp_path: Path) -> None:
    save_base(tiny_base(), tmp_path / "base")
    for offer in (LAW, SUMS):
        save_expert(tmp_path / offer.expert.domain, offer.card, offer.expert.tensors.pack())
    words = ["--expert", f"{tmp_path}/law", "--expert", f"{tmp_path}/sums", "--margin", "0.75"]
    out = ["--out", f"{tmp_path}/model", "--json"]
    assert run_command_line(["assemble", "--base", f"{tmp_path}/base", *words, *out]) == 0
    bias = load_assembly(tmp_path / "model").model.moe_layers[1].gate.bias
    assert float(bias["0"]) == 0.75
    assert float(bias["2"]) == float(SUMS.expert.tensors.bias(1))


def test_choices_are_by_domain_or_id_and_a_withdrawn_expert_is_refused() -> None:
    offers, notices = [LAW, SUMS], Notices()
    assert choose(offers, notices, Choice(include=["law"])) == [LAW]
    assert choose(offers, notices, Choice(include=[SUMS.card.id[:12]])) == [SUMS]
    assert choose(offers, notices, Choice(include=["law"], exclude=["law"])) == []
    assert refusal(lambda: choose(offers, notices, Choice(exclude=["lwa"]))) is Code.USAGE
    notice = sign_notice(OWNERS["law"], LAW.card.id, sequence=1, withdrawn=True, at_ms=1)
    notices.accept(notice, OWNERS["law"].peer_id)
    assert refusal(lambda: choose(offers, notices, Choice())) is Code.EXPERT_WITHDRAWN
    assert choose(offers, notices, Choice(exclude=["law"])) == [SUMS]


def test_the_same_expert_twice_or_an_impossible_top_k_is_refused() -> None:
    assert refusal(lambda: mixture(tiny_base(), [LAW.expert, LAW.expert])) is Code.USAGE
    assert refusal(lambda: mixture(tiny_base(), [LAW.expert], top_k=3)) is Code.USAGE
    assert refusal(lambda: mixture(tiny_base(), [LAW.expert], margin=math.nan)) is Code.USAGE


def tuned(offers: list[Offer]) -> RouterTuning:
    proxies = [corpus_of(letters, seed=9) for letters in LETTERS.values()]
    recipe = TuningRecipe(steps=6, batch_size=4, sequence_length=16, learning_rate=0.1)
    return tune_router(tiny_base(), [o.expert for o in offers], proxies, recipe)


def test_a_tuned_router_is_kept_apart_and_its_removal_gives_back_what_the_owners_made(
    tmp_path: Path,
) -> None:
    plain = assemble_experts(tiny_base(), [LAW, SUMS])
    with_tuning = dataclasses.replace(plain, tuning=tuned([LAW, SUMS]))
    save_assembly(with_tuning, tmp_path / "model")
    read = load_assembly(tmp_path / "model")
    logits = read.model(TOKENS_BT).logits_BTV
    assert torch.equal(logits, with_tuning.model(TOKENS_BT).logits_BTV)
    assert not torch.equal(logits, plain.model(TOKENS_BT).logits_BTV)
    (tmp_path / "model" / TUNING_FILE).unlink()
    again, _ = load_model(tmp_path / "model")
    assert torch.equal(again(TOKENS_BT).logits_BTV, plain.model(TOKENS_BT).logits_BTV)


def test_a_tuned_router_does_not_outlive_the_set_it_was_tuned_for() -> None:
    assembly = assemble_experts(tiny_base(), [LAW], tuning=tuned([LAW, SUMS]))
    assert refusal(lambda: assembly.model) is Code.TUNING_MISMATCH


def test_changed_weights_are_refused(tmp_path: Path) -> None:
    save_assembly(assemble_experts(tiny_base(), [LAW]), tmp_path / "model")
    weights = bytearray((tmp_path / "model" / WEIGHTS).read_bytes())
    weights[-2] ^= 1
    (tmp_path / "model" / WEIGHTS).write_bytes(weights)
    assert refusal(lambda: load_assembly(tmp_path / "model")) is Code.MODEL_UNREADABLE


def test_the_eleventh_expert_has_the_eleventh_row() -> None:
    """A ParameterDict sorts its keys as text, "10" before "2"."""
    config = ModelConfig(
        d_model=8, num_heads=2, num_kv_heads=2, num_experts=12, top_k=1, router_bias=True
    )
    router = Router(config, range(12))
    with torch.no_grad():
        router.weight["10"].fill_(math.pi)
    assert router(torch.ones(1, 8)).chosen_KN.item() == 10
    with torch.no_grad():
        router.bias["10"].fill_(-100.0)
        router.bias["11"].fill_(1.0)
    assert router(torch.ones(1, 8)).chosen_KN.item() == 11
