"""The last lines that a daemon reported, for those who ask over the control API."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable

from swarm.wire import node_pb2

KEPT_LINES = 1000


class EventLog:
    """Passes each line on to `report` and keeps the newest `KEPT_LINES`."""

    def __init__(self, report: Callable[[str], None]) -> None:
        self._report = report
        self._lines: deque[node_pb2.LogLine] = deque(maxlen=KEPT_LINES)
        self._count = 0

    def __call__(self, text: str) -> None:
        """Report a line."""
        self._count += 1
        at_ms = round(1000 * time.time())
        self._lines.append(node_pb2.LogLine(number=self._count, at_ms=at_ms, text=text))
        self._report(text)

    def after(self, number: int) -> list[node_pb2.LogLine]:
        """The kept lines with a higher number, oldest first."""
        return [line for line in self._lines if line.number > number]
