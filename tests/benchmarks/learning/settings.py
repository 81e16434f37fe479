"""The experiment as a TOML file describes it: what all arms share, and how each one differs."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from swarm.config import MergeConfig, RunManifest
from swarm.presets import preset

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

Table = dict[str, Any]
KINDS = ("central", "solo", "swarm")
FACTS = ("title", "kind", "small_batch", "mixed_text", "growing_rounds")


@dataclass(frozen=True)
class Churn:
    """Every `every_rounds` one peer is killed, in turn, and is away for `away_rounds`.

    It loses the round that it was in, and comes back with a fresh optimizer.
    """

    every_rounds: int
    away_rounds: int


@dataclass(frozen=True)
class Arm:
    """One way of training.

    `kind` central: one model reads all domains, `batch_size` sequences of each in a step, or with
    `small_batch` that many of all together. solo: a model for each domain, which sees no other.
    swarm: with `mixed_text` every peer reads all domains; with `growing_rounds` the first round has
    so many steps and the last as many as the second number says; `merge_held` merges the experts of
    held-only peers, as no node can: nobody has them all. An `idea` has only a row in a table.
    """

    name: str
    title: str
    kind: str
    manifest: RunManifest
    idea: bool = False
    small_batch: bool = False
    churn: Churn | None = None
    mixed_text: bool = False
    growing_rounds: tuple[int, int] | None = None
    merge_held: MergeConfig | None = None


@dataclass(frozen=True)
class Experiment:
    """All arms get `tokens` training tokens, of all peers together; one peer for each domain.

    A point of the learning curve is measured on `curve_tokens` held-out tokens of each domain, the
    last one on `final_tokens`. `calibration_steps`: of the routers of held-only swarms, afterwards.
    The memory of `memory_arms` is measured with their model and with one changed by `memory_model`.
    """

    domains: tuple[str, ...]
    seeds: tuple[int, ...]
    tokens: int
    curve_points: int
    curve_tokens: int
    final_tokens: int
    calibration_steps: int
    memory_arms: tuple[str, ...]
    memory_model: Mapping[str, int]
    arms: tuple[Arm, ...]

    @classmethod
    def load(cls, path: Path) -> Experiment:
        """Read the file. Raises `SwarmError` or `TypeError` naming a wrong key."""
        table = tomllib.loads(path.read_text(encoding="utf-8"))
        shared = table["shared"]
        arms = [_arm(name, arm, shared) for name, arm in table["arms"].items()]
        for name, arm in table["ideas"].items():
            arms.append(dataclasses.replace(_arm(name, arm, shared), idea=True))
        chosen = {k: tuple(v) if isinstance(v, list) else v for k, v in table["experiment"].items()}
        return cls(arms=tuple(arms), **chosen)


def _arm(name: str, table: Table, shared: Table) -> Arm:
    own = dict(table)
    facts = {key: own.pop(key) for key in FACTS if key in own}
    assert facts["kind"] in KINDS, f"arm {name}: kind is one of {', '.join(KINDS)}"
    if "growing_rounds" in facts:
        facts["growing_rounds"] = tuple(facts["growing_rounds"])
    if "churn" in own:
        facts["churn"] = Churn(**own.pop("churn"))
    if "merge_held" in own:
        facts["merge_held"] = MergeConfig(**own.pop("merge_held"))
    manifest = RunManifest.from_dict(shared)
    if start := own.pop("preset", None):
        manifest = preset(start, manifest)
    manifest = RunManifest.from_dict(_merged(tomllib.loads(manifest.to_toml()), own))
    return Arm(name=name, manifest=manifest, **facts)


def _merged(table: Table, changes: Mapping[str, Table]) -> Table:
    """`table` with the keys of each section of `changes` replaced."""
    sections = {key: {**table.get(key, {}), **values} for key, values in changes.items()}
    return {**table, **sections}
