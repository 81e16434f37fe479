"""Stopping a daemon: every part gets its chance, and the whole is over in ten seconds.

The worker may be in the middle of a step, the other peers may be gone, the disk full, and standard
output closed; none of that may keep the next part from being stopped.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Coroutine
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from node.daemon_status import State
from swarm.errors import SwarmError

if TYPE_CHECKING:
    from node.daemon import Daemon

# Each above what its part allows itself; the parts of a stage run at once.
LEAVE_LIMIT = timedelta(seconds=5.5)
CLOSE_LIMIT = timedelta(seconds=2.5)
CANCEL_WAIT = timedelta(seconds=0.5)
Report = Callable[[str], None]


async def finish(daemon: Daemon) -> None:
    """Save and leave. Never raises; what went wrong is reported."""
    daemon.status.report = report = quietly(daemon.status.report)
    daemon.status.enter(State.FINISHING, "saving and leaving")
    await asyncio.gather(
        within(LEAVE_LIMIT, "leaving the roster", _leave_roster(daemon), report),
        within(LEAVE_LIMIT, "ending the worker", daemon.training.stop(), report),
    )
    stop_serving = asyncio.to_thread(daemon.data_plane.stop)
    await asyncio.gather(
        within(CLOSE_LIMIT, "saving the fragments", daemon.keeper.finish(), report),
        within(CLOSE_LIMIT, "leaving the network", _leave_network(daemon), report),
        within(CLOSE_LIMIT, "closing the data plane", stop_serving, report),
        within(CLOSE_LIMIT, "counting the traffic", asyncio.to_thread(daemon.daily.save), report),
    )
    daemon.buffers.close()
    daemon.status.enter(State.STOPPED, "")


async def _leave_roster(daemon: Daemon) -> None:
    if daemon.member is not None:
        try:
            await daemon.member.resign()
        finally:
            await daemon.member.close()


async def _leave_network(daemon: Daemon) -> None:
    if daemon.network is not None:
        await daemon.network.shutdown()


async def within(
    limit: timedelta, what: str, work: Coroutine[Any, Any, None], report: Report
) -> None:
    """Run one part of a stop. When it fails or hangs, that is reported and the next one goes on."""
    task = asyncio.ensure_future(work)
    await asyncio.wait({task}, timeout=limit.total_seconds())
    if not task.done():
        task.cancel()
        report(f"warning: {what} took longer than {limit.total_seconds():g} s")
        await asyncio.wait({task}, timeout=CANCEL_WAIT.total_seconds())
    elif not task.cancelled() and (error := task.exception()) is not None:
        text = str(error) if isinstance(error, SwarmError) else f"{type(error).__name__}: {error}"
        report(f"warning: {what}: {text}")


def quietly(report: Report) -> Report:
    """The same without errors: standard output may be what broke."""

    def say(line: str) -> None:
        with contextlib.suppress(OSError, ValueError):
            report(line)

    return say
