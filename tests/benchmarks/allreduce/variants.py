"""The implementations that bench_allreduce.py puts side by side."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Variant:
    """One implementation by route and codec. Those with the same `process` share their peers."""

    impl: str
    route: str
    codec: str
    encrypted: bool
    module: str
    same_bits: bool = True  # whether all its peers promise to hold the same bits
    options: Mapping[str, Any] = field(default_factory=dict, hash=False)

    @property
    def process(self) -> tuple[str, str]:
        """Equal for variants that the same peers can run."""
        return self.module, json.dumps(dict(self.options), sort_keys=True)

    @property
    def name(self) -> str:
        """impl/route/codec."""
        return f"{self.impl}/{self.route}/{self.codec}"


DIRECT = {"route": "direct", "protection": "sealed"}
PLAIN = {"route": "direct", "protection": "plain"}
TUNNEL = {"route": "tunnel", "protection": "sealed"}
OURS = "allreduce.ours"

GLOO = Variant("gloo", "tcp", "fp32", False, "allreduce.gloo_peer")
PCCL = Variant("pccl", "tcp", "fp32", False, "allreduce.pccl_peer")
HIVEMIND = Variant(
    impl="hivemind",
    route="libp2p",
    codec="fp32",
    encrypted=True,
    module="allreduce.hivemind_peer",
    same_bits=False,
    options={"all_or_nothing": True},
)
SEALED_FP32 = Variant("ours", "direct", "fp32", True, OURS, options=DIRECT)
SEALED_INT8 = replace(SEALED_FP32, codec="int8")
PLAIN_FP32 = Variant("ours", "plain", "fp32", False, OURS, options=PLAIN)
TUNNEL_FP32 = Variant("ours", "tunnel", "fp32", True, OURS, options=TUNNEL)

LOOPBACK = (
    SEALED_FP32,
    SEALED_INT8,
    replace(SEALED_FP32, codec="bf16"),
    replace(SEALED_FP32, codec="int4"),
    PLAIN_FP32,
    TUNNEL_FP32,
    replace(TUNNEL_FP32, codec="int8"),
    HIVEMIND,
    GLOO,
    PCCL,
    replace(PCCL, codec="uint8"),
)
LIMITED = (SEALED_FP32, SEALED_INT8, TUNNEL_FP32, HIVEMIND, GLOO, PCCL)
ONE_SLOW = (SEALED_FP32, SEALED_INT8, HIVEMIND, GLOO, PCCL)
# With the time limits that hivemind leaves off by default: without them most survivors hang.
KILLED = (
    SEALED_FP32,
    replace(HIVEMIND, options={"all_or_nothing": False, "sender_timeout_s": 5.0}),
    GLOO,
    PCCL,
)


def select(variants: Sequence[Variant], words: Sequence[str]) -> list[Variant]:
    """Those whose name holds one of the words; all without words."""
    return [v for v in variants if not words or any(word in v.name for word in words)]


def pccl_missing(python: Path) -> str | None:
    """Why PCCL can not run, or None."""
    if not python.exists():
        return f"no {python}; tests/benchmarks/pccl_root.sh makes it"
    done = subprocess.run([python, "-c", "import pccl"], capture_output=True, text=True)
    return None if done.returncode == 0 else done.stderr.strip().splitlines()[-1]
