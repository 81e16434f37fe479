"""Connections that are being replaced: calls wait for the new one, and go out again if broken.

async with changes.of(peer): ...            # the old connection goes, a new one comes
await changes.settled(peer, deadline_s)     # before a call
changes.broke(peer, began_s)                # after one that failed: is it to be made again?
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

from swarm.aio import in_time

MAX_REMEMBERED = 1024  # any peer may announce that it will replace its connection


class Changes:
    """Of one p2pd; see the module docstring. Deadlines are of the monotonic clock."""

    def __init__(self) -> None:
        self._running: dict[str, asyncio.Event] = {}
        self._ended_s: dict[str, float] = {}  # of each peer's last one, the latest last

    @asynccontextmanager
    async def of(self, peer: str) -> AsyncIterator[None]:
        """For as long as the connection to `peer` is replaced."""
        change = self._running[peer] = asyncio.Event()
        try:
            yield
        finally:
            change.set()
            self._ended_s.pop(peer, None)
            self._ended_s[peer] = time.monotonic()
            if len(self._ended_s) > MAX_REMEMBERED:
                del self._ended_s[next(iter(self._ended_s))]
            if self._running.get(peer) is change:
                del self._running[peer]

    async def settled(self, peer: str, deadline_s: float) -> None:
        """Wait until no connection to `peer` is being replaced, or the deadline is over."""
        change = self._running.get(peer)
        if change is not None:
            with suppress(asyncio.TimeoutError):
                await in_time(change.wait(), max(0.0, deadline_s - time.monotonic()))

    def broke(self, peer: str, began_s: float) -> bool:
        """Whether a call that began then may have failed because its connection was replaced."""
        return peer in self._running or self._ended_s.get(peer, 0.0) > began_s
