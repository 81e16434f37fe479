"""What this node gave to others since an update of its last counted, for the run's tallies."""

from __future__ import annotations

from collections.abc import Callable


class Giving:
    """`totals` gives the bytes served and relayed since the daemon's start; both only grow."""

    def __init__(self, totals: Callable[[], tuple[int, int]]) -> None:
        self._totals = totals
        self._counted = (0, 0)
        self._said = (0, 0)

    def since_counted(self) -> tuple[int, int]:
        """Bytes served and relayed since the last round that counted."""
        self._said = self._totals()
        return self._said[0] - self._counted[0], self._said[1] - self._counted[1]

    def counted(self) -> None:
        """A commit has what was said last."""
        self._counted = self._said
