"""Save and load the model as a Hugging Face `flex_olmo` directory.

    save_hf(directory, config, model)
    model = load_hf(directory)

The directory (`config.json`, `model.safetensors`, for byte models also the tokenizer) loads with
`transformers.AutoModelForCausalLM.from_pretrained` and gives the same logits. Router rows, one
tensor per expert here, are stacked to Hugging Face's one matrix per layer. With shared experts or
router biases `flex_olmo` can not express the model: the directory has a `model_type` of its own,
for `load_hf`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from swarm.errors import Code, SwarmError
from swarm.files import write_atomic
from swarm.model.config import BYTE_VOCAB, ModelConfig
from swarm.model.fragments import FragmentLayout
from swarm.model.hf_tokenizer import tokenizer_files
from swarm.model.transformer import Transformer

WEIGHTS = "model.safetensors"
CONFIG = "config.json"
_MAX_CONTEXT = 2**20
_FLOATS = ("F64", "F32", "F16", "BF16")
_ROUTER_ROW = re.compile(r"(.*\.mlp\.gate\.(?:weight|bias))\.(\d+)")
_FIELDS = {  # ours: theirs
    "vocab_size": "vocab_size",
    "d_model": "hidden_size",
    "num_layers": "num_hidden_layers",
    "num_heads": "num_attention_heads",
    "num_kv_heads": "num_key_value_heads",
    "d_ff": "intermediate_size",
    "num_experts": "num_experts",
    "top_k": "num_experts_per_tok",
    "norm_topk_prob": "norm_topk_prob",
    "context_length": "max_position_embeddings",
    "rope_theta": "rope_theta",
    "rms_norm_eps": "rms_norm_eps",
    "init_std": "initializer_range",
}
OURS = "expertswarm"  # `model_type` of what `flex_olmo` can not express
_SHARED = "num_shared_experts"
_BIAS = "router_bias"
_FIXED = {  # what this architecture does not vary
    "hidden_act": "silu",
    "attention_bias": False,
    "rope_scaling": None,
    "tie_word_embeddings": False,
}


def hf_config(config: ModelConfig, router_bias: bool = False) -> dict[str, Any]:
    """Content of `config.json`."""
    bytes_only = config.vocab_size == BYTE_VOCAB
    special = {"bos_token_id": 256, "eos_token_id": 257, "pad_token_id": 258}
    kind: dict[str, Any] = {"architectures": ["FlexOlmoForCausalLM"], "model_type": "flex_olmo"}
    if config.shared_experts or router_bias:  # `transformers` would leave them out without a word
        kind = {"architectures": [], "model_type": OURS, _SHARED: config.shared_experts}
        kind |= {_BIAS: True} if router_bias else {}
    return {
        **kind,
        "torch_dtype": "float32",
        **_FIXED,
        **(special if bytes_only else dict.fromkeys(special)),
        **{theirs: getattr(config, ours) for ours, theirs in _FIELDS.items()},
    }


def hf_tensors(source: Transformer | Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Tensors under Hugging Face names, from a model with all experts or from named tensors.

    Named tensors are those of `fragments.fragment_tensors`: router rows one by one.
    """
    if isinstance(source, Transformer):
        source = {
            name: parameter.detach().float().cpu().numpy()
            for name, parameter in source.named_parameters()
        }
    tensors: dict[str, np.ndarray] = {}
    rows: dict[str, dict[int, np.ndarray]] = {}
    for name, values in source.items():
        if match := _ROUTER_ROW.fullmatch(name):
            rows.setdefault(match[1], {})[int(match[2])] = values
        else:
            tensors[name] = np.ascontiguousarray(values, dtype=np.float32)
    for name, by_expert in rows.items():
        tensors[name] = np.stack([by_expert[e] for e in range(len(by_expert))])
    return tensors


def save_hf(
    directory: Path, config: ModelConfig, source: Transformer | Mapping[str, np.ndarray]
) -> None:
    """Write the model into `directory`; equal input, equal bytes.

    For byte models the tokenizer's files come along.

    Raises `DISK_FULL` or `DIR_NOT_WRITABLE`.
    """
    tensors = hf_tensors(source)
    biased = any(map(_is_bias, tensors))
    content = json.dumps(hf_config(config, biased), indent=2, sort_keys=True) + "\n"
    weights = save(tensors, metadata={"format": "pt"})
    if config.vocab_size == BYTE_VOCAB:
        for name, text in tokenizer_files().items():
            write_atomic(directory / name, text.encode())
    write_atomic(directory / CONFIG, content.encode())
    write_atomic(directory / WEIGHTS, weights)


