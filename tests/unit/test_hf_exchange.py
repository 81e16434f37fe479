"""Models that other programs wrote come in; models with router biases go out, nothing is lost."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file

from swarm.errors import Code, SwarmError
from swarm.model.config import ModelConfig
from swarm.model.hf import WEIGHTS, hf_tensors, load_hf, save_hf, write_hf
from swarm.model.hf_bias import NOTE, fold
from swarm.model.hf_config import CONFIG, hf_config
from swarm.model.transformer import Transformer

transformers = pytest.importorskip("transformers")

SMALL = ModelConfig(
    d_model=32, num_layers=2, num_heads=4, num_kv_heads=2, d_ff=48, num_experts=4,
    context_length=64, init_std=0.1,
)  # fmt: skip


def random_model(config: ModelConfig, bias: float = 0.0) -> Transformer:
    """Weights that treat no two coordinates alike; biases between 0 and -`bias`."""
    model = Transformer(config, seed=3)
    if bias:
        model.add_router_bias()
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
    write_hf(directory, *fold(hf_config(model.config, router_bias=True), hf_tensors(model)))


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
    assert again.config == model.config and again.has_router_bias
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
        fold(hf_config(model.config, router_bias=True), hf_tensors(model))
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
