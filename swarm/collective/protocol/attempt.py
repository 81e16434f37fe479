"""This peer's running attempt: starting it, and reporting its end to its leader."""

from __future__ import annotations

from typing import TYPE_CHECKING

from google.protobuf.message import Message

from swarm.collective.consensus import NO_BALLOT, BallotKey, ballot_key
from swarm.collective.protocol.effects import EndAttempt, StartAttempt
from swarm.collective.state import Planned, Results
from swarm.wire import collective_pb2 as pb

if TYPE_CHECKING:
    from swarm.collective.protocol.machine import PeerMachine, Pending

RETRY_S = 0.3
REPORTS = 3  # calls to hand over one report
KEPT_PLANS = 16


class Attempt:
    """At most one runs; a newer one, or a commit, ends it.

    Attributes:
        results: what this peer computed in the attempts of the open round, by ballot.
        planned: what the last plans that it promised were to reduce, by ballot.
    """

    def __init__(self, peer: PeerMachine) -> None:
        self.results: dict[BallotKey, Results] = {}
        self.planned: dict[BallotKey, Planned] = {}
        self._peer = peer
        self._plan: pb.Plan | None = None
        self._report: pb.Report | None = None  # not taken by the leader yet
        self._calls = 0
        self._next_at = 0.0

    @property
    def ballot(self) -> BallotKey:
        """Of the attempt that runs."""
        return ballot_key(self._plan.ballot) if self._plan is not None else NO_BALLOT

    def promised(self, plan: pb.Plan) -> None:
        """Remember what a record of this attempt may have advanced, and from whose updates."""
        tags = self._peer.setup.policy.open_tags
        self.planned[ballot_key(plan.ballot)] = {
            f.fragment: (list(f.contributors), list(f.weights), f.codec if tags else "")
            for f in plan.fragments
        }
        while len(self.planned) > KEPT_PLANS:
            del self.planned[next(iter(self.planned))]

    def start(self, plan: pb.Plan) -> None:
        """Take part in the attempt of `plan`; a repeated plan changes nothing."""
        if self._plan is not None and self._plan.ballot == plan.ballot:
            return
        self._plan, self._report = plan, None
        self._peer.out.append(StartAttempt(plan))

    def end(self, reason: str) -> None:
        """The round is over, and what its attempts gave is not asked for any more."""
        if self._plan is not None:
            self._peer.out.append(EndAttempt(reason))
        self._plan = self._report = None
        self.results = {}
        self.planned = {}

    def ended(self, report: pb.Report) -> None:
        """The running attempt came to its end here."""
        plan = self._plan
        if plan is None or report.ballot != plan.ballot:
            return
        contributors = {f.fragment: tuple(f.contributors) for f in plan.fragments}
        self.results[ballot_key(plan.ballot)] = {
            (r.fragment, contributors[r.fragment]): (r.theta_hash, r.momentum_hash)
            for r in report.results
        }
        if plan.ballot.leader == self._peer.setup.me:
            if self._peer.leading is not None:
                self._peer.leading.note_report(self._peer.setup.me, report)
            return
        self._report = report
        self._calls = 0
        self._next_at = self._peer.now

    def step(self) -> None:
        """Hand over the report, again if the leader does not answer."""
        peer, report = self._peer, self._report
        if report is None:
            return
        if peer.now < self._next_at:
            peer.wake_by(self._next_at)
            return
        self._report = None
        self._calls += 1
        peer.call(report.ballot.leader, report, self._on_taken, tag=self._calls)

    def _on_taken(self, leader: str, reply: Message | None, call: Pending) -> None:
        report = call.message
        assert isinstance(report, pb.Report)
        if reply is not None or self._plan is None or self._plan.ballot != report.ballot:
            return
        self._peer.health.missed(leader)
        if call.tag < REPORTS:
            self._report = report
            self._next_at = self._peer.now + RETRY_S * call.tag
