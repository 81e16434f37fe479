"""What asyncio lacks in Python 3.10 and 3.11: a limit of time that never loses a cancellation."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import TypeVar

T = TypeVar("T")


async def in_time(work: Awaitable[T], limit_s: float) -> T:
    """Await `work` for at most `limit_s` seconds. Raises `asyncio.TimeoutError` then.

    `asyncio.wait_for` swallows a cancellation that comes in the same turn of the event loop in
    which `work` ends (before Python 3.12), so an endless task that is cancelled there goes on, and
    whoever waits for its end waits for ever. ruff refuses `wait_for` for that reason.
    """
    task = asyncio.ensure_future(work)
    try:
        await asyncio.wait({task}, timeout=limit_s)
    except asyncio.CancelledError:
        await _end(task)
        raise
    if task.done():
        return task.result()
    await _end(task)
    if task.cancelled():
        raise asyncio.TimeoutError
    return task.result()  # it ended, well or badly, instead of being cancelled


async def _end(task: asyncio.Future[T]) -> None:
    """Cancel and let it clean up; what it raises meanwhile is nobody's any more."""
    task.cancel()
    await asyncio.wait({task})
    if not task.cancelled():
        task.exception()
