"""Models that other programs wrote come in; models with router biases go out, nothing is lost."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file

from node.cli import run_command_line
from swarm.assembly import assemble_experts, load_model, save_assembly
from swarm.assembly.exchange import export_hf, import_hf
from swarm.assembly.isolated import Offer
from swarm.errors import Code, SwarmError
from swarm.experts.artifact import ExpertTensors, check_expert
from swarm.experts.base import make_base
from swarm.experts.cards import ExpertCard, sign_card
from swarm.hashing import bulk_hash
from swarm.identity import Identity
from swarm.model.config import ModelConfig
from swarm.model.hf import WEIGHTS, hf_tensors, load_hf, save_hf, write_hf
from swarm.model.hf_bias import NOTE, fold
from swarm.model.hf_config import CONFIG, hf_config
from swarm.model.transformer import Transformer
from swarm.training.isolation import initial_tensors
from swarm.training.recipe import Recipe

transformers = pytest.importorskip("transformers")

SMALL = ModelConfig(
    d_model=32, num_layers=2, num_heads=4, num_kv_heads=2, d_ff=48, num_experts=4,
    context_length=64, init_std=0.1,
)  # fmt: skip


def random_model(config: ModelConfig, bias: float = 0.0) -> Transformer:
    """Weights that treat no two coordinates alike; biases between 0 and -`bias`."""
    model = Transformer(dataclasses.replace(config, router_bias=bias != 0), seed=3)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("norm.weight"):
                parameter.add_(torch.randn(parameter.shape, generator=generator), alpha=0.2)
            elif ".gate.bias." in name:
                parameter.copy_(-bias * torch.rand((), generator=generator))
    return model


def tokens_of(config: ModelConfig) -> torch.Tensor:
    high = min(config.vocab_size, 256)
    return torch.randint(0, high, (3, 33), generator=torch.Generator().manual_seed(2))


def write_folded(directory: Path, model: Transformer) -> None:
    write_hf(directory, *fold(hf_config(model.config), hf_tensors(model)))


@torch.no_grad()
def logits(model: torch.nn.Module, tokens: torch.Tensor) -> torch.Tensor:
    output = model(tokens)
    return output.logits_BTV if isinstance(model, Transformer) else output.logits


@pytest.mark.parametrize("bias", [0.5, 20.0])
@pytest.mark.parametrize("norm_topk_prob", [True, False])
def test_a_folded_bias_routes_as_the_bias_did(tmp_path, bias, norm_topk_prob):
    model = random_model(dataclasses.replace(SMALL, norm_topk_prob=norm_topk_prob), bias)
    tokens = tokens_of(model.config)
    write_folded(tmp_path, model)
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path)
    assert type(theirs).__name__ == "FlexOlmoForCausalLM"
    assert (logits(theirs, tokens) - logits(model, tokens)).abs().max() < 1e-5
    forgetful = load_hf(tmp_path)
    for moe in forgetful.moe_layers:
        moe.gate.bias.clear()
    assert (logits(forgetful, tokens) - logits(model, tokens)).abs().max() > 1e-3


def test_a_folded_bias_comes_back(tmp_path):
    model = random_model(SMALL, bias=3.0)
    write_folded(tmp_path, model)
    again = load_hf(tmp_path)
    assert again.config == model.config and again.config.router_bias
    for (name, ours), (_, theirs) in zip(
        model.named_parameters(), again.named_parameters(), strict=True
    ):
        torch.testing.assert_close(theirs, ours, rtol=3e-7, atol=0, msg=name)
        if ".gate." in name:
            assert torch.equal(theirs, ours), name


def test_a_model_with_biases_is_kept_exactly_in_our_own_format(tmp_path):
    model = random_model(SMALL, bias=3.0)
    save_hf(tmp_path, model.config, model)
    again = load_hf(tmp_path)
    assert torch.equal(logits(again, tokens_of(SMALL)), logits(model, tokens_of(SMALL)))
    with pytest.raises(ValueError, match="expertswarm"):
        transformers.AutoModelForCausalLM.from_pretrained(tmp_path)


@pytest.mark.parametrize("option", [{"shared_experts": 1}, {"pre_norm": True}])
def test_what_can_not_be_folded_is_refused(option):
    model = random_model(dataclasses.replace(SMALL, **option), bias=1.0)
    with pytest.raises(SwarmError) as caught:
        fold(hf_config(model.config), hf_tensors(model))
    assert caught.value.code is Code.EXPORT_LOSSY


def test_generate_of_transformers_continues_as_our_own(tmp_path):
    from swarm.inference.engine import generate

    model = random_model(SMALL, bias=2.0)
    write_folded(tmp_path, model)
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path)
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path)
    inputs = tokenizer("def main(", return_tensors="pt")
    found = theirs.generate(**inputs, max_new_tokens=12, do_sample=False)[0].tolist()
    prompt = inputs.input_ids[0].tolist()
    ours = list(generate(model, prompt, 12, temperature=0, stop=(257,)))
    assert found[: len(prompt) + len(ours)] == prompt + ours


@pytest.mark.parametrize("norm_topk_prob", [True, False])
def test_olmoe_comes_in_and_goes_out_with_the_same_logits(tmp_path, norm_topk_prob):
    torch.manual_seed(0)
    config = transformers.OlmoeConfig(
        vocab_size=80, hidden_size=32, intermediate_size=40, num_hidden_layers=2, num_experts=5,
        num_attention_heads=4, num_key_value_heads=4, num_experts_per_tok=2, initializer_range=0.2,
        norm_topk_prob=norm_topk_prob, max_position_embeddings=64, pad_token_id=1, eos_token_id=2,
    )  # fmt: skip
    theirs = transformers.OlmoeForCausalLM(config).eval()
    theirs.save_pretrained(tmp_path / "theirs")
    ours = load_hf(tmp_path / "theirs")
    tokens = tokens_of(ours.config) % 80
    torch.testing.assert_close(logits(ours, tokens), logits(theirs, tokens), rtol=0, atol=1e-4)
    save_hf(tmp_path / "ours", ours.config, ours)
    again = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "ours")
    assert type(again).__name__ == "OlmoeForCausalLM"
    assert torch.equal(logits(again, tokens), logits(theirs, tokens))


def test_a_dense_olmo2_becomes_a_model_with_one_expert(tmp_path):
    torch.manual_seed(0)
    config = transformers.Olmo2Config(
        vocab_size=80, hidden_size=32, intermediate_size=40, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, initializer_range=0.2,
        max_position_embeddings=64, pad_token_id=1, eos_token_id=2,
    )  # fmt: skip
    theirs = transformers.Olmo2ForCausalLM(config).eval()
    theirs.save_pretrained(tmp_path)
    ours = load_hf(tmp_path)
    assert ours.config.num_experts == 1
    tokens = tokens_of(ours.config) % 80
    torch.testing.assert_close(logits(ours, tokens), logits(theirs, tokens), rtol=0, atol=1e-4)


def edit_config(directory: Path, **changes: object) -> None:
    content = json.loads((directory / CONFIG).read_text())
    (directory / CONFIG).write_text(json.dumps({**content, **changes}))


def drop_router(directory: Path) -> None:
    tensors = load_file(directory / WEIGHTS)
    kept = {name: values for name, values in tensors.items() if "mlp.gate" not in name}
    save_file(kept, directory / WEIGHTS)


def narrow_embedding(directory: Path) -> None:
    tensors = load_file(directory / WEIGHTS)
    name = "model.embed_tokens.weight"
    tensors[name] = np.ascontiguousarray(tensors[name][:, :7])
    save_file(tensors, directory / WEIGHTS)


@pytest.mark.parametrize(
    "damage",
    [
        lambda d: edit_config(d, **{NOTE: True}),
        lambda d: edit_config(d, **{NOTE: {"hidden_size": 64, "rms_norm_eps": 1e-6}}),
        lambda d: edit_config(d, **{NOTE: {"hidden_size": 32}}),
        lambda d: edit_config(d, hidden_size="wide"),
        lambda d: edit_config(d, head_dim=5, **{NOTE: {"hidden_size": 30, "rms_norm_eps": 1e-6}}),
        drop_router,
        narrow_embedding,
    ],
)
def test_a_folded_directory_that_does_not_fit_together_is_refused(tmp_path, damage):
    write_folded(tmp_path, random_model(SMALL, bias=1.0))
    damage(tmp_path)
    with pytest.raises(SwarmError) as caught:
        load_hf(tmp_path)
    assert caught.value.code is Code.MODEL_UNREADABLE


def assembly_directory(directory: Path) -> Transformer:
    """An assembly with router biases, as node assemble writes it, without owners' training."""
    model = random_model(dataclasses.replace(SMALL, num_experts=1, top_k=1))
    base = make_base(model, np.arange(2000).astype(np.uint16) % 256, {})
    owner = Identity.generate()
    offers = []
    for number, domain in enumerate(("law", "medicine")):
        generator = np.random.default_rng(number)
        arrays = {
            name: (values + 0.1 * generator.standard_normal(values.shape)).astype(np.float32)
            for name, values in initial_tensors(base, np.arange(900) % 256, Recipe()).arrays.items()
        }
        for layer in range(model.config.num_layers):
            arrays[f"layers.{layer}.bias"] = np.float32(-1 - number) * np.ones((), np.float32)
        tensors = ExpertTensors(arrays, (0,) * model.config.num_layers)
        weights = tensors.pack()
        card = ExpertCard(
            domain=domain, owner=owner.peer_id, base=base.id, weights=bulk_hash(weights).hex(),
            weights_bytes=len(weights), issued_at_ms=1, origins=tensors.origins,
        )  # fmt: skip
        signed = sign_card(owner, card)
        offers.append(Offer(signed, check_expert(signed, weights, base)))
    assembly = assemble_experts(base, offers)
    save_assembly(assembly, directory)
    return assembly.model


