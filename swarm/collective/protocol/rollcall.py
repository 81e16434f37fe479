"""Who is at the boundary of a round, who is late, and who is dead: the leader's roll-call."""

from __future__ import annotations

import itertools
from collections.abc import Collection, Iterable
from statistics import median
from typing import TYPE_CHECKING

from swarm.collective.changes import in_effect
from swarm.collective.context import READY_INTERVAL
from swarm.collective.offers import awaited_peers
from swarm.collective.standing import Standing
from swarm.wire import collective_pb2 as pb

if TYPE_CHECKING:
    from swarm.collective.protocol.machine import PeerMachine

SETTLE_S = 1.5  # a founding waits so long for one more peer


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


class RollCall:
    """The roll-call of the round after `key` = (commit id, round).

    Attributes:
        ready: the newest Ready of each peer that sent one.
        standing: who is out of the round, and why.
    """

    def __init__(self, peer: PeerMachine, key: tuple[bytes, int]) -> None:
        self.ready: dict[str, pb.Ready] = {}
        self.standing = Standing(dead={p: "left" for p in peer.memory.resignations})
        self._peer = peer
        self._key = key
        self._arrived: dict[str, float] = {}
        self._doubted: set[str] = set()  # was found dead, and is being probed again
        self._confirmed: set[str] = set()  # was found dead again, before the next attempt
        self._asked_at: dict[str, float] = {}  # whether it knows that the round is decided

    def note(self, sender: str, ready: pb.Ready) -> None:
        """A peer is at the round's boundary; repeated calls show that it is alive."""
        self._arrived.setdefault(sender, self._peer.now)
        self.ready[sender] = ready
        self._peer.health.heard_from(sender)
        self.standing.dead.pop(sender, None)
        self._doubted.discard(sender)

    def again(self) -> None:
        """The next attempt is being prepared: who is dead may be back."""
        self._confirmed.clear()

    @property
    def open(self) -> bool:
        """True while the round is not decided here."""
        return self._key == self._peer.open_key

    @property
    def founding(self) -> bool:
        """True when there is no commit yet."""
        return self._peer.memory.record is None

    def roster(self) -> list[str]:
        """Who decides the round: the members; before the first commit, who asks to found."""
        if self.founding:
            return sorted(p for p in self.ready if p not in self.standing.dead)
        return list(self._peer.roster)

    def complete(self) -> bool:
        """True when everybody is here who lives, or the adaptive deadline has passed.

        The deadline runs from the first update that is offered: somebody who only asks to enter
        must not cut short the training of the others. After it, too, doubts are settled first:
        whether a majority lives decides who is asked.
        """
        if self.founding:
            return self._founders_are_complete()
        peer, dead = self._peer, self.standing.dead
        roster = peer.roster
        unsure = {*(dead.keys() - peer.memory.gone), *self._doubted}
        self.bury(p for p in roster if p not in self.ready or p in unsure)
        sure = {p: ready for p, ready in self.ready.items() if p not in self._doubted}
        if not awaited_peers(sure, roster, dead, peer.memory.record, peer.setup.policy):
            return True
        since = self._offer_times() or self._idle_times()
        if not since:
            return False
        deadline = min(since) + self._deadline_s()
        self._peer.wake_by(deadline)
        return self._peer.now >= deadline and not self._doubted

    def _founders_are_complete(self) -> bool:
        peer = self._peer
        settled_at = max(self._arrived.values(), default=peer.now) + SETTLE_S
        peer.wake_by(settled_at)
        settled = set(peer.known) <= set(self.ready) or peer.now >= settled_at
        return len(self.roster()) >= peer.setup.manifest.membership.min_peers and settled

    def _offer_times(self) -> list[float]:
        return [self._arrived[p] for p, ready in self.ready.items() if ready.contributions]

    def _idle_times(self) -> list[float]:
        """When members came that have nothing to offer, as nobody trains in a paused run.

        Without a deadline one that hangs, but answers, would keep the run paused for ever.
        """
        effect = in_effect(self._peer.memory.record)
        if not (effect.paused or effect.ended):
            return []
        return [self._arrived[p] for p, ready in self.ready.items() if not ready.joining]

    def spread_s(self) -> float | None:
        """Seconds between the first and the last offer; None without offers."""
        offered = self._offer_times()
        return max(offered) - min(offered) if offered else None

    def _deadline_s(self) -> float:
        peer, timeouts = self._peer, self._peer.setup.timeouts
        intervals = [b - a for a, b in itertools.pairwise(peer.history.commit_times)]
        floor_s = max(2 * timeouts.heartbeat_s, median(intervals) / 4 if intervals else 0.0)
        return straggler_deadline_s(peer.arrival_spreads, floor_s, timeouts.round_s)

    def bury(self, peers: Iterable[str], silence_s: float | None = None) -> None:
        """Probe peers that were not heard of for `silence_s`; note those that are dead.

        One that was found dead longer ago is doubted until its probe has ended: it may be back.
        That is asked once for each attempt, so that two who are probed by turns hold up none.
        """
        health, dead, now = self._peer.health, self.standing.dead, self._peer.now
        silence_s = min(health.silence_s, silence_s or health.silence_s)
        gone = self._peer.memory.gone
        for peer in peers:
            if peer == self._peer.setup.me or (peer in gone and peer in dead):
                self._doubted.discard(peer)
                continue
            silent_at = health.last_heard(peer) + silence_s
            if now < silent_at:
                self._peer.wake_by(silent_at)
                if health.is_dead(peer):  # since it was heard of
                    dead.setdefault(peer, "does not answer")
                else:
                    self._revive(peer)
                continue
            alive = health.check(peer, now - silence_s)
            if alive is None:
                # It may know that the round is decided. A call that is refused fails at once, and
                # its end is an event, after which this is come by again.
                if peer not in self.ready and now >= self._asked_at.get(peer, -1e9) + silence_s:
                    self._asked_at[peer] = now
                    self._peer.history.catch_up(peer)
                stale = not health.is_dead(peer) and peer not in self._confirmed
                if peer in dead and stale:
                    del dead[peer]
                    self._doubted.add(peer)
                continue
            self._doubted.discard(peer)
            self._peer.wake_by(now + silence_s)
            if alive:
                self._revive(peer)
            else:
                dead[peer] = "does not answer"
                self._confirmed.add(peer)

    def _revive(self, peer: str) -> None:
        """A sign of life."""
        self._doubted.discard(peer)
        if peer not in self._peer.memory.gone:
            self.standing.dead.pop(peer, None)

    def living_joiners(self) -> list[str]:
        """Peers whose Ready is fresh, and newcomers that asked a moment ago."""
        interval_s = READY_INTERVAL.total_seconds()
        patience_s = max(self._peer.setup.timeouts.heartbeat_s, 2.5 * interval_s)
        horizon = self._peer.now - patience_s
        fresh = [p for p in self.ready if self._peer.health.last_heard(p) >= horizon]
        petitions = self._peer.boundary.petitions.items()
        return sorted({*fresh, *(p for p, (_, until) in petitions if until >= self._peer.now)})

    def said(self) -> dict[str, pb.Ready]:
        """The newest Ready of each peer; of a newcomer that asked before this round, what it is."""
        petitions = self._peer.boundary.petitions.items()
        return {p: word for p, (word, _) in petitions} | self.ready
