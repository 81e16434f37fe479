"""Shows snapshots: a live view on a terminal, lines of what is new anywhere else."""

from __future__ import annotations

import sys
import time
from typing import TextIO

from rich.console import Console
from rich.live import Live

from node.swarm_view import Snapshot, plain_lines, render


class Screen:
    """Use as a context manager; `show` a snapshot as often as there is one, `say` a line between.

    `plain` forces lines; without a terminal they are used anyway. With `quiet` nothing is shown.
    """

    def __init__(
        self, *, plain: bool = False, quiet: bool = False, stream: TextIO | None = None
    ) -> None:
        self.console = Console(file=stream or sys.stdout, highlight=False, quiet=quiet)
        self._plain = plain or not self.console.is_terminal
        self._live: Live | None = None
        self._last: Snapshot | None = None
        self._started = time.monotonic()

    def __enter__(self) -> Screen:
        return self

    def __exit__(self, *exception: object) -> None:
        self.freeze()

    def show(self, snapshot: Snapshot) -> None:
        """Draw the snapshot, or print what is new in it."""
        if self._plain:
            for line in plain_lines(self._last, snapshot):
                self.say(line)
        else:
            if self._live is None:
                self._live = Live(console=self.console, auto_refresh=False)
                self._live.start()
            self._live.update(render(snapshot), refresh=True)
        self._last = snapshot

    def freeze(self) -> None:
        """Leave the live view as it is; what follows is printed below it."""
        if self._live is not None:
            self._live.stop()
            self._live = None

    def say(self, line: str) -> None:
        """Print one line with the seconds since the start."""
        elapsed = time.monotonic() - self._started
        self.console.print(f"{elapsed:6.1f} s  {line}", markup=False, soft_wrap=True)
