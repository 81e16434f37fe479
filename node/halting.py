"""What members do while their run is paused, or when it has ended.

They still take part in rounds, in which nothing is trained: so a change that goes on reaches all of
them, newcomers enter, and whoever is gone leaves the roster.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

from node.daemon_status import State, Status
from node.run_changes import RunChanges
from swarm.collective.changes import in_effect
from swarm.collective.member import RoundMember
from swarm.errors import Code, SwarmError
from swarm.wire import collective_pb2 as pb

IDLE_ROUND_S = 5.0  # between two rounds of a paused run
LINGER_S = 5.0  # an ended node still tells the others that the run has ended
POLL_S = 0.2


def refuse_ended(record: pb.RoundRecord | None) -> None:
    """Raise `RUN_ENDED` when the newest commit that a node has is the end of its run."""
    if in_effect(record).ended:
        raise SwarmError(
            Code.RUN_ENDED,
            "the run has ended: its coordinator said so",
            "its model is still there: node assemble",
        )


async def halt(
    member: RoundMember,
    changes: RunChanges,
    status: Status,
    note: Callable[[], None],
    stop: Callable[[str], None],
) -> None:
    """Return when the run goes on; `note` is called after each idle round, `stop` at its end."""
    while changes.effect.paused and not changes.effect.ended:
        status.enter(State.JOINING, "the run is paused by its coordinator")
        await _until_round_is_due(member, changes)
        await member.run_round(None)
        note()
    if changes.effect.ended:
        status.enter(State.FINISHING, "the run has ended")
        await asyncio.sleep(LINGER_S)
        stop("the run has ended")


async def _until_round_is_due(member: RoundMember, changes: RunChanges) -> None:
    """Wait for the interval; less when there is a change to agree on, or somebody asks to lead."""
    commit, deadline = member.ledger.commit_id, time.monotonic() + IDLE_ROUND_S
    while time.monotonic() < deadline and member.ledger.commit_id == commit:
        asked = member.leader is not None and not member.leader.finished
        if changes.waiting or asked:
            return
        await asyncio.sleep(POLL_S)
