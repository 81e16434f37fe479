"""Dimensions of the model (Hugging Face `flex_olmo` architecture).

Lives beside the model, imports nothing of the library but the error type.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass, field

from swarm.errors import Code, SwarmError

BYTE_VOCAB = 259  # 256 bytes, then BOS, EOS, PAD


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """Dimensions and constants of the transformer; `metadata["doc"]` documents each field."""

    vocab_size: int = field(
        default=BYTE_VOCAB, metadata={"doc": "token ids; 259 = bytes + BOS, EOS, PAD"}
    )
    d_model: int = field(default=96, metadata={"doc": "width of the residual stream"})
    num_layers: int = field(default=3, metadata={"doc": "transformer blocks"})
    num_heads: int = field(default=4, metadata={"doc": "attention heads"})
    num_kv_heads: int = field(default=4, metadata={"doc": "key/value heads (grouped queries)"})
    d_ff: int = field(default=192, metadata={"doc": "hidden width of one expert (SwiGLU)"})
    num_experts: int = field(default=8, metadata={"doc": "routed experts per layer (E)"})
    shared_experts: int = field(
        default=0, metadata={"doc": "experts beside them that process every token (trunk)"}
    )
    top_k: int = field(default=2, metadata={"doc": "experts that process a token"})
    norm_topk_prob: bool = field(
        default=True, metadata={"doc": "renormalize the weights of the chosen experts to sum to 1"}
    )
    pre_norm: bool = field(
        default=False,
        metadata={"doc": "norm what enters attention and experts (OLMoE), not what leaves them"},
    )
    router_bias: bool = field(
        default=False,
        metadata={"doc": "routers add a bias to each expert's score, as assemblies' do"},
    )
    context_length: int = field(default=256, metadata={"doc": "longest sequence in tokens"})
    rope_theta: float = field(default=10_000.0, metadata={"doc": "base of the rotary embedding"})
    rms_norm_eps: float = field(default=1e-6, metadata={"doc": "epsilon of the RMS norms"})
    init_std: float = field(
        default=0.02, metadata={"doc": "standard deviation of the initial weights"}
    )

    def __post_init__(self) -> None:
        for name in ("vocab_size", "d_model", "num_layers", "num_heads", "num_kv_heads", "d_ff"):
            self._require(getattr(self, name) >= 1, name, "must be at least 1")
        self._require(self.context_length >= 1, "context_length", "must be at least 1")
        for name in ("rope_theta", "rms_norm_eps", "init_std"):
            self._require(0 < getattr(self, name) < math.inf, name, "must be positive")
        self._require(self.shared_experts >= 0, "shared_experts", "must not be negative")
        self._require(1 <= self.top_k <= self.num_experts, "top_k", "must be in 1..num_experts")
        self._require(
            self.d_model % self.num_heads == 0, "d_model", "must be a multiple of num_heads"
        )
        self._require(self.head_dim % 2 == 0, "d_model", "must give an even head size")
        self._require(
            self.num_heads % self.num_kv_heads == 0,
            "num_heads",
            "must be a multiple of num_kv_heads",
        )

    @staticmethod
    def _require(holds: bool, name: str, problem: str) -> None:
        if not holds:
            raise SwarmError(Code.CONFIG_INVALID, f"model.{name}: {problem}")

    def finer(self, parts: int) -> ModelConfig:
        """Every expert cut into `parts` narrower ones (DeepSeekMoE, arXiv 2401.06066).

        A token takes as many more of them, so parameters and work stay the same. Raises
        `CONFIG_INVALID` when `d_ff` can not be divided.
        """
        self._require(parts >= 1 and self.d_ff % parts == 0, "d_ff", f"is no multiple of {parts}")
        return dataclasses.replace(
            self,
            num_experts=self.num_experts * parts,
            top_k=self.top_k * parts,
            shared_experts=self.shared_experts * parts,
            d_ff=self.d_ff // parts,
        )

    @property
    def head_dim(self) -> int:
        """Width of one attention head."""
        return self.d_model // self.num_heads
