"""The language model: Hugging Face `flex_olmo` (post-norm, QK-norm, RoPE, SwiGLU experts).

    model = Transformer(ModelConfig())            # all experts
    model = Transformer(ModelConfig(), [2, 3])    # "held": only experts 2 and 3 exist in memory
    logits_BTV = model(tokens_BT).logits_BTV

Parameter names equal the Hugging Face names, except for router rows, which are one parameter per
expert: `model.layers.0.mlp.gate.weight.3`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn

from swarm.errors import Code, SwarmError
from swarm.model.attention import Attention, Cache, RMSNorm, rotary_tables
from swarm.model.config import ModelConfig
from swarm.model.experts import MixtureOfExperts
from swarm.model.initial import initial_tensor
from swarm.model.router import RouterStats


@dataclass(frozen=True)
class ModelOutput:
    """`logits_BTV`: scores of the next token; `routing`: one entry per layer."""

    logits_BTV: Tensor
    routing: list[RouterStats]


class Layer(nn.Module):
    """Attention, then experts; each is normed after, then added to the residual stream.

    With `pre_norm` each is normed before instead, as in OLMoE. Names are those of the architecture.
    """

    def __init__(self, config: ModelConfig, index: int, experts: Sequence[int]) -> None:
        super().__init__()
        self.pre_norm = config.pre_norm
        self.self_attn = Attention(config, index)
        if config.pre_norm:
            self.input_layernorm = RMSNorm(config.d_model, config.rms_norm_eps)
        self.post_attention_layernorm = RMSNorm(config.d_model, config.rms_norm_eps)
        self.mlp = MixtureOfExperts(config, experts)
        if not config.pre_norm:
            self.post_feedforward_layernorm = RMSNorm(config.d_model, config.rms_norm_eps)

    def forward(
        self, x_BTD: Tensor, rotary: tuple[Tensor, Tensor], cache: Cache | None
    ) -> tuple[Tensor, RouterStats]:
        """[B, T, D] to [B, T, D]."""
        if self.pre_norm:
            x_BTD = x_BTD + self.self_attn(self.input_layernorm(x_BTD), rotary, cache)
            y_BTD, stats = self.mlp(self.post_attention_layernorm(x_BTD))
            return x_BTD + y_BTD, stats
        x_BTD = x_BTD + self.post_attention_layernorm(self.self_attn(x_BTD, rotary, cache))
        y_BTD, stats = self.mlp(x_BTD)
        return x_BTD + self.post_feedforward_layernorm(y_BTD), stats


class Backbone(nn.Module):
    """Everything below the head (`model.` in the Hugging Face names)."""

    def __init__(self, config: ModelConfig, experts: Sequence[int]) -> None:
        super().__init__()
        # Not drawn at random, for which torch would import its compiler even on the device "meta".
        unset_VD = torch.empty(config.vocab_size, config.d_model)
        self.embed_tokens = nn.Embedding(config.vocab_size, config.d_model, _weight=unset_VD)
        self.layers = nn.ModuleList(Layer(config, i, experts) for i in range(config.num_layers))
        self.norm = RMSNorm(config.d_model, config.rms_norm_eps)


def _allocate(module: nn.Module) -> None:
    """Give parameters on the device "meta" unset values on the CPU.

    `Module.to_empty` does it too, but imports sympy for it, and that takes longer than the model.
    """
    for part in module.modules():
        for name, meant in list(part.named_parameters(recurse=False)):
            values = torch.empty(meant.shape, dtype=meant.dtype, device="cpu")
            setattr(part, name, nn.Parameter(values))


class Transformer(nn.Module):
    """Decoder-only mixture-of-experts language model.

    `experts`: the experts that exist in this model; None is all of them. `seed`: of the initial
    weights, the same bits as `fragments.initial_fragment`; None leaves them unset, for weights
    that are written right after.
    """

    def __init__(
        self, config: ModelConfig, experts: Sequence[int] | None = None, seed: int | None = 0
    ) -> None:
        super().__init__()
        held = tuple(range(config.num_experts)) if experts is None else tuple(sorted(set(experts)))
        if not held or held[0] < 0 or held[-1] >= config.num_experts:
            raise SwarmError(
                Code.CONFIG_INVALID, f"experts {held}: need some of 0..{config.num_experts - 1}"
            )
        self.config = config
        self.held = held
        with torch.device("meta"):  # skips torch's own initialization
            self.model = Backbone(config, held)
            self.lm_head = nn.Linear(config.d_model, config.vocab_size, bias=False)
        _allocate(self)
        cos, sin = rotary_tables(config.head_dim, config.context_length, config.rope_theta)
        self.rotary_cos: Tensor
        self.rotary_sin: Tensor
        self.register_buffer("rotary_cos", cos, persistent=False)
        self.register_buffer("rotary_sin", sin, persistent=False)
        if seed is not None:
            self.initialize(seed)

    @property
    def moe_layers(self) -> list[MixtureOfExperts]:
        """Router and experts of each layer."""
        return [cast(Layer, layer).mlp for layer in self.model.layers]

    @torch.no_grad()
    def initialize(self, seed: int) -> None:
        """Set all parameters to the initial values of `seed`."""
        for name, parameter in self.named_parameters():
            values = initial_tensor(self.config, name, tuple(parameter.shape), seed)
            parameter.copy_(torch.from_numpy(values))

    def forward(self, tokens_BT: Tensor, cache: Cache | None = None) -> ModelOutput:
        """Logits of every position; with `cache`, `tokens_BT` continue what it holds.

        Raises `USAGE` when the sequence would be longer than `config.context_length`.
        """
        start = 0 if cache is None else cache.length
        end = start + tokens_BT.shape[1]
        if end > self.config.context_length:
            limit = self.config.context_length
            raise SwarmError(Code.USAGE, f"{end} tokens do not fit the context of {limit}")
        rotary = (self.rotary_cos[start:end], self.rotary_sin[start:end])
        x_BTD = self.model.embed_tokens(tokens_BT)
        routing = []
        for layer in self.model.layers:
            x_BTD, stats = layer(x_BTD, rotary, cache)
            routing.append(stats)
        if cache is not None:
            cache.advance(tokens_BT.shape[1])
        return ModelOutput(self.lm_head(self.model.norm(x_BTD)), routing)
