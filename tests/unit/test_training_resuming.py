"""Stopped at any moment of any round, a trainer goes on with the same losses to the bit."""

from __future__ import annotations

import hashlib
import multiprocessing
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np
import pytest
import torch
from test_training_trainer import MANIFEST, corpus, fragments

from swarm.data import Sampler
from swarm.errors import Code, SwarmError
from swarm.training import resuming as resuming_module
from swarm.training.resuming import Resuming
from swarm.training.round_checkpoints import Boundary, RoundCheckpoints
from swarm.training.trainer import Trainer

ROUNDS, STEPS = 4, 3
LIMIT_S = 60
HELD = [(0, 1), (0, 1), (1, 2), (1, 2)]  # in each round: one expert is lost, one gained


def commit_of(round_index: int) -> bytes:
    return hashlib.sha256(b"%d" % round_index).digest() if round_index >= 0 else b""


class Life:
    """One process of a peer: its memory is gone with it, its directory stays."""

    def __init__(self, directory: Path, clock: Callable[[], float] = lambda: 0.0) -> None:
        sampler = Sampler(
            corpus(), MANIFEST.training.batch_size, MANIFEST.training.sequence_length, seed=0
        )
        torch.manual_seed(time.monotonic_ns())  # a new process has another random state
        self.trainer = Trainer(MANIFEST, sampler, HELD[0])
        self.resuming = Resuming(self.trainer, RoundCheckpoints(directory), clock)
        self.resuming.restore_newest()

    def train(
        self, round_index: int, base: dict[str, np.ndarray], die_at: int | None = None
    ) -> list[float]:
        """The steps of a round from its commit; `die_at`: SIGKILL after so many of them."""
        self.trainer.set_held(HELD[round_index])
        self.resuming.begin(commit_of(round_index), commit_of(round_index - 1))
        self.trainer.load(base)
        self.trainer.set_schedule(1000 * round_index)
        losses = []
        for step in range(STEPS):
            if step == die_at:
                return losses
            losses.append(self.trainer.train_step().loss)
        self.resuming.done()
        return losses


def initial() -> dict[str, np.ndarray]:
    trainer = Trainer(MANIFEST, Sampler(corpus(), 4, 16, seed=0), range(4))
    trainer.load_initial()
    return fragments(trainer)


def undisturbed(directory: Path) -> tuple[list[list[float]], dict[str, np.ndarray]]:
    life, base, losses = Life(directory), initial(), []
    for round_index in range(ROUNDS):
        losses.append(life.train(round_index, base))
        base = fragments(life.trainer)
    return losses, base


@pytest.mark.parametrize("moment", ["before", "begun", "middle", "trained", "committed"])
@pytest.mark.parametrize("graceful", [False, True], ids=["killed", "stopped"])
def test_stopped_at_any_moment_of_every_round_it_goes_on_exactly(
    moment: str, graceful: bool, tmp_path: Path
) -> None:
    expected, end = undisturbed(tmp_path / "straight")
    base, losses = initial(), []
    life = Life(tmp_path / "broken")
    for round_index in range(ROUNDS):
        if moment in ("begun", "middle", "trained"):
            life.train(round_index, base, {"begun": 0, "middle": 2}.get(moment))
        if moment != "committed":
            if graceful:
                life.resuming.leave()
            life = Life(tmp_path / "broken")
        losses.append(life.train(round_index, base))
        base = fragments(life.trainer)
        if moment == "committed":
            if graceful:
                life.resuming.leave()
            life = Life(tmp_path / "broken")
        assert life.resuming.warnings == []
    assert losses == expected
    assert all(base[name].tobytes() == end[name].tobytes() for name in end)


def test_a_round_that_is_trained_again_in_the_same_process_is_the_same(tmp_path: Path) -> None:
    expected, _ = undisturbed(tmp_path / "straight")
    life, base = Life(tmp_path / "again"), initial()
    for round_index in range(ROUNDS):
        life.train(round_index, base, die_at=1)  # cancelled
        assert life.train(round_index, base) == expected[round_index]
        assert life.train(round_index, base) == expected[round_index]  # the commit did not come
        base = fragments(life.trainer)


