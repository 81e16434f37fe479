"""The dashboard on a terminal, and without one: reads a node or a recording, draws, takes keys."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

from rich.console import Console
from rich.live import Live

from node.control_client import ControlClient
from node.dashboard.keys import press, typed
from node.dashboard.recording import Player, Recording
from node.dashboard.snapshot import Folder, Snapshot
from node.dashboard.view import View, render
from swarm.errors import Code, SwarmError
from swarm.wire.node_pb2 import Look

ANSWER_LIMIT = timedelta(seconds=2)  # while it waits, keys are not read
KEY_WAIT_S = 0.25
NO_ANSWER = (Code.NODE_NOT_RUNNING, Code.STAGE_TIMEOUT)


class Watched:
    """A running node: asks it for what is new, at most once in `every_s`.

    Errors as `ControlClient.status` when it is not there at the beginning.
    """

    def __init__(self, directory: Path, every_s: float, record: Recording | None) -> None:
        self._control = ControlClient(directory, ANSWER_LIMIT)
        self._every_s = every_s
        self._record = record
        self._folder = Folder()
        self._pid = 0
        self._last_line = 0
        self._due_s = 0.0
        self.snapshot = self._look()

    def __enter__(self) -> Watched:
        return self

    def __exit__(self, *exception: object) -> None:
        self._control.close()

    def refresh(self) -> None:
        """Bring `snapshot` up to date when that is due; a node that is gone leaves its last."""
        if time.monotonic() < self._due_s:
            return
        try:
            self.snapshot = self._look()
        except SwarmError as error:
            if error.code not in NO_ANSWER:
                raise
            self._control.close()  # a connection that has failed waits ever longer to try again
            self._control = ControlClient(self._control.directory, ANSWER_LIMIT)
            self.snapshot = self._add(Look(at_ms=_now_ms()))

    def _look(self) -> Snapshot:
        self._due_s = time.monotonic() + self._every_s
        status = self._control.status()
        if status.pid != self._pid:
            self._pid, self._last_line = status.pid, 0
        rounds = self._control.history(self._folder.last_round)
        lines = self._control.log(self._last_line)
        self._last_line = max([self._last_line, *(line.number for line in lines)])
        return self._add(Look(at_ms=_now_ms(), status=status, rounds=rounds, log=lines))

    def _add(self, look: Look) -> Snapshot:
        if self._record is not None:
            self._record.add(look)
        return self._folder.add(look)


def watch(
    directory: Path, console: Console, view: View, every_s: float, record: Recording | None
) -> None:
    """Show a running node until the user leaves; errors as `ControlClient.status` at the start."""
    with Watched(directory, every_s, record) as node:
        held: list[Snapshot] = []

        def step(view: View) -> tuple[Snapshot, View]:
            node.refresh()
            if not view.held:
                held[:] = [node.snapshot]
            return held[0], view

        _show(console, view, step)


def follow(directory: Path, every_s: float, record: Recording, seconds: float | None) -> Snapshot:
    """Record without showing anything, for so many seconds or until interrupted."""
    with Watched(directory, every_s, record) as node:
        end = time.monotonic() + seconds if seconds is not None else None
        while end is None or time.monotonic() < end:
            time.sleep(min(every_s, KEY_WAIT_S))
            node.refresh()
        return node.snapshot


def glance(directory: Path) -> Snapshot:
    """One look at a running node. Errors as `ControlClient.status`."""
    with Watched(directory, 0.0, None) as node:
        return node.snapshot


def play(player: Player, console: Console, view: View) -> None:
    """Show a recording until the user leaves; `view` has the slider."""
    last_s = time.monotonic()

    def step(view: View) -> tuple[Snapshot, View]:
        nonlocal last_s
        passed_ms = round(1000 * (time.monotonic() - last_s))
        last_s = time.monotonic()
        slider = view.slider
        assert slider is not None
        if slider.playing:
            slider = slider.to(slider.at_ms + passed_ms)
        return player.at(slider.at_ms), replace(view, slider=slider)

    _show(console, view, step)


def _show(console: Console, view: View, step: Callable[[View], tuple[Snapshot, View]]) -> None:
    with typed() as keys, Live(console=console, screen=True, auto_refresh=False) as live:
        while True:
            snapshot, view = step(view)
            live.update(render(snapshot, view, *console.size), refresh=True)
            for key in keys(KEY_WAIT_S):
                after = press(view, key)
                if after is None:
                    return
                view = after


def recording_to(path: Path | None) -> AbstractContextManager[Recording | None]:
    """A recording to `path`, or none."""
    return Recording(path) if path is not None else nullcontext()


def _now_ms() -> int:
    return round(1000 * time.time())
