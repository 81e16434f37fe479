"""Router biases in a format that has none: a constant coordinate of the residual stream.

`flex_olmo` computes router logits as W x, so a bias can only be part of W. `fold` widens the stream
by coordinates that no layer writes to, gives the first of them the same small value in every
embedding, and puts bias / value into the matching column of W. What the width changes in the norms
is put right exactly: with r = sqrt(narrow / wide), norm weights are scaled by r, epsilon by r * r,
and what enters the norms of queries and keys by r.

One trace is left: the last norm sees the constant. Beside a stream of unit size it is 1e-6 / width
of the sum of squares, below the rounding of fp32. `node export` measures what it makes of it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from swarm.errors import Code, SwarmError
from swarm.model.hf_config import FLEX_OLMO, OURS

Tensors = dict[str, np.ndarray]
Content = dict[str, Any]

NOTE = "folded_router_bias"  # key in config.json, for `unfold`; `transformers` ignores it
CONSTANT = 2.0**-10  # a power of two: bias / CONSTANT * CONSTANT is exact, also in bf16 and fp16
MULTIPLE = 8  # widths that matrix kernels are made for
_READ_BY = (
    "embed_tokens", "lm_head", "q_proj", "k_proj", "v_proj", "mlp.gate", "gate_proj", "up_proj",
)  # fmt: skip
_WRITTEN_BY = ("o_proj", "down_proj")
_NORMS = ("post_attention_layernorm", "post_feedforward_layernorm", "model.norm")
_OURS_ONLY = ("num_shared_experts", "pre_norm", "router_bias")
_NORMED = ("q_proj", "k_proj")  # what they give goes through a norm that keeps its width


def is_folded(content: Any) -> bool:
    """True when `fold` made the `config.json` of this content."""
    return isinstance(content, dict) and NOTE in content


def fold(content: Mapping[str, Any], tensors: Mapping[str, np.ndarray]) -> tuple[Content, Tensors]:
    """`config.json` and tensors of `flex_olmo` without biases, from ours with `mlp.gate.bias` [E].

    Raises `EXPORT_LOSSY` for what no bias-free model computes: shared experts, and norms before
    the router, which make no constant of a constant.
    """
    for option in ("num_shared_experts", "pre_norm"):
        if content.get(option):
            raise SwarmError(
                Code.EXPORT_LOSSY,
                f"flex_olmo can not express a model with {option} and router biases",
                "node generate and node eval read the model as it is",
            )
    narrow = content["hidden_size"]
    wide = narrow + MULTIPLE - narrow % MULTIPLE
    eps = content["rms_norm_eps"]
    folded: Content = {k: v for k, v in content.items() if k not in _OURS_ONLY} | {
        "architectures": ["FlexOlmoForCausalLM"],
        "model_type": FLEX_OLMO,
        "hidden_size": wide,
        "head_dim": narrow // content["num_attention_heads"],
        "rms_norm_eps": eps * narrow / wide,
        NOTE: {"hidden_size": narrow, "rms_norm_eps": eps},
    }
    widened = {
        name: _resized(name, values, narrow, wide)
        for name, values in tensors.items()
        if not name.endswith(".mlp.gate.bias")
    }
    widened["model.embed_tokens.weight"][:, narrow] = CONSTANT
    for name, values in tensors.items():
        if name.endswith(".mlp.gate.bias"):
            widened[name.removesuffix("bias") + "weight"][:, narrow] = values / CONSTANT
    return folded, widened


def unfold(
    content: Mapping[str, Any], tensors: Mapping[str, np.ndarray]
) -> tuple[Content, Tensors]:
    """The inverse of `fold`, but for rounding. Raises `ValueError` for what `fold` did not make."""
    note, wide = content[NOTE], content["hidden_size"]
    if not isinstance(note, dict) or not isinstance(note.get("rms_norm_eps"), float):
        raise ValueError(f"config.json: {NOTE} is not what node export writes")
    narrow = note.get("hidden_size")
    if type(narrow) is not int or type(wide) is not int or not 0 < narrow < wide:
        raise ValueError(f"config.json: {NOTE} does not fit hidden_size {wide!r}")
    plain: Content = {k: v for k, v in content.items() if k not in (NOTE, "head_dim")} | note
    plain |= {"architectures": [], "model_type": OURS, "router_bias": True}
    narrowed: Tensors = {}
    for name, values in tensors.items():
        if values.ndim == 2 and name.endswith(".mlp.gate.weight") and values.shape[1] == wide:
            narrowed[name.removesuffix("weight") + "bias"] = values[:, narrow] * CONSTANT
        narrowed[name] = _resized(name, values, wide, narrow)
    return plain, narrowed


def _resized(name: str, values: np.ndarray, before: int, after: int) -> np.ndarray:
    """`values` with another width of the stream, new places zero; norms scaled for it."""
    layer = name.removesuffix(".weight")
    if layer.endswith((*_NORMS, *_NORMED)):
        values = values * np.float32(math.sqrt(before / after))
    if layer.endswith(_READ_BY):
        return _padded(name, values, -1, before, after)
    if layer.endswith((*_WRITTEN_BY, *_NORMS)):
        return _padded(name, values, 0, before, after)
    return values


def _padded(name: str, values: np.ndarray, axis: int, before: int, after: int) -> np.ndarray:
    result = np.moveaxis(values, axis, -1)
    if result.shape[-1] != before:
        raise ValueError(f"{name} has the shape {values.shape}, its width is not {before}")
    missing = max(0, after - before)
    result = np.pad(result[..., :after], [(0, 0)] * (result.ndim - 1) + [(0, missing)])
    return np.ascontiguousarray(np.moveaxis(result, -1, axis), dtype=np.float32)