def test_who_missed_rounds_goes_on_from_its_own_last_state(tmp_path: Path) -> None:
    life, base = Life(tmp_path), initial()
    life.train(0, base)
    position = life.trainer.sampler.position
    later = Life(tmp_path)
    later.trainer.set_held(HELD[3])
    later.resuming.begin(commit_of(3), commit_of(2))
    assert later.trainer.sampler.position == position
    assert any("lm_head" in key for key in later.trainer.optimizer.state_tensors())
    # And that place, too, can be come back to.
    later.trainer.load(base)
    first = [later.trainer.train_step().loss for _ in range(2)]
    again = Life(tmp_path)
    again.trainer.set_held(HELD[3])
    again.resuming.begin(commit_of(3), commit_of(2))
    again.trainer.load(base)
    assert [again.trainer.train_step().loss for _ in range(2)] == first


def test_only_the_newest_states_are_kept(tmp_path: Path) -> None:
    undisturbed(tmp_path)
    names = [str(Boundary.read(path)) for path in RoundCheckpoints(tmp_path).paths()]
    assert names == [str(Boundary.of("after", commit_of(r))) for r in (3, 2, 1)]
    assert len(list(tmp_path.iterdir())) == 3


def test_a_damaged_state_is_set_aside_and_the_one_before_it_used(tmp_path: Path) -> None:
    undisturbed(tmp_path)
    newest, older, _ = RoundCheckpoints(tmp_path).paths()
    newest.write_bytes(newest.read_bytes()[:-5])
    life = Life(tmp_path)
    assert "CHECKPOINT_CORRUPT" in life.resuming.warnings[0]
    assert life.trainer.sampler.position == (ROUNDS - 1) * STEPS
    assert not newest.exists() and newest.with_name(f"{newest.name}.unusable").exists()
    assert RoundCheckpoints(tmp_path).paths()[0] == older


def test_a_full_disk_is_said_and_training_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_space(source: Path, target: Path) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.replace", no_space)
    life = Life(tmp_path)
    assert len(life.train(0, initial())) == STEPS
    assert len(life.resuming.warnings) == 2 and "DISK_FULL" in life.resuming.warnings[0]
    with pytest.raises(SwarmError) as caught:
        life.resuming.leave()
    assert caught.value.code is Code.DISK_FULL


def test_large_states_are_written_at_intervals_and_at_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(resuming_module, "SAVE_AT_ONCE_BYTES", 1)
    now_s = [100.0]
    life, base = Life(tmp_path, lambda: now_s[0]), initial()
    life.train(0, base)
    assert len(RoundCheckpoints(tmp_path).paths()) == 1  # of its beginning
    now_s[0] += resuming_module.SAVE_EVERY.total_seconds()
    life.train(1, base)
    assert Boundary.read(RoundCheckpoints(tmp_path).paths()[0]).kind == "before"
    life.resuming.leave()
    assert RoundCheckpoints(tmp_path).find(Boundary.of("after", commit_of(1))) is not None


def save_on_and_on(told: Connection, directory: Path) -> None:
    shelf = RoundCheckpoints(directory)
    for number in range(10**6):
        boundary = Boundary.of("after", number.to_bytes(32, "big"))
        shelf.save(boundary, {"values": torch.full((20000,), float(number))}, {"number": number})
        told.send(number)


def test_killed_while_it_saves_again_and_again_what_was_saved_is_whole(tmp_path: Path) -> None:
    from swarm.training.checkpoint import load_checkpoint

    processes = multiprocessing.get_context("forkserver")
    processes.set_forkserver_preload(["swarm.training.trainer", "pytest"])
    for attempt in range(6):
        ours, theirs = processes.Pipe(duplex=False)
        saver = processes.Process(target=save_on_and_on, args=(theirs, tmp_path))
        saver.start()
        for _ in range(3):
            assert ours.poll(LIMIT_S), "nothing is saved"
            said = ours.recv()
        time.sleep(0.0007 * attempt)  # somewhere in the next save
        saver.kill()
        saver.join()
        newest = RoundCheckpoints(tmp_path).paths()
        assert 1 <= len(newest) <= 4
        for path in newest:
            tensors, meta = load_checkpoint(path)
            assert (tensors["values"] == meta["number"]).all()
        assert load_checkpoint(newest[0])[1]["number"] >= said
