"""The model computes what transformers' FlexOlmo computes, and its files are FlexOlmo's files."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors.numpy import load_file, save_file

from swarm.errors import Code, SwarmError
from swarm.model.config import ModelConfig
from swarm.model.hf import CONFIG, WEIGHTS, hf_config, hf_tensors, load_hf, save_hf
from swarm.model.transformer import Transformer

transformers = pytest.importorskip("transformers")

SMALL = dict(d_model=32, num_layers=2, num_heads=4, d_ff=48, num_experts=4, context_length=64)
CONFIGS = {
    "plain": ModelConfig(**SMALL, top_k=2),
    "grouped-queries": ModelConfig(**SMALL, num_kv_heads=2, top_k=2),
    "one-kv-head": ModelConfig(**SMALL, num_kv_heads=1, top_k=3),
    "not-renormalized": ModelConfig(**SMALL, top_k=2, norm_topk_prob=False),
    "top-1": ModelConfig(**SMALL, top_k=1, norm_topk_prob=False),
    "all-experts": ModelConfig(**SMALL, top_k=4),
    "other-constants": ModelConfig(
        **SMALL, top_k=2, rope_theta=500.0, rms_norm_eps=1e-3, init_std=0.1, vocab_size=40
    ),
}
each_config = pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS.keys())


def random_model(config: ModelConfig, **options: object) -> Transformer:
    """Initial weights with norms that are not all ones."""
    model = Transformer(config, **options)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("norm.weight"):
                parameter.add_(torch.randn(parameter.shape, generator=generator), alpha=0.2)
    return model


def reference(model: Transformer) -> torch.nn.Module:
    theirs = transformers.FlexOlmoForCausalLM(
        transformers.FlexOlmoConfig(**hf_config(model.config))
    )
    state = {name: torch.from_numpy(values) for name, values in hf_tensors(model).items()}
    theirs.load_state_dict(state, strict=True)
    return theirs.eval()


def random_tokens(config: ModelConfig, batch: int = 3, length: int = 33) -> torch.Tensor:
    # PAD, the last id, has no gradient in the embedding of transformers.
    high = config.vocab_size - 1
    return torch.randint(0, high, (batch, length), generator=torch.Generator().manual_seed(2))


@each_config
def test_logits_equal_those_of_transformers(config):
    model, tokens = random_model(config), random_tokens(config)
    with torch.no_grad():
        torch.testing.assert_close(
            model(tokens).logits_BTV, reference(model)(tokens).logits, rtol=0, atol=1e-5
        )


@each_config
def test_gradients_equal_those_of_transformers(config):
    model, tokens = random_model(config), random_tokens(config)
    theirs = reference(model)
    for logits in (model(tokens).logits_BTV, theirs(tokens).logits):
        F.cross_entropy(logits[:, :-1].flatten(0, 1), tokens[:, 1:].flatten()).backward()
    ours = hf_tensors(
        {
            name: torch.zeros_like(p).numpy() if p.grad is None else p.grad.numpy()
            for name, p in model.named_parameters()
        }
    )
    expected = {
        name: torch.zeros_like(p) if p.grad is None else p.grad
        for name, p in theirs.named_parameters()
    }
    assert ours.keys() == expected.keys()
    assert sum(float(g.abs().sum()) for g in expected.values()) > 1
    for name, grad in expected.items():
        torch.testing.assert_close(torch.from_numpy(ours[name]), grad, rtol=1e-4, atol=1e-6)


def test_saved_directory_loads_with_auto_model_and_gives_the_same_logits(tmp_path):
    model = random_model(CONFIGS["grouped-queries"])
    tokens = random_tokens(model.config)
    save_hf(tmp_path, model.config, model)
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path)
    assert type(theirs).__name__ == "FlexOlmoForCausalLM"
    assert theirs.dtype == torch.float32
    with torch.no_grad():
        torch.testing.assert_close(
            model(tokens).logits_BTV, theirs(tokens).logits, rtol=0, atol=1e-5
        )


@pytest.mark.parametrize("shard_size", ["1GB", "20kB"])
def test_directory_written_by_transformers_loads(tmp_path, shard_size):
    model = random_model(CONFIGS["plain"])
    tokens = random_tokens(model.config)
    reference(model).save_pretrained(tmp_path, max_shard_size=shard_size)
    assert (tmp_path / f"{WEIGHTS}.index.json").exists() == (shard_size == "20kB")
    loaded = load_hf(tmp_path)
    assert loaded.config == model.config
    assert torch.equal(loaded(tokens).logits_BTV, model(tokens).logits_BTV)


def test_save_and_load_is_exact_and_equal_models_give_equal_bytes(tmp_path):
    model = random_model(CONFIGS["other-constants"])
    for name in ("a", "b"):
        save_hf(tmp_path / name, model.config, model)
    for file in (CONFIG, WEIGHTS):
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()
    loaded = load_hf(tmp_path / "a")
    assert loaded.config == model.config
    for (name, ours), (_, theirs) in zip(
        model.named_parameters(), loaded.named_parameters(), strict=True
    ):
        assert torch.equal(ours, theirs), name


@pytest.mark.parametrize(
    "text", ["", "def f(x):\n\treturn x  # héllo", " leading", "日本語 🙂\r\n\x00\x7f", "<|eos|"]
)
def test_auto_tokenizer_of_a_byte_model_gives_one_token_per_byte(tmp_path, text):
    model = Transformer(ModelConfig(**SMALL))
    save_hf(tmp_path, model.config, model)
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path)
    ids = tokenizer(text).input_ids
    assert ids == [256, *text.encode()]
    assert tokenizer.decode(ids, skip_special_tokens=True) == text
    assert (tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id) == (
        256,
        257,
        258,
    )


def edit_config(directory: Path, **changes: object) -> None:
    content = json.loads((directory / CONFIG).read_text())
    content.update(changes)
    (directory / CONFIG).write_text(json.dumps(content))


def edit_weights(directory: Path, **changes: np.ndarray | None) -> None:
    tensors = {**load_file(directory / WEIGHTS), **changes}
    save_file({k: v for k, v in tensors.items() if v is not None}, directory / WEIGHTS)


def truncate(path: Path, size: int) -> None:
    path.write_bytes(path.read_bytes()[:size])


def flip_header(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[:8] = b"\xff" * 8
    path.write_bytes(content)


DAMAGE = {
    "no config": lambda d: (d / CONFIG).unlink(),
    "config is not JSON": lambda d: truncate(d / CONFIG, 50),
    "config is binary": lambda d: (d / CONFIG).write_bytes(b"\xff\xfe\x00"),
    "config is a list": lambda d: (d / CONFIG).write_text("[]"),
    "other architecture": lambda d: edit_config(d, model_type="llama"),
    "attention bias": lambda d: edit_config(d, attention_bias=True),
    "size is text": lambda d: edit_config(d, hidden_size="32"),
    "theta is null": lambda d: edit_config(d, rope_theta=None),
    "negative size": lambda d: edit_config(d, hidden_size=-32),
    "zero heads": lambda d: edit_config(d, num_attention_heads=0),
    "absurd size": lambda d: edit_config(d, vocab_size=10**15),
    "wrong size": lambda d: edit_config(d, intermediate_size=16),
    "wrong number of experts": lambda d: edit_config(d, num_experts=5),
    "no weights": lambda d: (d / WEIGHTS).unlink(),
    "empty weights": lambda d: truncate(d / WEIGHTS, 0),
    "half the weights": lambda d: truncate(d / WEIGHTS, 5000),
    "corrupt header": lambda d: flip_header(d / WEIGHTS),
    "tensor missing": lambda d: edit_weights(d, **{"model.norm.weight": None}),
    "tensor unknown": lambda d: edit_weights(d, extra=np.zeros(1, np.float32)),
    "tensor of integers": lambda d: edit_weights(
        d, **{"model.norm.weight": np.zeros(32, np.int64)}
    ),
    "index leads outside": lambda d: (d / f"{WEIGHTS}.index.json").write_text(
        json.dumps({"weight_map": {"a": "../secret.safetensors"}})
    ),
    "index is a list": lambda d: (d / f"{WEIGHTS}.index.json").write_text("[]"),
    "index without map": lambda d: (d / f"{WEIGHTS}.index.json").write_text("{}"),
}


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE.keys())
def test_damaged_or_foreign_directory_is_refused_with_its_name(tmp_path, damage):
    model = Transformer(CONFIGS["plain"])
    save_hf(tmp_path, model.config, model)
    damage(tmp_path)
    with pytest.raises(SwarmError) as caught:
        load_hf(tmp_path)
    assert caught.value.code is Code.MODEL_UNREADABLE
    assert str(tmp_path) in caught.value.message
    assert caught.value.hint


def test_a_model_with_shared_experts_comes_back_and_is_nothing_that_transformers_loads(tmp_path):
    config = dataclasses.replace(CONFIGS["plain"], shared_experts=1)
    model = Transformer(config, seed=2)
    save_hf(tmp_path, config, model)
    again = load_hf(tmp_path)
    assert again.config == config
    pairs = zip(model.parameters(), again.parameters(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)
    with pytest.raises(ValueError, match="expertswarm"):
        transformers.AutoModelForCausalLM.from_pretrained(tmp_path)
