"""A trainer that can be stopped at any moment and goes on with the same losses to the bit.

    resuming = Resuming(trainer, RoundCheckpoints(directory), time.monotonic)
    resuming.restore_newest()
    ...
    trainer.set_held(experts)
    resuming.begin(commit_id, previous_id)    # the state that belongs to this round
    trainer.load(fragments)                   # of the commit; then its steps
    resuming.done()                           # all steps were made; outlives this process
    resuming.leave()                          # the process ends

States above 256 MB are saved at intervals only; after a crash such a peer goes on from an older
optimizer state, as any peer may after a power cut. Where local parameters outlive a round
(`stream.groups`, `stream.overlap`) it goes on from the committed ones. All of it is correct, but
not the same to the bit.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

from swarm.errors import SwarmError
from swarm.training.checkpoint import load_checkpoint
from swarm.training.round_checkpoints import AFTER, BEFORE, DURING, Boundary, RoundCheckpoints
from swarm.training.trainer import Trainer

SAVE_AT_ONCE_BYTES = 256 * 10**6
SAVE_EVERY = timedelta(seconds=20)


class Resuming:
    """See the module docstring. `clock`: monotonic seconds.

    Attributes:
        warnings: what could not be used or kept, in words, until somebody takes them.
    """

    def __init__(
        self, trainer: Trainer, checkpoints: RoundCheckpoints, clock: Callable[[], float]
    ) -> None:
        self.warnings: list[str] = []
        self._trainer = trainer
        self._checkpoints = checkpoints
        self._clock = clock
        self._place: Boundary | None = None  # where the trainer's state is
        self._commit = b""
        self._repeatable = False  # the state with which the round began is on disk
        self._saved_s = -SAVE_EVERY.total_seconds()

    def restore_newest(self) -> None:
        """Load the newest state that can be used; without any the trainer stays as it is.

        A file that can not be used is set aside. A changed text costs only the position in it.
        """
        for path in self._checkpoints.paths():
            if self._load(path):
                break
        # Which experts the first round has is not known yet; it loads the state for them again.
        self._place = None

    def begin(self, commit: bytes, previous: bytes) -> None:
        """Give the trainer the state with which the round from `commit` begins.

        It is the one that it has, unless the round was begun before, in this process or another:
        the state after the round of `previous`, or the one kept when it was begun.
        """
        self._commit = commit
        before, after = Boundary.of(BEFORE, commit), Boundary.of(AFTER, previous)
        possible = (before, after) if previous else (before,)
        self._repeatable = True
        files = {place: self._checkpoints.find(place) for place in possible}
        if self._place is None or files.get(self._place) is None:
            found = [path for path in files.values() if path is not None]
            if not any(self._load(path) for path in found):
                if self._place is None:
                    self.restore_newest()
                self._repeatable = self._save(before)
        self._place = Boundary.of(DURING, commit)

    def follow(self, commit: bytes) -> None:
        """The round that is being trained follows `commit`, which came when steps were made."""
        self._commit = commit
        self._place = Boundary.of(DURING, commit)
        self._repeatable = False

    def done(self) -> None:
        """All steps of the round were made. The others may rely on the update from now on."""
        self._place = Boundary.of(AFTER, self._commit)
        self._save(self._place)

    def leave(self) -> None:
        """The process ends. Raises `DISK_FULL`, `DIR_NOT_WRITABLE`.

        In mid-round nothing is written if the round can be trained again from its beginning.
        """
        place = self._place
        if place is None or (place.kind == DURING and self._repeatable):
            return
        if self._checkpoints.find(place) is None:
            self._checkpoints.save(place, *self._trainer.state_dict())

    def _save(self, place: Boundary) -> bool:
        """Keep the trainer's state; False when it was not. A full disk does not stop training."""
        tensors, meta = self._trainer.state_dict()
        total_bytes = sum(t.numel() * t.element_size() for t in tensors.values())
        late = self._clock() >= self._saved_s + SAVE_EVERY.total_seconds()
        if total_bytes > SAVE_AT_ONCE_BYTES and not late:
            return False
        self._saved_s = self._clock()
        try:
            # Not synced: the others wait for this, and a damaged state is found out and set aside.
            self._checkpoints.save(place, tensors, meta, sync=False)
        except SwarmError as error:
            self.warnings.append(f"{error} - after a crash training goes on from an older state")
            return False
        return True

    def _load(self, path: Path) -> bool:
        trainer = self._trainer
        try:
            tensors, meta = load_checkpoint(path)
            if not trainer.sampler.accepts(meta.get("sampler")):
                meta["sampler"] = trainer.sampler.state()
                self.warnings.append("the text has changed since, it is read from its start again")
            trainer.load_state_dict(tensors, meta)
        except SwarmError as error:
            aside = path.with_name(f"{path.name}.unusable")
            path.replace(aside)
            self.warnings.append(f"{error} - moved to {aside}; an older state is used, or none")
            return False
        self._place = Boundary.read(path)
        return True
