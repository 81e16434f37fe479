"""Fragments on disk: after every commit, one save at a time, two generations, a full disk."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable, Iterable
from pathlib import Path

import numpy as np
import pytest
from polling import soon

import node.keeping
from node.daemon_status import Status
from node.keeping import FragmentKeeper
from swarm.collective.state import FragmentState, version_message
from swarm.errors import Code, SwarmError
from swarm.experts.store import FragmentStore

LIMIT_S = 10.0
Fragments = dict[str, FragmentState]


def generation(number: int) -> Fragments:
    """Two fragments, of which only the first changes from commit to commit."""
    changing = np.full(8, number, np.float32)
    return {
        "trunk.0": FragmentState.of(changing, -changing - 1, number),
        "expert.0": FragmentState.of(np.full(8, 0.5, np.float32), np.zeros(8, np.float32), 0),
    }


class WatchedStore(FragmentStore):
    """Counts saves that run at once, and can be held up or made to fail."""

    def __init__(self, directory: Path) -> None:
        super().__init__(directory)
        self.gate = threading.Event()
        self.gate.set()
        self.entered = threading.Event()
        self.failure: SwarmError | None = None
        self.running = self.most_running = 0
        self.lock = threading.Lock()

    def put(self, blob_hash: bytes, values: np.ndarray, *, sync: bool = True) -> None:
        with self.lock:
            self.running += 1
            self.most_running = max(self.most_running, self.running)
        self.entered.set()
        assert self.gate.wait(LIMIT_S)
        try:
            if self.failure is not None:
                raise self.failure
            super().put(blob_hash, values, sync=sync)
        finally:
            with self.lock:
                self.running -= 1

    def keep(self, hashes: Iterable[bytes]) -> None:
        assert self.running == 0
        super().keep(hashes)

    def has(self, fragments: Fragments) -> bool:
        hashes = [h for s in fragments.values() for h in (s.theta_hash, s.momentum_hash)]
        return all(self._path(h).exists() for h in hashes)


def play(
    tmp_path: Path,
    scenario: Callable[[FragmentKeeper, WatchedStore, list[str]], Awaitable[None]],
    clock: Callable[[], float] = lambda: 1000.0,
) -> None:
    """Run `scenario` beside the keeper's background task."""

    async def main() -> None:
        store, said = WatchedStore(tmp_path / "fragments"), list[str]()
        keeper = FragmentKeeper(store, Status(said.append), clock)
        task = asyncio.create_task(keeper.run())
        try:
            await scenario(keeper, store, said)
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            store.gate.set()

    asyncio.run(main())


def test_every_commit_is_on_disk_and_the_two_newest_stay(tmp_path: Path) -> None:
    async def scenario(keeper: FragmentKeeper, store: WatchedStore, said: list[str]) -> None:
        for number in range(4):
            keeper.note(generation(number), complete=True)
            await soon(lambda n=number: store.has(generation(n)))
        await soon(lambda: not store.has(generation(1)))
        assert store.has(generation(2)) and store.has(generation(3))
        assert not store.has(generation(0))
        assert said == []

    play(tmp_path, scenario)


def test_saves_never_overlap_and_of_those_that_wait_the_newest_is_written(tmp_path: Path) -> None:
    async def scenario(keeper: FragmentKeeper, store: WatchedStore, said: list[str]) -> None:
        store.gate.clear()
        keeper.note(generation(0), complete=True)
        await soon(store.entered.is_set)
        for number in (1, 2, 3):
            keeper.note(generation(number), complete=True)
            await asyncio.sleep(0.01)
        store.gate.set()
        await soon(lambda: store.has(generation(3)))
        assert store.most_running == 1
        assert store.has(generation(0)) and not store.has(generation(1))

    play(tmp_path, scenario)


def test_the_last_save_waits_for_the_running_one(tmp_path: Path) -> None:
    async def main() -> None:
        store = WatchedStore(tmp_path / "fragments")
        keeper = FragmentKeeper(store, Status(lambda line: None))
        store.gate.clear()
        keeper.note(generation(0), complete=True)
        task = asyncio.create_task(keeper.run())
        await soon(store.entered.is_set)
        task.cancel()  # as when the node stops; the thread is still writing
        await asyncio.gather(task, return_exceptions=True)
        keeper.note(generation(1), complete=True)
        finishing = asyncio.create_task(keeper.finish())
        await asyncio.sleep(0.05)
        assert not finishing.done() and not store.has(generation(1))
        store.gate.set()
        await asyncio.wait_for(finishing, LIMIT_S)
        assert store.has(generation(0)) and store.has(generation(1))
        assert store.most_running == 1

    asyncio.run(main())


