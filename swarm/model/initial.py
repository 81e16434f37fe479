"""Initial weights with the same bits on every machine.

Uniform instead of normal, because it needs no transcendental function: a 24-bit integer from a
counter-based generator, times one constant, correctly rounded by IEEE 754 everywhere. Each tensor
has its own stream, so the order of creation does not matter and any machine can make any part.
"""

from __future__ import annotations

import hashlib
import math

import numpy as np

from swarm.model.config import ModelConfig


def initial_tensor(config: ModelConfig, name: str, shape: tuple[int, ...], seed: int) -> np.ndarray:
    """Initial fp32 values of the tensor `name` (Hugging Face name; router rows by expert).

    Norm weights are ones, biases of the router zeros; all else is uniform with mean 0 and standard
    deviation `config.init_std`.
    """
    count = math.prod(shape)
    if name.endswith("norm.weight"):
        return np.ones(shape, dtype=np.float32)
    if ".mlp.gate.bias." in name:
        return np.zeros(shape, dtype=np.float32)
    key = hashlib.sha256(f"expertswarm-init/{seed}/{name}".encode()).digest()
    generator = np.random.Philox(key=np.frombuffer(key[:16], dtype="<u8").astype(np.uint64))
    words = generator.random_raw((count + 1) // 2).astype("<u8").view("<u4")[:count]
    # Odd integers of magnitude below 2**24: exact in fp32, and symmetric around zero.
    odd = (words >> 8).astype(np.int32) * 2 - (2**24 - 1)
    scale = np.float32(math.sqrt(3.0) * config.init_std / 2**24)
    return (odd.astype(np.float32) * scale).reshape(shape)
