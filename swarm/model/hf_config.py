"""`config.json` of the Hugging Face architectures that this model can be, to and from dimensions.

| `model_type` | what it is here |
|---|---|
| `flex_olmo` | the default |
| `olmoe` | norms before attention and experts: `pre_norm` |
| `olmo2` | dense: one expert that takes every token, read only |
| `expertswarm` | what none of them can express; `transformers` refuses it |
"""

from __future__ import annotations

from typing import Any

from swarm.model.config import BYTE_VOCAB, ModelConfig

CONFIG = "config.json"
FLEX_OLMO, OLMOE, OLMO2 = "flex_olmo", "olmoe", "olmo2"
OURS = "expertswarm"
_MAX_CONTEXT = 2**20
_ARCHITECTURES = {FLEX_OLMO: ["FlexOlmoForCausalLM"], OLMOE: ["OlmoeForCausalLM"], OURS: []}
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
_DENSE = {"num_experts": 1, "num_experts_per_tok": 1, "norm_topk_prob": True}
_OPTIONS = {  # theirs: ours, default
    "num_shared_experts": ("shared_experts", 0),
    "pre_norm": ("pre_norm", False),
    "router_bias": ("router_bias", False),
}
_FIXED = {  # what this architecture does not vary
    "hidden_act": "silu",
    "attention_bias": False,
    "rope_scaling": None,
    "tie_word_embeddings": False,
    "clip_qkv": None,
}


def model_type(config: ModelConfig) -> str:
    """The architecture that expresses `config`."""
    if config.shared_experts or config.router_bias:  # `transformers` would just leave them out
        return OURS
    return OLMOE if config.pre_norm else FLEX_OLMO


def hf_config(config: ModelConfig) -> dict[str, Any]:
    """Content of `config.json`."""
    kind = model_type(config)
    special = {"bos_token_id": 256, "eos_token_id": 257, "pad_token_id": 258}
    bytes_only = config.vocab_size == BYTE_VOCAB
    content = {
        "architectures": _ARCHITECTURES[kind],
        "model_type": kind,
        "torch_dtype": "float32",
        **{key: value for key, value in _FIXED.items() if key != "clip_qkv"},
        **(special if bytes_only else dict.fromkeys(special)),
        **{theirs: getattr(config, ours) for ours, theirs in _FIELDS.items()},
    }
    if kind == OLMOE:
        content["clip_qkv"] = None
    if kind == OURS:
        content |= {theirs: getattr(config, ours) for theirs, (ours, _) in _OPTIONS.items()}
    return content


def model_config(content: Any) -> ModelConfig:
    """Dimensions from the content of `config.json`.

    Raises `ValueError` for another architecture, a missing or wrong field, or a variant that
    this model does not have.
    """
    kind = content.get("model_type") if isinstance(content, dict) else None
    if kind not in (*_ARCHITECTURES, OLMO2):
        raise ValueError(f"{CONFIG} is not of model_type {FLEX_OLMO}, {OLMOE} or {OLMO2}")
    for key, value in _FIXED.items():
        if content.get(key, value) != value:
            raise ValueError(f"{CONFIG}: {key} {content[key]!r} is not supported, only {value!r}")
    if kind == OLMO2:
        content = {**content, **_DENSE}
    values = {ours: _field(content, ours, theirs) for ours, theirs in _FIELDS.items()}
    if values["context_length"] > _MAX_CONTEXT:
        raise ValueError(f"{CONFIG}: max_position_embeddings is above {_MAX_CONTEXT}")
    if kind == OURS:
        for theirs, (ours, default) in _OPTIONS.items():
            values[ours] = _field({theirs: default, **content}, ours, theirs)
    values.setdefault("pre_norm", kind == OLMOE)
    config = ModelConfig(**values)
    if content.get("head_dim") not in (None, config.head_dim):
        raise ValueError(f"{CONFIG}: head_dim must be hidden_size / num_attention_heads")
    return config


def _field(content: dict[str, Any], ours: str, theirs: str) -> Any:
    if theirs not in content:
        raise ValueError(f"{CONFIG} has no {theirs}")
    kind, value = type(getattr(ModelConfig, ours)), content[theirs]
    if kind is float and type(value) is int:
        value = float(value)
    if type(value) is not kind:
        raise ValueError(f"{CONFIG}: {theirs} must be {kind.__name__}, is {value!r}")
    return value