def load_hf(directory: Path) -> Transformer:
    """Model from a directory in the format of `save_hf`, also one in several safetensors files.

    Raises `MODEL_UNREADABLE` for files that are missing, corrupt or of another architecture.
    """
    try:
        content = json.loads((directory / CONFIG).read_text(encoding="utf-8"))
        config = _model_config(content)
        router_bias = content["model_type"] == OURS and content.get(_BIAS) is True
        paths = _weight_files(directory)
        # Before memory is taken for what the files may not hold.
        _check_shapes(paths, config, router_bias)
        model = Transformer(config, seed=None)
        if router_bias:
            model.add_router_bias()
        _load_weights(paths, model)
    except SwarmError as error:
        raise _unreadable(directory, error.message) from error
    except (OSError, ValueError, SafetensorError) as error:
        raise _unreadable(directory, str(error)) from error
    return model


def _model_config(content: Any) -> ModelConfig:
    if not isinstance(content, dict) or content.get("model_type") not in ("flex_olmo", OURS):
        raise ValueError(f"{CONFIG} is not of model_type flex_olmo")
    for key, value in _FIXED.items():
        if content.get(key, value) != value:
            raise ValueError(f"{CONFIG}: {key} {content[key]!r} is not supported, only {value!r}")
    values: dict[str, Any] = {}
    for ours, theirs in _FIELDS.items():
        if theirs not in content:
            raise ValueError(f"{CONFIG} has no {theirs}")
        kind, value = type(getattr(ModelConfig, ours)), content[theirs]
        if kind is float and type(value) is int:
            value = float(value)
        if type(value) is not kind:
            raise ValueError(f"{CONFIG}: {theirs} must be {kind.__name__}, is {value!r}")
        values[ours] = value
    if values["context_length"] > _MAX_CONTEXT:
        raise ValueError(f"{CONFIG}: max_position_embeddings is above {_MAX_CONTEXT}")
    shared = content.get(_SHARED, 0) if content["model_type"] == OURS else 0
    if type(shared) is not int:
        raise ValueError(f"{CONFIG}: {_SHARED} must be int, is {shared!r}")
    return ModelConfig(**values, shared_experts=shared)


def _weight_files(directory: Path) -> list[Path]:
    index = directory / f"{WEIGHTS}.index.json"
    if not index.exists():
        return [directory / WEIGHTS]
    content = json.loads(index.read_text(encoding="utf-8"))
    weight_map = content.get("weight_map") if isinstance(content, dict) else None
    if not isinstance(weight_map, dict):
        raise ValueError(f"{index.name} has no weight_map")
    names = sorted({str(name) for name in weight_map.values()})
    if any(Path(name).name != name for name in names):
        raise ValueError(f"{index.name} names files outside the directory")
    return [directory / name for name in names]


def _check_shapes(paths: list[Path], config: ModelConfig, router_bias: bool) -> None:
    """Compare the files' headers with `config`, without reading or allocating tensors."""
    found: dict[str, tuple[int, ...]] = {}
    for path in paths:
        with safe_open(path, framework="pt") as file:
            for name in file.keys():
                header = file.get_slice(name)
                if header.get_dtype() not in _FLOATS:
                    raise ValueError(f"{name} has the type {header.get_dtype()}, not a float")
                found[name] = tuple(header.get_shape())
    if config.num_layers * config.num_experts > len(found):
        raise ValueError(f"{CONFIG} describes more layers or experts than the {len(found)} tensors")
    expected: dict[str, tuple[int, ...]] = {}
    layout = FragmentLayout.of(config, trunk_fragments=1)
    for part in (part for name in layout.names for part in layout.tensors(name)):
        if match := _ROUTER_ROW.fullmatch(part.name):
            expected[match[1]] = (config.num_experts, config.d_model)
            if router_bias:
                expected[match[1].removesuffix("weight") + "bias"] = (config.num_experts,)
        else:
            expected[part.name] = part.shape
    for name in sorted(found.keys() | expected.keys()):
        if name not in expected:
            raise ValueError(f"unknown tensor {name}")
        if name not in found:
            raise ValueError(f"tensor {name} is missing")
        if found[name] != expected[name]:
            raise ValueError(f"{name} has the shape {found[name]}, {CONFIG} says {expected[name]}")


def _load_weights(paths: list[Path], model: Transformer) -> None:
    """Copy the tensors, whose names and shapes have been checked."""
    targets: dict[str, list[torch.Tensor]] = {}
    for name, parameter in model.named_parameters():
        match = _ROUTER_ROW.fullmatch(name)
        targets.setdefault(match[1] if match else name, []).append(parameter.data)
    for path in paths:
        with safe_open(path, framework="pt") as file:
            for name in file.keys():
                values = file.get_tensor(name)
                rows = values.unbind() if _is_router(name) else (values,)
                for target, row in zip(targets[name], rows, strict=True):
                    target.copy_(row)


def _is_router(name: str) -> bool:
    return name.endswith(".mlp.gate.weight") or _is_bias(name)


def _is_bias(name: str) -> bool:
    return name.endswith(".mlp.gate.bias")


def _unreadable(directory: Path, problem: str) -> SwarmError:
    return SwarmError(
        Code.MODEL_UNREADABLE,
        f"{directory}: {problem}",
        "needs config.json and model.safetensors of a flex_olmo model, as node assemble writes",
    )
