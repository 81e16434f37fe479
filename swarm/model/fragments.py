"""Fragments: the model cut into named flat fp32 buffers, their hashes, and their initial values.

A fragment is one part of the trunk (a contiguous group of layers with their shared experts; the
embedding goes with the first, the final norm and the head with the last) or one expert in all
layers. The layout is a pure function of the configuration, so equal configurations have equal bytes
on every machine. Inside a fragment, tensors lie one after another in the order of
`FragmentLayout.tensors`.

    layout = FragmentLayout.of(config, trunk_fragments=2, router_rows="trunk")
    values = initial_fragment(config, layout, "expert.3", seed=0)
    fragment_hash(values)

Only numpy: a daemon hashes, averages and serves fragments without loading torch. To and from a
model they go by `fragment_io`.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from swarm.hashing import bulk_hash
from swarm.model.config import ModelConfig
from swarm.model.initial import initial_tensor

Shape = tuple[int, ...]


@dataclass(frozen=True)
class TensorSlice:
    """Place of one tensor in its fragment; `offset` counts fp32 values."""

    name: str
    shape: Shape
    offset: int

    @property
    def numel(self) -> int:
        """Number of values."""
        return math.prod(self.shape)

    def of(self, values: np.ndarray) -> np.ndarray:
        """View of this tensor in its fragment's flat `values`."""
        return values[self.offset : self.offset + self.numel].reshape(self.shape)


@dataclass(frozen=True)
class FragmentLayout:
    """Which tensor lies where; make it with `of`. `names` has the trunk first, then the experts."""

    config: ModelConfig
    names: tuple[str, ...]
    trunk_names: tuple[str, ...]
    slices: Mapping[str, tuple[TensorSlice, ...]]

    @classmethod
    def of(
        cls, config: ModelConfig, trunk_fragments: int = 2, router_rows: str = "trunk"
    ) -> FragmentLayout:
        """Layout of `config` with the trunk cut in `trunk_fragments` (1..num_layers) groups.

        `router_rows`: "trunk" puts a layer's router rows with the layer, "expert" with their
        experts. Groups differ by one layer at most, the larger ones first.
        """
        if not 1 <= trunk_fragments <= config.num_layers:
            raise ValueError(f"trunk_fragments {trunk_fragments} not in 1..{config.num_layers}")
        if router_rows not in ("trunk", "expert"):
            raise ValueError(f"router_rows {router_rows!r} is neither trunk nor expert")
        contents: dict[str, list[tuple[str, Shape]]] = {}
        groups = np.array_split(np.arange(config.num_layers), trunk_fragments)
        for number, group in enumerate(groups):
            tensors = [_embedding(config)] if number == 0 else []
            for layer in group.tolist():
                tensors += _layer_tensors(config, layer)
                if router_rows == "trunk":
                    for expert in range(config.num_experts):
                        tensors += _router_row(config, layer, expert)
            contents[f"trunk.{number}"] = tensors
        contents[f"trunk.{trunk_fragments - 1}"] += _top_tensors(config)
        trunk_names = tuple(contents)
        for expert in range(config.num_experts):
            tensors = []
            for layer in range(config.num_layers):
                tensors += _expert_tensors(config, layer, expert)
                if router_rows == "expert":
                    tensors += _router_row(config, layer, expert)
            contents[cls.expert_name(expert)] = tensors
        slices = {name: _placed(tensors) for name, tensors in contents.items()}
        return cls(config, tuple(contents), trunk_names, slices)

    @staticmethod
    def expert_name(expert: int) -> str:
        """Fragment name of an expert."""
        return f"expert.{expert}"

    @staticmethod
    def expert_index(name: str) -> int | None:
        """Expert of a fragment, None for a part of the trunk."""
        kind, _, number = name.partition(".")
        return int(number) if kind == "expert" else None

    def tensors(self, name: str) -> tuple[TensorSlice, ...]:
        """Tensors of the fragment `name` in their order."""
        return self.slices[name]

    def numel(self, name: str) -> int:
        """Values (fp32) of the fragment `name`."""
        last = self.slices[name][-1]
        return last.offset + last.numel