def test_while_fragments_are_still_missing_nothing_is_removed(tmp_path: Path) -> None:
    async def scenario(keeper: FragmentKeeper, store: WatchedStore, said: list[str]) -> None:
        for number in range(3):
            keeper.note(generation(number), complete=False)
            await soon(lambda n=number: store.has(generation(n)))
        keeper.note(generation(3), complete=True)
        await soon(lambda: not store.has(generation(2)))
        assert store.has(generation(3))

    play(tmp_path, scenario)


def test_a_large_model_is_written_at_intervals(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(node.keeping, "SAVE_AT_ONCE_BYTES", 1)
    now_s = [1000.0]

    async def scenario(keeper: FragmentKeeper, store: WatchedStore, said: list[str]) -> None:
        keeper.note(generation(0), complete=True)
        await soon(lambda: store.has(generation(0)))
        now_s[0] += node.keeping.SAVE_EVERY.total_seconds() - 0.1
        keeper.note(generation(1), complete=True)
        await asyncio.sleep(0.05)
        assert not store.has(generation(1))
        await soon(lambda: store.has(generation(1)))

    play(tmp_path, scenario, clock=lambda: now_s[0])


def test_a_full_disk_is_said_once_and_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(node.keeping, "SAVE_EVERY", node.keeping.SAVE_EVERY / 1000)

    async def scenario(keeper: FragmentKeeper, store: WatchedStore, said: list[str]) -> None:
        store.failure = SwarmError(Code.DISK_FULL, "no space")
        for number in range(3):
            store.entered.clear()
            keeper.note(generation(number), complete=True)
            await soon(store.entered.is_set)
        await soon(lambda: len(said) == 1)
        assert "DISK_FULL" in said[0]
        store.failure = None
        await soon(lambda: store.has(generation(2)))  # although no commit came since
        await soon(lambda: len(said) == 2)
        assert "works again" in said[1]

    play(tmp_path, scenario)


def test_what_a_round_computed_is_there_before_it_is_reported_and_goes_when_it_is_decided(
    tmp_path: Path,
) -> None:
    async def scenario(keeper: FragmentKeeper, store: WatchedStore, said: list[str]) -> None:
        keeper.note(generation(0), complete=True)
        await soon(lambda: store.has(generation(0)))
        spoiled = {"trunk.0": FragmentState.of(np.full(8, 77, np.float32), np.zeros(8, "<f4"), 1)}
        for shadow in (spoiled, generation(1)):
            await asyncio.to_thread(keeper.keep_shadow, shadow)
            assert store.has(shadow)
        keeper.note({**generation(0), "expert.1": generation(0)["expert.0"]}, complete=True)
        await soon(lambda: keeper._saved is keeper._newest)
        assert store.has(spoiled) and store.has(generation(1))  # which one stands is not known
        keeper.note(generation(1), complete=True)
        await soon(lambda: not store.has(spoiled))
        assert store.has(generation(1)) and said == []
        version = version_message("trunk.0", generation(1)["trunk.0"])
        found = keeper.find(version)
        assert found is not None and found.matches(version) and found.version == 1
        assert keeper.find(version_message("trunk.0", spoiled["trunk.0"])) is None

    play(tmp_path, scenario)


def test_what_an_earlier_life_computed_stays_until_a_second_commit(tmp_path: Path) -> None:
    early = FragmentStore(tmp_path / "fragments")
    undecided = generation(8)["trunk.0"]
    early.put(undecided.theta_hash, undecided.theta, sync=False)
    early.put(undecided.momentum_hash, undecided.momentum, sync=False)

    async def scenario(keeper: FragmentKeeper, store: WatchedStore, said: list[str]) -> None:
        keeper.note(generation(7), complete=True)  # the commit that it was stopped at
        await soon(lambda: store.has(generation(7)))
        assert store.has({"trunk.0": undecided})
        keeper.note(generation(9), complete=True)
        await soon(lambda: not store.has({"trunk.0": undecided}))

    play(tmp_path, scenario)


def test_a_shadow_that_the_disk_has_no_room_for_is_said_and_stops_nothing(tmp_path: Path) -> None:
    async def scenario(keeper: FragmentKeeper, store: WatchedStore, said: list[str]) -> None:
        await asyncio.sleep(0)  # the keeper runs
        store.failure = SwarmError(Code.DISK_FULL, "no space")
        for number in (1, 2):
            await asyncio.to_thread(keeper.keep_shadow, generation(number))
        await soon(lambda: len(said) == 1)
        store.failure = None
        await asyncio.to_thread(keeper.keep_shadow, generation(3))
        await soon(lambda: len(said) == 2)
        assert "DISK_FULL" in said[0] and "works again" in said[1]

    play(tmp_path, scenario)
