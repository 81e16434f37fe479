"""Is this node alone? Judged from who answers (pure: clock and randomness are passed in).

    watch = IsolationWatch(my_id, random.Random())
    watch.expect(roster, contacts, now_s)        # who should be there
    for peer in watch.to_probe(now_s): ...       # ping it: watch.heard(...) or watch.missed(...)
    watch.look(now_s).company                    # TOGETHER, PARTED, ISOLATED or NOBODY

A live connection proves nothing: TCP keeps one for minutes after the other end has vanished. So
whoever was not heard of for `PROBE_AFTER_S` is pinged, and is silent after two pings in a row
without an answer. With the shell's limit of `PROBE_LIMIT_S` for a ping, a cut is noticed within
2 + 1 + 2.5 + 1 + 2.5 = 9 s. In a large swarm a random sample is watched instead of everybody.
"""

from __future__ import annotations

import enum
import random
from collections.abc import Collection
from dataclasses import dataclass

LOOK_EVERY_S = 1.0
PROBE_AFTER_S = 2.0
PROBE_LIMIT_S = 2.5
MISSES = 2  # pings in a row without an answer, after which a peer is silent
GONE_MISSES = 4  # after which its connection is not worth keeping
SAMPLE = 16  # peers that are watched at once; half of a roster shows in as many
STOOD_STILL_S = 3.0  # without a look: this machine slept, and nobody can be blamed for silence


class Company(str, enum.Enum):
    """Who is with this node."""

    NOBODY = "nobody"  # no other peer is known: the first one of a swarm
    TOGETHER = "together"
    PARTED = "parted"  # under half of the roster answers, or no other member of it
    ISOLATED = "isolated"  # no peer answers


@dataclass(frozen=True)
class View:
    """What a look showed; times are in seconds of the caller's monotonic clock."""

    company: Company = Company.NOBODY
    since_s: float = 0.0
    answering: int = 0
    watched: int = 0
    alone: bool = False  # there is a roster, and no other member of it answers

    @property
    def cut_off(self) -> bool:
        """Whether to look for a way back, and to train on no further."""
        return self.company in (Company.PARTED, Company.ISOLATED)

    def reason(self) -> str:
        """The view in words, for people."""
        if self.company is Company.NOBODY:
            return "no other peer is known"
        counted = f"{self.answering} of {self.watched} watched peers"
        if self.company is Company.ISOLATED:
            return f"isolated: {counted} answer"
        if self.company is Company.PARTED:
            return f"parted from most of the roster: {counted} answer"
        return f"{counted} answer"


@dataclass
class _Watched:
    heard_s: float
    misses: int = 0
    asked: bool = False  # a ping is under way

    @property
    def silent(self) -> bool:
        return self.misses >= MISSES


class IsolationWatch:
    """See the module docstring."""

    def __init__(self, own_id: str, rng: random.Random) -> None:
        self._own_id = own_id
        self._rng = rng
        self._watched: dict[str, _Watched] = {}
        self._roster: frozenset[str] = frozenset()
        self._view = View()
        self._looked_s: float | None = None

    def expect(self, roster: Collection[str], others: Collection[str], now_s: float) -> None:
        """Name the members of the run, and other peers that are known; this one may be in both.

        Who is new counts as heard of now. `others` are watched only in the places that members
        leave free, so strangers can not drown out the roster.
        """
        self._roster = frozenset(roster) - {self._own_id}
        wanted = self._pick(self._roster, SAMPLE)
        wanted |= self._pick(
            frozenset(others) - self._roster - {self._own_id}, SAMPLE - len(wanted)
        )
        for peer in [peer for peer in self._watched if peer not in wanted]:
            del self._watched[peer]
        for peer in wanted:
            self._watched.setdefault(peer, _Watched(now_s))

    def _pick(self, peers: frozenset[str], room: int) -> set[str]:
        """At most `room` of the peers; those watched already are kept."""
        kept = sorted(peer for peer in self._watched if peer in peers)[:room]
        fresh = sorted(peers - set(kept))
        return {*kept, *self._rng.sample(fresh, min(len(fresh), room - len(kept)))}

    def heard(self, peer: str, now_s: float) -> None:
        """A message or an answer of `peer` came."""
        watched = self._watched.get(peer)
        if watched is not None:
            watched.heard_s, watched.misses, watched.asked = now_s, 0, False

    def missed(self, peer: str, asked_s: float) -> None:
        """A ping that was sent at `asked_s` was not answered in time."""
        watched = self._watched.get(peer)
        if watched is not None:
            watched.asked = False
            if watched.heard_s < asked_s:
                watched.misses += 1

    def to_probe(self, now_s: float) -> list[str]:
        """Peers to ping now; each is given once until `heard` or `missed` is called for it."""
        due = [
            peer
            for peer, watched in self._watched.items()
            if not watched.asked and now_s - watched.heard_s >= PROBE_AFTER_S
        ]
        for peer in due:
            self._watched[peer].asked = True
        return due

    def look(self, now_s: float) -> View:
        """Judge. To be called every `LOOK_EVERY_S`; a long gap forgives the silence before it."""
        if self._looked_s is not None and now_s - self._looked_s > STOOD_STILL_S:
            for watched in self._watched.values():
                watched.misses = 0
        self._looked_s = now_s
        answering = sum(not watched.silent for watched in self._watched.values())
        members = [watched for peer, watched in self._watched.items() if peer in self._roster]
        here = sum(not watched.silent for watched in members)
        alone = bool(members) and not here
        company = Company.TOGETHER
        if not self._watched:
            company = Company.NOBODY
        elif not answering:
            company = Company.ISOLATED
        elif alone or (members and 2 * (here + 1) < len(members) + 1):  # itself included
            company = Company.PARTED
        since_s = self._view.since_s if company is self._view.company else now_s
        self._view = View(company, since_s, answering, len(self._watched), alone)
        return self._view

    def silent(self) -> frozenset[str]:
        """Watched peers that do not answer, whatever connections to them may seem to exist."""
        return frozenset(peer for peer, watched in self._watched.items() if watched.silent)

    def gone(self) -> frozenset[str]:
        """Peers silent for so long that a connection to them is a dead one."""
        return frozenset(p for p, watched in self._watched.items() if watched.misses >= GONE_MISSES)


def changes(before: View, after: View, address_count: int) -> str:
    """The line to say when the view has changed; empty when there is nothing to say."""
    if after.cut_off and after.company is not before.company:
        return f"warning: {after.reason()}; dialling {address_count} known peers"
    if before.cut_off and not after.cut_off:
        lasted_s = max(0.0, after.since_s - before.since_s)
        return f"in touch again after {lasted_s:.0f} s: {after.reason()}"
    return ""