def fragment_hash(values: np.ndarray) -> bytes:
    """BLAKE3 over the little-endian fp32 bytes."""
    return bulk_hash(np.ascontiguousarray(values, dtype="<f4").data.cast("B"))


def initial_fragment(
    config: ModelConfig, layout: FragmentLayout, name: str, seed: int
) -> np.ndarray:
    """Initial values of a fragment, the same bits on every machine (see `initial`)."""
    values = np.empty(layout.numel(name), dtype=np.float32)
    for part in layout.tensors(name):
        part.of(values)[...] = initial_tensor(config, part.name, part.shape, seed)
    return values


def fragment_tensors(
    layout: FragmentLayout, fragments: Mapping[str, np.ndarray]
) -> dict[str, np.ndarray]:
    """Views of all tensors by name, router rows by expert, from the flat fragments."""
    return {
        part.name: part.of(values)
        for name, values in fragments.items()
        for part in layout.tensors(name)
    }


def state_root(hashes: Mapping[str, bytes]) -> bytes:
    """SHA-256 over the fragments' names and hashes (32 bytes each), sorted by name."""
    digest = hashlib.sha256()
    for name in sorted(hashes):
        encoded = name.encode()
        digest.update(len(encoded).to_bytes(4, "little") + encoded + hashes[name])
    return digest.digest()


def _placed(tensors: list[tuple[str, Shape]]) -> tuple[TensorSlice, ...]:
    placed, offset = [], 0
    for name, shape in tensors:
        placed.append(TensorSlice(name, shape, offset))
        offset += math.prod(shape)
    return tuple(placed)


def _embedding(config: ModelConfig) -> tuple[str, Shape]:
    return "model.embed_tokens.weight", (config.vocab_size, config.d_model)


def _layer_tensors(config: ModelConfig, layer: int) -> list[tuple[str, Shape]]:
    d, kv = config.d_model, config.num_kv_heads * config.head_dim
    shapes: dict[str, Shape] = {
        "self_attn.q_proj": (d, d),
        "self_attn.k_proj": (kv, d),
        "self_attn.v_proj": (kv, d),
        "self_attn.o_proj": (d, d),
        "self_attn.q_norm": (d,),
        "self_attn.k_norm": (kv,),
        "post_attention_layernorm": (d,),
        ("input_layernorm" if config.pre_norm else "post_feedforward_layernorm"): (d,),
    }
    if wide := config.shared_experts * config.d_ff:
        shared = "mlp.shared_expert"
        shapes |= {f"{shared}.gate_proj": (wide, d), f"{shared}.up_proj": (wide, d)}
        shapes |= {f"{shared}.down_proj": (d, wide)}
    return [(f"model.layers.{layer}.{name}.weight", shape) for name, shape in shapes.items()]


def _router_row(config: ModelConfig, layer: int, expert: int) -> list[tuple[str, Shape]]:
    prefix = f"model.layers.{layer}.mlp.gate"
    row: list[tuple[str, Shape]] = [(f"{prefix}.weight.{expert}", (config.d_model,))]
    return row + ([(f"{prefix}.bias.{expert}", ())] if config.router_bias else [])


def _expert_tensors(config: ModelConfig, layer: int, expert: int) -> list[tuple[str, Shape]]:
    prefix = f"model.layers.{layer}.mlp.experts.{expert}"
    wide: Shape = (config.d_ff, config.d_model)
    return [
        (f"{prefix}.gate_proj.weight", wide),
        (f"{prefix}.up_proj.weight", wide),
        (f"{prefix}.down_proj.weight", (config.d_model, config.d_ff)),
    ]


def _top_tensors(config: ModelConfig) -> list[tuple[str, Shape]]:
    return [
        ("model.norm.weight", (config.d_model,)),
        ("lm_head.weight", (config.vocab_size, config.d_model)),
    ]
