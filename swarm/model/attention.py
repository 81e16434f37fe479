"""Grouped-query causal attention with RMS-normed queries and keys and rotary positions.

Semantics of Hugging Face `FlexOlmoAttention`; parameter names are its names. Letters in tensor
names: B batch, T new tokens, S all tokens (cached and new), D d_model, H query heads, G key/value
heads, C head_dim.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from swarm.model.config import ModelConfig


class Cache(Protocol):
    """Keys and values of earlier tokens; `swarm.inference.kv_cache.KVCache` is one."""

    @property
    def length(self) -> int:
        """Tokens stored so far, the same in every layer."""

    def append(self, layer: int, k_BGTC: Tensor, v_BGTC: Tensor) -> tuple[Tensor, Tensor]:
        """Store the new tokens of one layer; returns keys and values of all tokens (S)."""

    def advance(self, tokens: int) -> None:
        """Count `tokens` as stored, once all layers have appended them."""


class RMSNorm(nn.Module):
    """Root-mean-square norm over the last dimension, computed in fp32 (arXiv 1910.07467)."""

    def __init__(self, size: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        """Same shape and type as `x`."""
        return _normalize(x.float(), self.weight, self.eps).to(x.dtype)


class _Normalize(torch.autograd.Function):
    """x / rms(x) * weight; by hand because autograd makes three times the passes over memory."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        norm: Tensor = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
        scale = norm.square_().div_(x.shape[-1]).add_(eps).rsqrt_()
        ctx.save_for_backward(x, weight, scale)
        return (x * scale).mul_(weight)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor | None, None]:
        x, weight, scale = ctx.saved_tensors
        normed = x * scale
        product = normed * grad
        dweight = product.flatten(0, -2).sum(dim=0) if ctx.needs_input_grad[1] else None
        projection = (product @ weight).unsqueeze(-1).div_(-x.shape[-1])
        dx = (grad * weight).add_(normed.mul_(projection)).mul_(scale)
        return dx, dweight, None


_normalize: Callable[[Tensor, Tensor, float], Tensor] = _Normalize.apply


def rotary_tables(head_dim: int, length: int, theta: float) -> tuple[Tensor, Tensor]:
    """Cosines and sines [length, 1, head_dim / 2] of the rotary embedding (arXiv 2104.09864)."""
    frequencies = 1.0 / theta ** (torch.arange(0, head_dim, 2).float() / head_dim)
    angles = torch.arange(length).float()[:, None] * frequencies
    return angles.cos()[:, None, :], angles.sin()[:, None, :]


class _Rotate(torch.autograd.Function):
    """Rotation of the pairs (i, i + C/2); its gradient is the rotation by the opposite angle.

    Written by hand because autograd through halves and `cat` costs twice the kernels.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        ctx.save_for_backward(cos, sin)
        return _rotated(x, cos, sin, 1.0)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        cos, sin = ctx.saved_tensors
        return _rotated(grad, cos, sin, -1.0), None, None


_rotate: Callable[[Tensor, Tensor, Tensor], Tensor] = _Rotate.apply


def _rotated(x: Tensor, cos: Tensor, sin: Tensor, direction: float) -> Tensor:
    half = x.shape[-1] // 2
    out = torch.empty_like(x)
    torch.mul(x[..., :half], cos, out=out[..., :half])
    torch.mul(x[..., half:], cos, out=out[..., half:])
    out[..., :half].addcmul_(x[..., half:], sin, value=-direction)
    out[..., half:].addcmul_(x[..., :half], sin, value=direction)
    return out


class Attention(nn.Module):
    """Self-attention of one layer."""

    def __init__(self, config: ModelConfig, layer: int) -> None:
        super().__init__()
        self.layer = layer
        self.heads, self.kv_heads = config.num_heads, config.num_kv_heads
        self.head_dim = config.head_dim
        q_size, kv_size = self.heads * self.head_dim, self.kv_heads * self.head_dim
        self.q_proj = nn.Linear(config.d_model, q_size, bias=False)
        self.k_proj = nn.Linear(config.d_model, kv_size, bias=False)
        self.v_proj = nn.Linear(config.d_model, kv_size, bias=False)
        self.o_proj = nn.Linear(q_size, config.d_model, bias=False)
        self.q_norm = RMSNorm(q_size, config.rms_norm_eps)
        self.k_norm = RMSNorm(kv_size, config.rms_norm_eps)

    def forward(self, x_BTD: Tensor, rotary: tuple[Tensor, Tensor], cache: Cache | None) -> Tensor:
        """[B, T, D] to [B, T, D]; `rotary` are the tables' rows of the T positions."""
        B, T, _ = x_BTD.shape
        q_BTHC = self.q_norm(self.q_proj(x_BTD)).view(B, T, self.heads, self.head_dim)
        k_BTGC = self.k_norm(self.k_proj(x_BTD)).view(B, T, self.kv_heads, self.head_dim)
        v_BGSC = self.v_proj(x_BTD).view(B, T, self.kv_heads, self.head_dim).transpose(1, 2)
        q_BHTC = _rotate(q_BTHC, *rotary).transpose(1, 2)
        k_BGSC = _rotate(k_BTGC, *rotary).transpose(1, 2)

        mask_TS = None
        if cache is not None:
            k_BGSC, v_BGSC = cache.append(self.layer, k_BGSC, v_BGSC)
            S = k_BGSC.shape[2]
            if 1 < T < S:
                mask_TS = torch.ones(T, S, dtype=torch.bool, device=x_BTD.device).tril(S - T)
        y_BHTC = F.scaled_dot_product_attention(
            q_BHTC,
            k_BGSC,
            v_BGSC,
            attn_mask=mask_TS,
            is_causal=mask_TS is None and T > 1,
            enable_gqa=self.heads != self.kv_heads,
        )
        out_BTD: Tensor = self.o_proj(y_BHTC.transpose(1, 2).reshape(B, T, -1))
        return out_BTD
