"""How a daemon stops: every part gets its chance, whatever fails or hangs."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from daemon_parts import UNREACHABLE, daemon_in

import node.ending
from node.daemon import Daemon
from node.tasks import uninterrupted


class Parts:
    """Stand-ins for what a daemon stops, each failing in its own way."""

    def __init__(self, failure: Exception | None = None, hang: bool = False) -> None:
        self.failure = failure
        self.hang = hang
        self.stopped: list[str] = []

    def part(self, name: str) -> Callable[[], Any]:
        async def stop() -> None:
            self.stopped.append(name)
            if self.hang:
                await asyncio.sleep(3600)
            if self.failure is not None:
                raise self.failure

        return stop

    def into(self, daemon: Daemon) -> None:
        member = SimpleNamespace(resign=self.part("resign"), close=self.part("close"))
        daemon.member = member  # type: ignore[assignment]
        daemon.training.stop = self.part("worker")  # type: ignore[method-assign]
        daemon.keeper.finish = self.part("keeper")  # type: ignore[method-assign]
        daemon.network = SimpleNamespace(shutdown=self.part("network"))  # type: ignore[assignment]
        closing = daemon.data_plane.stop

        def stop_plane() -> None:
            self.stopped.append("plane")
            closing()
            if self.failure is not None:
                raise self.failure

        daemon.data_plane.stop = stop_plane  # type: ignore[method-assign]


ALL = {"resign", "close", "worker", "keeper", "network", "plane"}


@pytest.mark.parametrize(
    "failure", [OSError("broken"), UNREACHABLE, RuntimeError("a defect"), asyncio.TimeoutError()]
)
def test_what_fails_while_stopping_does_not_keep_the_rest_from_being_stopped(
    failure: Exception, tmp_path: Path
) -> None:
    def broken_output(line: str) -> None:
        said.append(line)
        raise BrokenPipeError

    said: list[str] = []
    daemon = daemon_in(tmp_path, broken_output)
    parts = Parts(failure)
    parts.into(daemon)
    asyncio.run(node.ending.finish(daemon))
    assert set(parts.stopped) == ALL
    assert sum(line.startswith("warning") for line in said) == 5
    assert daemon.status.state.value == "STOPPED"


def test_a_stop_in_which_everything_hangs_is_bounded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    limits = (node.ending.LEAVE_LIMIT, node.ending.CLOSE_LIMIT, 2 * node.ending.CANCEL_WAIT)
    assert sum(limits, timedelta()) < timedelta(seconds=10)
    monkeypatch.setattr(node.ending, "LEAVE_LIMIT", timedelta(seconds=0.2))
    monkeypatch.setattr(node.ending, "CLOSE_LIMIT", timedelta(seconds=0.2))
    said: list[str] = []
    daemon = daemon_in(tmp_path, said.append)
    parts = Parts(hang=True)
    parts.into(daemon)
    started = time.monotonic()
    asyncio.run(node.ending.finish(daemon))
    assert time.monotonic() - started < 5
    assert set(parts.stopped) == ALL
    assert sum("took longer" in line for line in said) == 4


def test_a_second_request_to_stop_does_not_cut_the_first_one_short() -> None:
    done = []

    async def clean_up() -> None:
        await asyncio.sleep(0.05)
        done.append(1)

    async def main() -> None:
        task = asyncio.create_task(uninterrupted(clean_up()))
        for _ in range(3):
            await asyncio.sleep(0.005)
            task.cancel()
        await task

    asyncio.run(main())
    assert done == [1]
