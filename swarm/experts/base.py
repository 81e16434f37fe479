"""The base: the frozen public model that owners of text train their experts beside.

    base = make_base(model, public_tokens, {"run_id": "..."})
    save_base(base, Path("base"))
    base = load_base(Path("base"))          # every byte checked against base.json
    base.id                                 # what expert cards are pinned to

A base directory is a model directory (`swarm.model.hf`) with `space.safetensors`, the embedding
space of `swarm.experts.embedding`, `public.npy`, a sample of the public text that owners train on
beside their own, and `base.json`. Equal models and texts make equal bytes.
"""

from __future__ import annotations

import dataclasses
import hashlib
import io
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.numpy

from swarm.data.tokenizer import Tokens as SampleTokens
from swarm.errors import Code, SwarmError
from swarm.experts.embedding import EmbeddingSpace, Tokens, make_space
from swarm.experts.safe_files import read_bounded, read_json, read_tensors
from swarm.files import write_atomic
from swarm.hashing import bulk_hash
from swarm.model.hf import load_hf, save_hf
from swarm.model.transformer import Transformer

BASE_FILE = "base.json"
SPACE_FILE = "space.safetensors"
SAMPLE_FILE = "public.npy"
SAMPLE_TOKENS = 200_000
SAMPLE_PIECE = 1024  # tokens in a row; several windows of training
SAMPLE_HEADER_BYTES = 4096  # of numpy's format; it writes 128
FORMAT = 1


@dataclass(frozen=True)
class Base:
    """A public model with its embedding space and a sample of its text.

    `sample`: ids [N] of public tokens, uint16; none in a base of an earlier version. `id`: SHA-256
    (hex) over the dimensions, every tensor and the sample; `provenance`: where the model came from,
    not part of the id.
    """

    model: Transformer
    space: EmbeddingSpace
    sample: SampleTokens
    id: str
    provenance: Mapping[str, Any]

    @property
    def size(self) -> int:
        """Number of its experts; those of owners are numbered from here."""
        return self.model.config.num_experts


def make_base(
    model: Transformer,
    public_tokens: Tokens,
    provenance: Mapping[str, Any],
    *,
    ngrams: bool = False,
) -> Base:
    """A base from any model with all its experts, and public text (ids [N]) for its space.

    With `ngrams` its owners' texts are embedded by hashed n-grams, else by hidden states. The
    model is used as it is and frozen. Raises `DATA_EMPTY`, `NON_FINITE`, or `MODEL_UNREADABLE` for
    a model that is itself an assembly, whose experts may be withdrawn.
    """
    if model.config.router_bias:
        raise SwarmError(
            Code.MODEL_UNREADABLE,
            "a model with router biases is an assembly of owners' experts, no base",
            "make the base from the model that they were trained beside",
        )
    model.requires_grad_(False)
    space = make_space(model, public_tokens, ngrams=ngrams)
    _require_finite(model, space)
    sample = take_sample(public_tokens)
    return Base(model, space, sample, base_id(model, space, sample), dict(provenance))


