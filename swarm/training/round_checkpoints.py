"""A trainer's states at the boundaries of rounds, so that every round can be trained again exactly.

    checkpoints = RoundCheckpoints(directory)
    checkpoints.save(Boundary("after", commit_id), *trainer.state_dict())
    path = checkpoints.exact(commit_id, previous_id)    # the state to train on from `commit_id`

What a peer trains from a commit is a function of the commit's fragments and of the state that the
trainer had before: Adam moments, data position, random state. That is the state after the round
before it, or, where this peer did not train that one, the state with which it began. The newest
few are kept: a peer may be stopped before or after its update was committed, and must find both.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from swarm.files import storage_error
from swarm.training.checkpoint import save_checkpoint

KEPT = 3
SUFFIX = ".ckpt"
NAMED_HEX = 32  # digits of a commit id in a file's name
BEFORE, AFTER, DURING = "before", "after", "during"


@dataclass(frozen=True)
class Boundary:
    """Where a state was taken: before, after, or during the training from a commit."""

    kind: str
    commit: str

    @classmethod
    def of(cls, kind: str, commit: bytes) -> Boundary:
        """The boundary at a commit's round."""
        return cls(kind, commit.hex()[:NAMED_HEX])

    @classmethod
    def read(cls, path: Path) -> Boundary:
        """The boundary at which a file's state was taken."""
        _, kind, commit = path.name.removesuffix(SUFFIX).split("-")
        return cls(kind, commit)

    def __str__(self) -> str:
        return f"{self.kind}-{self.commit}"


class RoundCheckpoints:
    """States in one directory, `<number>-<boundary>.ckpt`; the highest number is the newest."""

    def __init__(self, directory: Path, kept: int = KEPT) -> None:
        self._directory = directory
        self._kept = kept

    def paths(self) -> list[Path]:
        """All states, the newest first."""
        return sorted(self._directory.glob(f"*-*-*{SUFFIX}"), reverse=True)

    def find(self, place: Boundary) -> Path | None:
        """The newest file with a state of this boundary."""
        return next((path for path in self.paths() if Boundary.read(path) == place), None)

    def save(
        self,
        place: Boundary,
        tensors: Mapping[str, Tensor],
        meta: Mapping[str, Any],
        *,
        sync: bool = True,
    ) -> None:
        """Write a state and remove all but the newest. Raises `DISK_FULL`, `DIR_NOT_WRITABLE`.

        A crash of the process leaves the states that were there; see `save_checkpoint` for `sync`.
        """
        paths = self.paths()
        number = 1 + (int(paths[0].name.partition("-")[0]) if paths else 0)
        path = self._directory / f"{number:09d}-{place}{SUFFIX}"
        save_checkpoint(path, tensors, meta, sync=sync)
        repeated = [old for old in paths if Boundary.read(old) == place]
        partial = list(self._directory.glob(f".*{SUFFIX}.*"))  # what a crash left half written
        try:
            for old in [*repeated, *partial]:
                old.unlink(missing_ok=True)
            for old in self.paths()[self._kept :]:
                old.unlink(missing_ok=True)
        except OSError as error:
            raise storage_error(self._directory, error) from error
