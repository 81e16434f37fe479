"""Who is left out of a round, and why: the leader's judgement of reports. Pure.

    standing = Standing()
    suspects = standing.accused(reports, plan)         # to be pinged
    standing.judge(reports, plan, alive)               # updates `dead` and `excluded`

`dead` leave the roster with the round's commit; `excluded` live, but take no part in this round's
further attempts. An accusation only says that two peers could not finish something together, so
the one that most accusations touch is blamed, the accuser or the leader included.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

from swarm.wire import collective_pb2 as pb

PROVEN = {  # what a reducer saw itself, and a repetition would only repeat
    "NON_FINITE": "its update is not finite",
    "MESSAGE_MALFORMED": "it sent malformed data",
    "protocol error": "it did not keep to the protocol",
    "stalled": "its link moved nothing",
    "NORM_EXCEEDED": "its update is larger than it declared",
}
TOO_SLOW = "too slow"  # what a peer did that is waited for when the attempt's time is over
MAX_BLAME = 2  # attempts that a living peer may spoil
MAX_FAILURES = 3  # attempts that may fail at a peer without a suspect

Reports = Mapping[str, pb.Report]


def _accusations(reports: Reports, plan: pb.Plan) -> list[tuple[str, str, str]]:
    members = {m.peer for m in plan.members}
    return [
        (accuser, suspect.peer, suspect.reason)
        for accuser, report in sorted(reports.items())
        for suspect in report.suspects
        if suspect.peer in members and accuser in members
    ]


def _has_seen(accuser: str, peer: str, plan: pb.Plan) -> bool:
    """True when the plan makes `accuser` reduce something that `peer` contributes to."""
    return any(
        peer in fragment.contributors and accuser in {part.reducer for part in fragment.parts}
        for fragment in plan.fragments
    )


def _proven(accusations: list[tuple[str, str, str]], plan: pb.Plan) -> dict[str, str]:
    return {
        peer: PROVEN[why]
        for accuser, peer, why in accusations
        if why in PROVEN and _has_seen(accuser, peer, plan)
    }


@dataclass
class Standing:
    """See the module docstring."""

    dead: dict[str, str] = field(default_factory=dict)
    excluded: dict[str, str] = field(default_factory=dict)
    _blame: Counter[str] = field(default_factory=Counter)
    _failures: Counter[str] = field(default_factory=Counter)

    def mark(self) -> object:
        """Another value after a judgement that said something new."""
        counts = sorted(self._blame.items()), sorted(self._failures.items())
        return sorted(self.dead.items()), sorted(self.excluded.items()), counts

    def accused(self, reports: Reports, plan: pb.Plan) -> set[str]:
        """Peers that somebody else accuses, and of whom it matters whether they live."""
        accusations = _accusations(reports, plan)
        if _proven(accusations, plan):
            return set()
        return {peer for accuser, peer, _ in accusations if peer != accuser}

    def judge(self, reports: Reports, plan: pb.Plan, alive: Collection[str]) -> None:
        """Decide who is left out of the next attempt; `alive` are the accused that answer."""
        accusations = _accusations(reports, plan)
        proven = _proven(accusations, plan)
        if proven:  # whatever else broke, broke because of these
            self.excluded.update(proven)
            return
        mutual = [(a, peer, why) for a, peer, why in accusations if a != peer]
        late = Counter(peer for _, peer, why in mutual if why == TOO_SLOW)
        fallen = {peer: why for _, peer, why in mutual if peer not in alive}
        if fallen:
            self.dead.update(fallen)
            return
        if late:
            slowest = max(late, key=lambda peer: (late[peer], peer))
            self.excluded[slowest] = "missed the attempt's deadline"
            return
        if mutual:
            self._blame_one(mutual)
            return
        for peer, report in reports.items():
            if report.failure:
                self._failures[peer] += 1
                if self._failures[peer] >= MAX_FAILURES:
                    self.excluded[peer] = f"its attempts fail: {report.failure[:100]}"

    def _blame_one(self, accusations: list[tuple[str, str, str]]) -> None:
        edges = {frozenset((accuser, peer)) for accuser, peer, _ in accusations}
        degree = Counter(peer for edge in edges for peer in edge)
        times_accused = Counter(peer for _, peer, _ in accusations)
        culprit = max(degree, key=lambda peer: (degree[peer], times_accused[peer], peer))
        self._blame[culprit] += 1
        if self._blame[culprit] >= MAX_BLAME:
            reasons = [why for _, peer, why in accusations if peer == culprit]
            self.excluded[culprit] = f"link trouble: {reasons[0] if reasons else 'accuses others'}"