def take_sample(tokens: Tokens) -> SampleTokens:
    """At most `SAMPLE_TOKENS` ids of a text [N], in pieces from all over it, as uint16."""
    if len(tokens) <= SAMPLE_TOKENS:
        return tokens.astype("<u2")
    starts = np.linspace(0, len(tokens) - SAMPLE_PIECE, SAMPLE_TOKENS // SAMPLE_PIECE)
    places = starts.astype(np.int64)[:, None] + np.arange(SAMPLE_PIECE)
    sample: SampleTokens = tokens[places.ravel()].astype("<u2")
    return sample


def base_id(model: Transformer, space: EmbeddingSpace, sample: SampleTokens) -> str:
    """SHA-256 (hex) over the configuration and the BLAKE3 hashes of all tensors by name."""
    arrays = {name: value.detach().cpu().numpy() for name, value in model.named_parameters()}
    arrays |= _space_arrays(space)
    dimensions = dataclasses.asdict(model.config)
    del dimensions["router_bias"]  # no base has one, and ids are older than the field
    content = {
        "format": FORMAT,
        "model": dimensions,
        "tensors": {
            name: bulk_hash(np.ascontiguousarray(values, "<f4").tobytes()).hex()
            for name, values in arrays.items()
        },
    }
    if len(sample):
        content["public"] = bulk_hash(np.ascontiguousarray(sample, "<u2").tobytes()).hex()
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def save_base(base: Base, directory: Path) -> None:
    """Write the base; `base.json` comes last. Raises `DISK_FULL` or `DIR_NOT_WRITABLE`."""
    save_hf(directory, base.model.config, base.model)
    write_atomic(directory / SPACE_FILE, safetensors.numpy.save(_space_arrays(base.space)))
    buffer = io.BytesIO()
    np.save(buffer, base.sample, allow_pickle=False)
    write_atomic(directory / SAMPLE_FILE, buffer.getvalue())
    content = {"format": FORMAT, "id": base.id, "provenance": dict(base.provenance)}
    text = json.dumps(content, indent=2, sort_keys=True) + "\n"
    write_atomic(directory / BASE_FILE, text.encode())


def load_base(directory: Path) -> Base:
    """The base of a directory, frozen.

    Raises `MODEL_UNREADABLE` when anything in it changed, and `NON_FINITE` or `ARTIFACT_OVERSIZED`
    when it was no usable base from the beginning.
    """
    content = read_json(directory / BASE_FILE, Code.MODEL_UNREADABLE)
    model = load_hf(directory).requires_grad_(False)
    arrays = read_tensors(directory / SPACE_FILE, EmbeddingSpace.most_bytes(model))
    try:
        if content["format"] != FORMAT:
            raise ValueError(f"format {content['format']}; this version reads {FORMAT}")
        space = EmbeddingSpace(
            arrays["space.mean"], arrays["space.projection"], arrays.get("space.ngrams")
        )
        if not space.fits(model):
            raise ValueError(f"{SPACE_FILE} does not fit the model")
        sample = _load_sample(directory / SAMPLE_FILE, model.config.vocab_size)
        if content["id"] != base_id(model, space, sample):
            raise ValueError("its content does not have the id that it names")
        _require_finite(model, space)
        return Base(model, space, sample, content["id"], dict(content["provenance"]))
    except (EOFError, KeyError, TypeError, ValueError) as error:
        raise SwarmError(
            Code.MODEL_UNREADABLE,
            f"{directory / BASE_FILE}: {error}",
            "get the base again from who published it; node base make writes one",
        ) from error


def _load_sample(path: Path, vocab_size: int) -> SampleTokens:
    """Raises `ValueError` or `EOFError` for what is no list of token ids."""
    if not path.exists():
        return np.zeros(0, "<u2")
    data = read_bounded(path, SAMPLE_TOKENS * 2 + SAMPLE_HEADER_BYTES, Code.MODEL_UNREADABLE)
    sample: SampleTokens = np.load(io.BytesIO(data), allow_pickle=False)
    if sample.ndim != 1 or sample.dtype != np.dtype("<u2") or (sample >= vocab_size).any():
        raise ValueError(f"{path.name} is no list of token ids")
    return sample


def read_base_id(directory: Path) -> str:
    """The id that a base directory names, without loading the model to check it.

    Raises `MODEL_UNREADABLE` when it names none.
    """
    named = read_json(directory / BASE_FILE, Code.MODEL_UNREADABLE).get("id")
    if not isinstance(named, str) or not re.fullmatch("[0-9a-f]{64}", named):
        raise SwarmError(Code.MODEL_UNREADABLE, f"{directory / BASE_FILE} names no id")
    return named


def _require_finite(model: Transformer, space: EmbeddingSpace) -> None:
    """Whatever is trained beside values that are not finite is lost."""
    arrays = {name: value.detach().cpu().numpy() for name, value in model.named_parameters()}
    for name, values in (arrays | _space_arrays(space)).items():
        if not np.isfinite(values).all():
            hint = "make the base from a model that was trained without this"
            raise SwarmError(Code.NON_FINITE, f"{name} of the base is not finite", hint)


def _space_arrays(space: EmbeddingSpace) -> dict[str, np.ndarray]:
    arrays = {"space.mean": space.mean_LD, "space.projection": space.projection_LPD}
    return arrays if space.ngrams_LFD is None else arrays | {"space.ngrams": space.ngrams_LFD}
