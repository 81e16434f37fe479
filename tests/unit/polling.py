"""Waiting for what another thread or task does, with a deadline instead of a sleep."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

POLL_S = 0.005


def until(condition: Callable[[], object], limit_s: float = 10.0) -> None:
    """Block until it holds. Not for coroutines: see `soon`."""
    deadline_s = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < deadline_s, f"not within {limit_s} s"
        time.sleep(POLL_S)


async def soon(condition: Callable[[], object], limit_s: float = 20.0) -> None:
    """As `until`, and the other tasks go on meanwhile."""
    deadline_s = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < deadline_s, f"not within {limit_s} s"
        await asyncio.sleep(POLL_S)
