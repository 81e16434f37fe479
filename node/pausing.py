"""A pause: the training process gives its memory back, and the swarm goes on without this node.

The daemon stays: it answers the others and serves the fragments that it has, as far as they are
still the newest. It follows the commits, but downloads nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
from datetime import timedelta
from typing import TYPE_CHECKING

from node.daemon_status import State
from node.training_link import until_changed
from swarm.aio import in_time
from swarm.collective.join import in_roster
from swarm.collective.member import RoundMember

if TYPE_CHECKING:
    from node.daemon import Daemon

RESIGN_AGAIN = timedelta(seconds=5)


async def rest(daemon: Daemon, member: RoundMember) -> None:
    """Pause until the governor allows training again."""

    def say(reason: str) -> None:
        daemon.status.enter(State.PAUSED, reason)

    say(daemon.governor.verdict.reason)
    leaving = asyncio.create_task(_leave(member))
    try:
        await daemon.training.rest()
        await daemon.governor.until_allowed(say)
    finally:
        leaving.cancel()
        await asyncio.gather(leaving, return_exceptions=True)
        member.stay()


async def _leave(member: RoundMember) -> None:
    """Give up the place in the roster, so that no round waits for this node.

    The last of all members keeps it, and so does, for this round, one who gave its word in it.
    """
    while in_roster(member):
        commit_id = member.ledger.commit_id
        await member.resign()
        with contextlib.suppress(asyncio.TimeoutError):
            await in_time(until_changed(member, commit_id), RESIGN_AGAIN.total_seconds())
