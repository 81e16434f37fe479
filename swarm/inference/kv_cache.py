"""Keys and values of the tokens seen so far, in buffers made once for the longest sequence."""

from __future__ import annotations

import torch
from torch import Tensor

from swarm.model.config import ModelConfig


class KVCache:
    """Cache for `Transformer.forward(tokens, cache)`; holds up to `capacity` tokens per sequence.

    Costs 2 * num_layers * batch_size * num_kv_heads * capacity * head_dim values. Letters: B
    batch, G key/value heads, T new tokens, S stored and new tokens, C head_dim.
    """

    def __init__(
        self,
        config: ModelConfig,
        batch_size: int = 1,
        capacity: int | None = None,
        device: torch.device | None = None,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        self.capacity = config.context_length if capacity is None else capacity
        shape = (batch_size, config.num_kv_heads, self.capacity, config.head_dim)
        self._keys = [torch.empty(shape, device=device, dtype=dtype) for _ in _layers(config)]
        self._values = [torch.empty(shape, device=device, dtype=dtype) for _ in _layers(config)]
        self._length = 0

    @property
    def length(self) -> int:
        """Tokens stored so far."""
        return self._length

    def append(self, layer: int, k_BGTC: Tensor, v_BGTC: Tensor) -> tuple[Tensor, Tensor]:
        """Store one layer's new tokens; returns views [B, G, S, C] of all keys and values."""
        end = self._length + k_BGTC.shape[2]
        if end > self.capacity:
            raise ValueError(f"{end} tokens do not fit a cache of {self.capacity}")
        keys, values = self._keys[layer], self._values[layer]
        keys[:, :, self._length : end] = k_BGTC
        values[:, :, self._length : end] = v_BGTC
        return keys[:, :, :end], values[:, :, :end]

    def advance(self, tokens: int) -> None:
        """Count `tokens` as stored; the model calls it once all layers have appended."""
        self._length += tokens

    def clear(self) -> None:
        """Forget all tokens, keep the buffers."""
        self._length = 0


def _layers(config: ModelConfig) -> range:
    return range(config.num_layers)
