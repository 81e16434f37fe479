"""Save and load the model as a Hugging Face directory.

    save_hf(directory, config, model)
    model = load_hf(directory)

The directory (`config.json`, `model.safetensors`, for byte models also the tokenizer) loads with
`transformers.AutoModelForCausalLM.from_pretrained` and gives the same logits, unless its
`model_type` is our own: that is for models with shared experts or router biases (`hf_config`).
Router rows and biases, one tensor per expert here, are stacked to one tensor per layer.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
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
from swarm.model.hf_bias import is_folded, unfold
from swarm.model.hf_config import CONFIG, OLMO2, hf_config, model_config
from swarm.model.hf_tokenizer import tokenizer_files
from swarm.model.transformer import Transformer

WEIGHTS = "model.safetensors"
_FLOATS = ("F64", "F32", "F16", "BF16")
_ROUTER_ROW = re.compile(r"(.*\.mlp\.gate\.(?:weight|bias))\.(\d+)")
_ROUTER = re.compile(r".*\.mlp\.gate\.(weight|bias)")
_DENSE = re.compile(r"(.*\.mlp)\.((?:gate|up|down)_proj\.weight)")  # of OLMo 2

Shapes = dict[str, tuple[int, ...]]


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
    write_hf(directory, hf_config(config), hf_tensors(source))


def write_hf(
    directory: Path, content: Mapping[str, Any], tensors: Mapping[str, np.ndarray]
) -> None:
    """Write `config.json`, the weights and, for byte models, the tokenizer; raises as `save_hf`."""
    text = json.dumps(content, indent=2, sort_keys=True) + "\n"
    weights = save(dict(tensors), metadata={"format": "pt"})
    if content["vocab_size"] == BYTE_VOCAB:
        for name, part in tokenizer_files().items():
            write_atomic(directory / name, part.encode())
    write_atomic(directory / CONFIG, text.encode())
    write_atomic(directory / WEIGHTS, weights)


def load_hf(directory: Path) -> Transformer:
    """Model from a directory of `save_hf` or `transformers`, also one in several weight files.

    A router bias that `hf_bias` folded away comes back as a bias. A dense OLMo 2 becomes a model
    with one expert.

    Raises `MODEL_UNREADABLE` for files that are missing, corrupt or of another architecture.
    """
    try:
        content = json.loads((directory / CONFIG).read_text(encoding="utf-8"))
        paths = _weight_files(directory)
        if is_folded(content):
            return _unfolded(content, paths)
        config = model_config(content)
        # Before memory is taken for what the files may not hold.
        _check_shapes(_shapes(paths), config, content)
        model = Transformer(config, seed=None)
        _load_weights(_tensors(paths), model)
    except SwarmError as error:
        raise _unreadable(directory, error.message) from error
    except (OSError, ValueError, SafetensorError) as error:
        raise _unreadable(directory, str(error)) from error
    return model


def _unfolded(content: dict[str, Any], paths: list[Path]) -> Transformer:
    """The model of a directory whose router bias was folded away."""
    wide = {name: tensor.float().numpy() for name, tensor in _tensors(paths)}
    content, tensors = unfold(content, wide)
    config = model_config(content)
    _check_shapes({name: values.shape for name, values in tensors.items()}, config, content)
    model = Transformer(config, seed=None)
    _load_weights(((name, torch.from_numpy(values)) for name, values in tensors.items()), model)
    return model


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


def _shapes(paths: list[Path]) -> Shapes:
    """Shapes by name from the files' headers, without reading or allocating tensors."""
    found: Shapes = {}
    for path in paths:
        with safe_open(path, framework="pt") as file:
            for name in file.keys():
                header = file.get_slice(name)
                if header.get_dtype() not in _FLOATS:
                    raise ValueError(f"{name} has the type {header.get_dtype()}, not a float")
                found[_our_name(name)] = tuple(header.get_shape())
    return found


def _tensors(paths: list[Path]) -> Iterator[tuple[str, torch.Tensor]]:
    for path in paths:
        with safe_open(path, framework="pt") as file:
            for name in file.keys():
                yield _our_name(name), file.get_tensor(name)


def _our_name(name: str) -> str:
    """A dense feed-forward network is the only expert."""
    return _DENSE.sub(r"\1.experts.0.\2", name)


def _check_shapes(found: Shapes, config: ModelConfig, content: dict[str, Any]) -> None:
    """Raise `ValueError` unless exactly the tensors that `config.json` describes were found."""
    if config.num_layers * config.num_experts > len(found):
        raise ValueError(f"{CONFIG} describes more layers or experts than the {len(found)} tensors")
    expected: Shapes = {}
    layout = FragmentLayout.of(config, trunk_fragments=1)
    for part in (part for name in layout.names for part in layout.tensors(name)):
        if not (match := _ROUTER_ROW.fullmatch(part.name)):
            expected[part.name] = part.shape
        elif content["model_type"] != OLMO2:
            expected[match[1]] = (config.num_experts, *part.shape)
    for name in sorted(found.keys() | expected.keys()):
        if name not in expected:
            raise ValueError(f"unknown tensor {name}")
        if name not in found:
            raise ValueError(f"tensor {name} is missing")
        if found[name] != expected[name]:
            raise ValueError(f"{name} has the shape {found[name]}, {CONFIG} says {expected[name]}")


def _load_weights(tensors: Iterable[tuple[str, torch.Tensor]], model: Transformer) -> None:
    """Copy the tensors, whose names and shapes have been checked; absent router rows are zero."""
    targets: dict[str, dict[int, torch.Tensor]] = {}
    for name, parameter in model.named_parameters():
        match = _ROUTER_ROW.fullmatch(name)
        stacked, index = (match[1], int(match[2])) if match else (name, 0)
        targets.setdefault(stacked, {})[index] = parameter.data
        if match:
            parameter.data.zero_()
    for name, values in tensors:
        rows = values.unbind() if _ROUTER.fullmatch(name) else (values,)
        for index, row in enumerate(rows):
            targets[name][index].copy_(row)


def _unreadable(directory: Path, problem: str) -> SwarmError:
    return SwarmError(
        Code.MODEL_UNREADABLE,
        f"{directory}: {problem}",
        "needs config.json and safetensors of a flex_olmo, olmoe or olmo2 model",
    )
