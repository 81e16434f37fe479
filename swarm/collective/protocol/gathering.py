"""The members' results of one attempt, as they come in at the leader: complete, failed, or lost?"""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum
from typing import TYPE_CHECKING

from swarm.collective.norms import exceeded_norms
from swarm.collective.plan import reducers_of
from swarm.collective.protocol.proposal import Proposal
from swarm.collective.protocol.rollcall import RollCall
from swarm.wire import collective_pb2 as pb

if TYPE_CHECKING:
    from swarm.collective.protocol.machine import PeerMachine

ACCUSATIONS_S = 0.2  # other accusations of the same failure are on their way
LATE_S = 0.5  # silence of one that has not reported when others have, until it is probed


class Progress(Enum):
    """What has become of an attempt."""

    WAITING = "results are missing that may still come"
    COMPLETE = "all that is needed is there"
    FAILED = "somebody failed, or accuses somebody"
    SUPERSEDED = "this peer has promised a higher ballot"
    SPOILED = "it can not succeed any more; who is to blame is left out"


class Gathering:
    """See the module docstring. Begins with the attempt, whose time limit runs from then."""

    def __init__(self, peer: PeerMachine, rollcall: RollCall, proposal: Proposal) -> None:
        self._peer = peer
        self._rollcall = rollcall
        self._standing = rollcall.standing
        self._proposal = proposal
        self._deadline = peer.now + proposal.plan.attempt_timeout_ms / 1000
        self._failed_at: float | None = None
        self._lost_at: float | None = None  # when a member was found dead that had not reported

    @property
    def results(self) -> Mapping[str, pb.Report]:
        """What the members computed; nothing where nothing was to be averaged."""
        return self._proposal.reports if self._proposal.plan.fragments else {}

    def accused(self) -> list[str]:
        """Peers of whom it matters whether they live, now that the attempt has failed."""
        return sorted(self._standing.accused(self._proposal.reports, self._proposal.plan))

    def look(self) -> Progress:
        """How it stands now; the peer is woken when time alone may change that."""
        peer, proposal, reports = self._peer, self._proposal, self._proposal.reports
        if not proposal.plan.fragments:
            return Progress.COMPLETE
        waiting = [p for p in proposal.members if p not in reports and p not in self._standing.dead]
        if any(r.suspects or r.failure for r in reports.values()):
            return self._failed(waiting)
        if not waiting:
            exceeded = exceeded_norms(proposal.plan, reports)
            self._standing.excluded.update(exceeded)
            return Progress.SPOILED if exceeded else Progress.COMPLETE
        if peer.now >= self._deadline:
            late = "missed the attempt's deadline"
            self._standing.excluded.update(dict.fromkeys(waiting, late))
            return Progress.SPOILED
        peer.wake_by(self._deadline)
        if proposal.superseded:
            return Progress.SUPERSEDED
        self._rollcall.bury(waiting, LATE_S if reports else None)
        return self._without_the_dead()

    def _failed(self, waiting: list[str]) -> Progress:
        """Wait a little for what the others say of it."""
        peer = self._peer
        if self._failed_at is None:
            self._failed_at = peer.now
        if waiting and peer.now < self._failed_at + ACCUSATIONS_S:
            peer.wake_by(self._failed_at + ACCUSATIONS_S)
            return Progress.WAITING
        return Progress.FAILED

    def _without_the_dead(self) -> Progress:
        """Whether the others can come to an end without those that died before they reported."""
        peer, proposal = self._peer, self._proposal
        dead, reports = self._standing.dead, proposal.reports
        lost = [p for p in proposal.members if p in dead and p not in reports]
        if any(p in reducers_of(proposal.plan) for p in lost):
            return Progress.SPOILED  # nobody can get its parts any more
        if not lost:
            return Progress.WAITING
        # It may have given all of its update before it died; if not, the others wait in vain.
        if self._lost_at is None:
            self._lost_at = peer.now
        if peer.now >= self._lost_at + ACCUSATIONS_S:
            return Progress.SPOILED
        peer.wake_by(self._lost_at + ACCUSATIONS_S)
        return Progress.WAITING
