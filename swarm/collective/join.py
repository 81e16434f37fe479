"""Entering a swarm, founding one, and finding back to the better history.

    await join(member)                       # returns when this peer is in the roster and level
    task = member.spawn(watch_branches(member, every))

A newcomer adopts the newest commit that live peers have, downloads what it lacks, and asks the
round's leader to enter the roster; it contributes from the next round on. Where nobody has a
commit, the known peers found the run together, unanimously.
"""

from __future__ import annotations

import asyncio
import contextlib
from datetime import timedelta
from typing import TYPE_CHECKING

from swarm.errors import SwarmError

if TYPE_CHECKING:
    from swarm.collective.member import RoundMember


def in_roster(member: RoundMember) -> bool:
    """True when the newest commit counts this peer as a member."""
    record = member.ledger.record
    return record is not None and member.me in record.roster


async def discover(member: RoundMember) -> bool:
    """Adopt the best commit that live peers claim; True when a claim was better than ours."""
    records = await member.context.directory.records()
    return bool(records) and await member.look_into(records)


async def join(member: RoundMember) -> None:
    """Enter the roster. Cancel it to give up; a swarm without a majority makes it wait."""
    await discover(member)
    while True:
        await member.resync()
        if in_roster(member):
            return
        await member.run_round(None)


async def watch_branches(member: RoundMember, every: timedelta) -> None:
    """Keep looking for a better history; adopting it notifies whoever waits on `changed`."""
    while True:
        await asyncio.sleep(every.total_seconds())
        with contextlib.suppress(SwarmError):  # an unreachable DHT is looked at again
            await discover(member)
