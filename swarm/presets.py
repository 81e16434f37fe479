"""Named starting points for a run manifest: explicit values, nothing that is looked up later.

    manifest = preset("spes", RunManifest())

`spes`       SPES as published: full forward, plain averages, experts from their holder, merging
`diloco`     every peer trains every expert; Nesterov on the mean update (arXiv 2311.08105)
`held`       a peer has only its experts in memory; router rows travel with them
`streaming`  fragments in turn, averaged while the next round is trained (arXiv 2501.18512)
"""

from __future__ import annotations

import dataclasses
from typing import Any

from swarm.config import RunManifest
from swarm.config.fields import require

PRESETS: dict[str, dict[str, dict[str, Any]]] = {
    "spes": {
        "training": {"inner_steps": 100},
        "outer": {"optimizer": "fedavg"},
        "sync": {
            "step_counts": "equal",
            "forward": "full",
            "router_rows": "trunk",
            "weights": "equal",
            "aggregation": "mean",
            "contribution": "parameters",
            "codec": "fp32",
        },
        "merge": {"every_rounds": 5, "strength": 0.01, "rounds": 100},
        "balance": {"own_factor": 0.7},
    },
    "diloco": {
        "training": {"inner_steps": 100},
        "outer": {"optimizer": "nesterov", "learning_rate": 0.0, "momentum": 0.9},
        "sync": {"forward": "full", "router_rows": "trunk"},
    },
    "held": {
        "outer": {"optimizer": "nesterov", "learning_rate": 0.0, "momentum": 0.9},
        "sync": {"forward": "held", "router_rows": "expert"},
    },
    "streaming": {
        "training": {"inner_steps": 100},
        "outer": {"optimizer": "nesterov", "learning_rate": 0.4, "momentum": 0.9},
        "sync": {"forward": "full", "router_rows": "trunk", "codec": "int8"},
        "stream": {"groups": 2, "overlap": True, "delay_steps": 1, "correction": "mix"},
    },
}


def preset(name: str, base: RunManifest) -> RunManifest:
    """`base` with the values of a preset. Raises `CONFIG_INVALID` naming the known ones."""
    require(name in PRESETS, "preset", f"is one of {', '.join(PRESETS)}, not {name!r}")
    parts = {
        section: dataclasses.replace(getattr(base, section), **values)
        for section, values in PRESETS[name].items()
    }
    if name == "diloco":
        everything = base.model.num_experts
        parts["sync"] = dataclasses.replace(parts["sync"], experts_per_peer=everything)
    return dataclasses.replace(base, **parts)
