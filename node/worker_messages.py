"""What the daemon tells its worker and what it learns from it, with types; see `worker_link`."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from node.worker_protocol import Message
from swarm.config import RunManifest


@dataclass(frozen=True, kw_only=True)
class WorkerSettings:
    """What a worker is told once.

    `checkpoints`: where its state at the rounds' boundaries is. `limit_bytes` of main memory and
    `vram_share` (0 to 1) may be used, 0 = no limit.
    """

    manifest: RunManifest
    held: Sequence[int]
    source: str
    data_dir: Path
    seed: int = 0
    threads: int = 1
    limit_bytes: int = 0
    vram_share: float = 0.0
    device: str = "cpu"
    checkpoints: Path | None = None

    def message(self) -> Message:
        """The init request."""
        fields = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        return fields | {
            "type": "init",
            "manifest": dataclasses.asdict(self.manifest),
            "held": [int(e) for e in self.held],
            "data_dir": str(self.data_dir),
            "checkpoints": str(self.checkpoints) if self.checkpoints else None,
        }


@dataclass(frozen=True)
class WorkerReady:
    """What the worker found: counts of its text, parameters, device, what it had to set aside.

    Measured, 0 = not known: `seconds_per_step`; `memory_bytes` for model and optimizer;
    `peak_bytes` of the process in a step, of which `rows_at_once` sequences are computed at once;
    `least_bytes`, with one sequence at once.
    """

    data_report: dict[str, Any]
    parameters: int
    trainable: int
    device: str
    step: int
    seconds_per_step: float = 0.0
    memory_bytes: int = 0
    least_bytes: int = 0
    peak_bytes: int = 0
    rows_at_once: int = 0
    warnings: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class RoundResult:
    """One trained round; the deltas are in the shared memory. `loss` is in nats per token.

    `routing_divergence`: how much the commit that it follows changed the routing of a fixed batch.
    """

    round: int
    steps: int
    tokens: int
    loss: float
    seconds: float
    routed_LE: npt.NDArray[np.int64]
    warnings: list[str] = field(default_factory=list)
    routing_divergence: float | None = None


@dataclass(frozen=True, kw_only=True)
class Committed:
    """The commit that a round follows, as the worker needs it.

    `commit` and the `previous` one name the round, so that it is the same when it is trained again.
    `versions` and `contributors` (how many made the version) by fragment; `load_LE` are the routed
    tokens of all peers in the last round, None if there was none. `learning_rate` is the peak that
    holds now; None: that of the manifest.
    """

    held: Sequence[int]
    versions: Mapping[str, int]
    contributors: Mapping[str, int]
    commit: bytes = b""
    previous: bytes = b""
    committed_tokens: int = 0
    learning_rate: float | None = None
    load_LE: npt.ArrayLike | None = None
    selection_bias: Sequence[float] = ()

    def fields(self) -> Message:
        """The fields of a message."""
        load = np.asarray([] if self.load_LE is None else self.load_LE, dtype=np.int64)
        return {
            "held": [int(e) for e in self.held],
            "versions": {name: int(version) for name, version in self.versions.items()},
            "contributors": {name: int(count) for name, count in self.contributors.items()},
            "commit": self.commit,
            "previous": self.previous,
            "committed_tokens": self.committed_tokens,
            "learning_rate": self.learning_rate,
            "load": load.reshape(-1).tolist(),
            "selection_bias": list(self.selection_bias),
        }
