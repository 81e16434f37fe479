"""Who is at the boundary of a round, who is late, and who is dead: the leader's roll-call."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Collection, Iterable
from statistics import median
from typing import TYPE_CHECKING

from swarm.collective.context import READY_INTERVAL
from swarm.collective.offers import awaited_peers
from swarm.collective.standing import Standing
from swarm.wire import collective_pb2 as pb

if TYPE_CHECKING:
    from swarm.collective.member import RoundMember

SETTLE_S = 1.5  # a founding waits so long for one more peer
POLL_S = 0.5


def straggler_deadline_s(spreads: Collection[float], floor_s: float, ceiling_s: float) -> float:
    """How long to wait for live peers after the first was ready: median + 3 MAD of past rounds.

    `spreads`: seconds between the first and the last arrival of earlier rounds. With fewer than
    three of them the ceiling holds. Source: hivemind issue 676.
    """
    if len(spreads) < 3:
        return ceiling_s
    middle = median(spreads)
    deviation = median(abs(s - middle) for s in spreads)
    return min(max(middle + 3 * deviation + floor_s, floor_s), ceiling_s)


class Attendance:
    """The roll-call of the round after `key` = (commit id, round).

    Attributes:
        ready: the newest Ready of each peer that sent one.
        standing: who is out of the round, and why.
    """

    def __init__(self, member: RoundMember, key: tuple[bytes, int]) -> None:
        self.ready: dict[str, pb.Ready] = {}
        self.standing = Standing(dead={p: "left" for p in member.ledger.resignations})
        self._member = member
        self._key = key
        self._arrived: dict[str, float] = {}
        self._changed = asyncio.Condition()

    def note(self, sender: str, ready: pb.Ready) -> None:
        """A peer is at the round's boundary; repeated calls show that it is alive."""
        now = self._member.context.clock()
        self._arrived.setdefault(sender, now)
        self.ready[sender] = ready
        self._member.heard[sender] = now
        self.standing.dead.pop(sender, None)
        self._member.spawn(self.notify())

    def note_resignation(self, peer: str) -> None:
        """A member left in good order."""
        self.standing.dead[peer] = "left"
        self._member.spawn(self.notify())

    async def notify(self) -> None:
        """Wake whoever waits for a change."""
        async with self._changed:
            self._changed.notify_all()

    async def wait_change(self) -> None:
        """Wait for a change, or a moment."""
        async with self._changed:
            try:
                await asyncio.wait_for(self._changed.wait(), POLL_S)
            except asyncio.TimeoutError:
                return

    def open(self) -> bool:
        """True while the round is not decided here."""
        ledger = self._member.ledger
        return self._key == (ledger.commit_id, ledger.next_round)

    @property
    def founding(self) -> bool:
        """True when there is no commit yet."""
        return self._member.ledger.record is None

    def roster(self) -> list[str]:
        """Who decides the round: the members; before the first commit, who asks to found."""
        if self.founding:
            return sorted(p for p in self.ready if p not in self.standing.dead)
        return self._member.roster()

    async def collect(self) -> None:
        """Wait for everybody who lives, at most until the adaptive deadline.

        The deadline runs from the first update that is offered: somebody who only asks to enter
        must not cut short the training of the others.
        """
        clock, dead = self._member.context.clock, self.standing.dead
        while self.open():
            roster = self.roster()
            if self.founding:
                if await self._founders_are_complete(roster):
                    return
            else:
                await self.bury(p for p in roster if p not in self.ready)
                previous, policy = self._member.ledger.record, self._member.context.policy
                if not awaited_peers(self.ready, roster, dead, previous, policy):
                    return
                offered = self._offer_times()
                if offered and clock() - min(offered) > self._deadline_s():
                    return
            await self.wait_change()

    async def _founders_are_complete(self, roster: list[str]) -> bool:
        context = self._member.context
        newest = max(self._arrived.values(), default=context.clock())
        known = await context.directory.records()
        settled = set(known) <= set(self.ready) or context.clock() - newest > SETTLE_S
        return len(roster) >= context.manifest.membership.min_peers and settled

    def _offer_times(self) -> list[float]:
        return [self._arrived[p] for p, ready in self.ready.items() if ready.contributions]

    def spread_s(self) -> float | None:
        """Seconds between the first and the last offer; None without offers."""
        offered = self._offer_times()
        return max(offered) - min(offered) if offered else None

    def _deadline_s(self) -> float:
        member, timeouts = self._member, self._member.timeouts
        intervals = [b - a for a, b in itertools.pairwise(member.commit_times)]
        floor_s = max(2 * timeouts.heartbeat_s, median(intervals) / 4 if intervals else 0.0)
        return straggler_deadline_s(member.arrival_spreads, floor_s, timeouts.round_s)

    async def bury(self, peers: Iterable[str]) -> None:
        """Ping peers that were not heard of for a while; note those that are dead."""
        member, dead = self._member, self.standing.dead
        horizon = member.context.clock() - member.timeouts.heartbeat_s / 2
        resigned = {member.me, *member.ledger.resignations}
        silent = [p for p in peers if member.heard.get(p, 0.0) < horizon and p not in resigned]
        answers = await asyncio.gather(*(member.alive(p) for p in silent))
        for peer, alive in zip(silent, answers, strict=True):
            if alive:
                dead.pop(peer, None)
            else:
                dead[peer] = "does not answer"

    def living_joiners(self) -> list[str]:
        """Peers whose Ready is fresh."""
        patience_s = max(self._member.timeouts.heartbeat_s, 2.5 * READY_INTERVAL.total_seconds())
        horizon = self._member.context.clock() - patience_s
        return [p for p in self.ready if self._member.heard.get(p, 0.0) >= horizon]