def test_an_assembly_goes_out_and_comes_back_by_the_command_line(tmp_path, capsys):
    model = assembly_directory(tmp_path / "model")
    tokens = tokens_of(model.config)
    out, back = str(tmp_path / "hf"), str(tmp_path / "back")
    assert run_command_line(["export", str(tmp_path / "model"), "--out", out, "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["folded_bias"] and facts["largest_logit_difference"] < 1e-4
    theirs = transformers.AutoModelForCausalLM.from_pretrained(out)
    assert (logits(theirs, tokens) - logits(model, tokens)).abs().max() < 1e-4
    assert run_command_line(["import", out, "--out", back]) == 0
    again, _ = load_model(Path(back))
    assert (logits(again, tokens) - logits(model, tokens)).abs().max() < 1e-4
    text = tmp_path / "law.txt"
    text.write_text("\n\n".join(f"Section {n}. The court shall be {n} times." for n in range(200)))
    arguments = ["eval", str(tmp_path / "model"), "--data", f"law={text}", "--json"]
    assert run_command_line([*arguments, "--leave-one-out", "--top-k", "1", "--rank", "1"]) == 0
    result = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert result["experts"] == ["base", "law", "medicine"]
    assert result["leave_one_out"].keys() == {"law", "medicine"} and "1" in result["rank"]


def test_a_model_with_shared_experts_is_not_exported(tmp_path):
    model = random_model(dataclasses.replace(SMALL, shared_experts=1))
    with pytest.raises(SwarmError) as caught:
        export_hf(model, tmp_path / "hf")
    assert caught.value.code is Code.EXPORT_LOSSY
    assert not (tmp_path / "hf").exists()


def test_the_tokenizer_of_another_vocabulary_travels_along(tmp_path):
    model = random_model(dataclasses.replace(SMALL, vocab_size=80))
    save_hf(tmp_path / "theirs", model.config, model)
    (tmp_path / "theirs" / "tokenizer.json").write_text("{}")
    import_hf(tmp_path / "theirs", tmp_path / "model")
    export_hf(model, tmp_path / "again", tmp_path / "model")
    assert (tmp_path / "again" / "tokenizer.json").read_text() == "{}"
