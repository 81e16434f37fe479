"""Models to and from Hugging Face directories.

exported = export_hf(model, Path("hf"))             # AutoModelForCausalLM loads it
difference = disagreement(model, Path("hf"), ids)   # what was lost, if anything
import_hf(Path("OLMoE-1B-7B"), Path("model"))       # then node eval, node base make, ...
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from swarm.assembly.assemble import FORMAT, METADATA
from swarm.assembly.directories import replaced_directory
from swarm.errors import Code, SwarmError
from swarm.files import write_atomic
from swarm.model.config import BYTE_VOCAB
from swarm.model.fragment_io import read_fragment
from swarm.model.fragments import FragmentLayout, fragment_hash, state_root
from swarm.model.hf import hf_tensors, load_hf, save_hf, write_hf
from swarm.model.hf_bias import fold
from swarm.model.hf_config import CONFIG, hf_config
from swarm.model.transformer import Transformer

TOLERANCE = 1e-4  # of logits; above it an export is refused
_TOKENIZER_FILES = (
    "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "vocab.json", "merges.txt"
)  # fmt: skip


@dataclass(frozen=True)
class Exported:
    """`width`: of the residual stream as written, larger than the model's when a router bias was
    folded into it."""

    model_type: str
    width: int
    folded_bias: bool


def export_hf(model: Transformer, out_dir: Path, tokenizer_from: Path | None = None) -> Exported:
    """Write what `transformers` loads, with router biases folded in (`swarm.model.hf_bias`).

    Byte models get their tokenizer; for others its files are taken from `tokenizer_from`.
    `out_dir` appears complete or not at all. Raises `EXPORT_LOSSY` for a model that no public
    architecture expresses, `DISK_FULL` or `DIR_NOT_WRITABLE`.
    """
    content = hf_config(model.config)
    tensors = hf_tensors(model)
    if model.config.router_bias:
        content, tensors = fold(content, tensors)
    elif model.config.shared_experts:
        raise SwarmError(
            Code.EXPORT_LOSSY,
            "no architecture of transformers has the shared experts of this model",
            "node generate and node eval read the model as it is",
        )
    with replaced_directory(out_dir, CONFIG) as made:
        write_hf(made, content, tensors)
        _copy_tokenizer(model, tokenizer_from, made)
    return Exported(content["model_type"], content["hidden_size"], model.config.router_bias)


@torch.no_grad()
def disagreement(model: Transformer, directory: Path, tokens: npt.ArrayLike) -> float:
    """Largest difference of a logit between `model` and what `transformers` loads.

    `tokens` are ids [B, T]. Raises `USAGE` when `transformers` is not installed.
    """
    try:
        from transformers import AutoModelForCausalLM
    except ImportError as error:
        hint = "pip install 'expertswarm[hf]'"
        raise SwarmError(Code.USAGE, "transformers is not installed", hint) from error
    tokens_BT = torch.from_numpy(np.asarray(tokens, dtype=np.int64))
    theirs = AutoModelForCausalLM.from_pretrained(directory, torch_dtype=torch.float32).eval()
    difference = theirs(tokens_BT).logits - model(tokens_BT).logits_BTV
    return float(difference.abs().max())


def import_hf(source: Path, out_dir: Path) -> dict[str, Any]:
    """Write the model of a Hugging Face directory as `assemble` would; returns its metadata.

    Reads `flex_olmo`, `olmoe` and dense `olmo2`, in fp32. Raises `MODEL_UNREADABLE`, `DISK_FULL`
    or `DIR_NOT_WRITABLE`.
    """
    model = load_hf(source)
    layout = FragmentLayout.of(model.config, trunk_fragments=1, router_rows="expert")
    hashes: dict[str, bytes] = {}
    for name in layout.names:
        values = np.empty(layout.numel(name), dtype=np.float32)
        read_fragment(model, layout, name, values)
        hashes[name] = fragment_hash(values)
    kind = json.loads((source / CONFIG).read_text(encoding="utf-8"))["model_type"]
    metadata = {
        "format": FORMAT,
        "run_id": "",
        "run_name": source.resolve().name,
        "tokenizer": "bytes" if model.config.vocab_size == BYTE_VOCAB else "unknown",
        "trunk_fragments": 1,
        "router_rows": "expert",
        "state_root": state_root(hashes).hex(),
        "fragments": {name: digest.hex() for name, digest in hashes.items()},
        "provenance": {"imported": kind},
    }
    with replaced_directory(out_dir, METADATA) as made:
        save_hf(made, model.config, model)
        _copy_tokenizer(model, source, made)
        write_atomic(
            made / METADATA, (json.dumps(metadata, indent=2, sort_keys=True) + "\n").encode()
        )
    return metadata


def _copy_tokenizer(model: Transformer, source: Path | None, target: Path) -> None:
    if source is None or model.config.vocab_size == BYTE_VOCAB:
        return
    for name in _TOKENIZER_FILES:
        if (source / name).is_file():
            write_atomic(target / name, (source / name).read_bytes())
