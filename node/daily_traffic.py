"""How much bulk data this node moved today, also in its earlier lives.

traffic = DailyTraffic(directory, lambda: bytes_moved_by_this_process)
traffic.today(date.today())         # bytes, both directions together
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable
from datetime import date
from pathlib import Path

from swarm.errors import SwarmError
from swarm.files import write_atomic

FILE_NAME = "traffic.json"
SAVE_EVERY_BYTES = 10**6


class DailyTraffic:
    """See the module docstring. A kill forgets at most `SAVE_EVERY_BYTES`."""

    def __init__(self, directory: Path, moved: Callable[[], int]) -> None:
        self._path = directory / FILE_NAME
        self._moved = moved
        self._day, self._bytes = _read(self._path)
        self._counted = self._saved = moved()

    def today(self, day: date) -> int:
        """Bytes so far."""
        moved = self._moved()
        if day != self._day:
            self._day, self._bytes = day, 0
        self._bytes += moved - self._counted
        self._counted = moved
        if moved - self._saved >= SAVE_EVERY_BYTES:
            with contextlib.suppress(SwarmError):  # a full disk is no reason to count wrongly
                self.save()
        return self._bytes

    def save(self) -> None:
        """Write the count. Raises `DISK_FULL` or `DIR_NOT_WRITABLE`."""
        self._saved = self._counted
        content = {"day": self._day.isoformat(), "bytes": self._bytes}
        write_atomic(self._path, json.dumps(content).encode(), sync=False)


def _read(path: Path) -> tuple[date, int]:
    """What was saved; nothing where that can not be read."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        return date.fromisoformat(content["day"]), int(content["bytes"])
    except (OSError, ValueError, KeyError, TypeError):
        return date.min, 0
