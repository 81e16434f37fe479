"""The leader of one round: collect the ready, propose a plan, gather results, have them voted.

A `Leading` lives on whichever peer the succession points to and can be replaced at any moment: all
it knows is asked again by its successor. It repeats attempts with the survivors until a record is
committed, here or by somebody else. An attempt that taught it who is to be left out is followed by
the next at once; one that led nowhere, after a pause. When `MAX_SPOILED` attempts of a majority
were spoiled, it gives up the updates and has the round skipped.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import TYPE_CHECKING

from swarm.collective.consensus import (
    decision_key,
    make_ballot,
    parse_record,
    quorum,
)
from swarm.collective.context import RoundEvent
from swarm.collective.protocol.gathering import Gathering, Progress
from swarm.collective.protocol.planning import plan_attempt, record_of
from swarm.collective.protocol.proposal import Proposal
from swarm.collective.protocol.rollcall import RollCall
from swarm.collective.protocol.voting import Voting
from swarm.errors import SwarmError
from swarm.wire import collective_pb2 as pb

if TYPE_CHECKING:
    from swarm.collective.protocol.machine import PeerMachine

RETRY_S = 0.5
MAX_PAUSE_S = 8.0  # between attempts that lead nowhere
MAX_SPOILED = 10  # attempts; then the round is skipped
MAX_SILENT = 2  # plans that a living peer may leave unanswered
MAX_REFUSED = 4  # ballots that a member may refuse for a higher one, while a majority grants them


class Leading:
    """Leads the round that follows `key` = (commit id, round).

    Attributes:
        finished: the round is decided, or somebody better leads it.
    """

    def __init__(self, peer: PeerMachine, key: tuple[bytes, int]) -> None:
        self.key = key
        self.finished = False
        self.rollcall = RollCall(peer, key)
        self._peer = peer
        self._standing = self.rollcall.standing
        self._stage: Callable[[], bool] = self._collect
        self._resume_at = peer.now
        self._pause_s = RETRY_S
        self._spoiled = 0
        self._highest = 0  # attempt number seen so far
        self._mute: set[str] = set()  # living peers that have no vote, and have not resigned
        self._against: set[str] = set()  # living peers that refused a record
        self._silent: dict[str, int] = {}  # living peers that left plans unanswered
        self._refused: dict[str, int] = {}  # members that had promised higher ballots
        self._proposal: Proposal | None = None  # of the attempt that is being led
        self._gathering: Gathering | None = None  # of its results
        self._checked: list[str] = []
        self._checked_since = 0.0
        self._then: Callable[[list[str]], None] = self._judge
        self._voting: Voting | None = None

    def step(self) -> None:
        """Go on as far as possible."""
        while not self.finished:
            if not self.rollcall.open:
                self.finished = True
                return
            try:
                if not self._stage():
                    return
            except SwarmError as error:
                self._peer.emit(RoundEvent("attempt_failed", self.key[1], str(error)))
                self._spoil()

    def give_way(self) -> None:
        """Somebody before this peer in the succession leads; unless an attempt runs, follow him."""
        self.finished = self.finished or self._proposal is None

    # ---- collecting -----------------------------------------------------------------------

    def _collect(self) -> bool:
        if self._peer.now < self._resume_at:
            self._peer.wake_by(self._resume_at)
            return False
        if not self.rollcall.complete():
            return False
        better = self._better_leader_lives()
        if better:
            self.finished = True
        if better is not False:
            return False
        self._begin()
        return True

    def _better_leader_lives(self) -> bool | None:
        """True when a peer before this one in the succession leads too, and lives.

        Two leaders end each other's attempts; the later one gives way.
        """
        peer = self._peer
        me = peer.setup.me
        order = peer.succession(self.rollcall.ready)
        rival = peer.memory.acceptor(self._decision_of(*self._electorate())).promised[1]
        if rival in ("", me) or rival not in order or me not in order:
            return False
        if order.index(rival) > order.index(me) or peer.health.is_dead(rival):
            return False
        if any(rival in r.declined for r in self.rollcall.ready.values()):
            return False
        return peer.health.check(rival, peer.now - peer.health.silence_s)

    def _electorate(self) -> tuple[list[str], bool]:
        """Who decides now, and whether all of them must agree."""
        roster = self.rollcall.roster()
        dead = self._standing.dead
        unanimous = self.rollcall.founding or self._branching(roster)
        if not unanimous or self.rollcall.founding:
            return roster, unanimous
        return [p for p in roster if p not in dead and p not in self._against], True

    def _branching(self, roster: Collection[str]) -> bool:
        if self._peer.memory.abstains:  # it can lead nothing else
            return self._peer.may_branch()
        voters = [p for p in roster if p not in self._peer.memory.resignations]
        unable = {*self._standing.dead, *self._mute, *self._against}
        able = [p for p in voters if p not in unable]
        return len(able) < quorum(len(voters)) and self._peer.may_branch()

    def _decision_of(self, electorate: Collection[str], unanimous: bool) -> bytes:
        return decision_key(*self.key, unanimous, electorate)

    # ---- the plan -------------------------------------------------------------------------

    def _begin(self) -> None:
        """Start an attempt: make a plan, promise it, ask the others to."""
        peer = self._peer
        electorate, unanimous = self._electorate()
        # In any decision: two attempts of one ballot would be taken for one another.
        self._highest = max(self._highest, peer.memory.highest_attempt) + 1
        if self._spoiled >= MAX_SPOILED:
            reason = f"given up after {self._spoiled} attempts"
            self._standing.excluded.update(dict.fromkeys(self.rollcall.ready, reason))
        ballot = make_ballot((self._highest, peer.setup.me))
        plan = plan_attempt(peer, self.rollcall, ballot, electorate, unanimous)
        self._voting = None
        self._proposal = Proposal(peer, plan)
        self._gathering = Gathering(peer, self.rollcall, self._proposal)
        self._stage = self._propose
        self._proposal.begin(self._standing.dead)

    def _propose(self) -> bool:
        """Take the promises; go on with the record that must stand, or with the exchange."""
        peer, proposal = self._peer, self._proposal
        assert proposal is not None
        if not proposal.answered:
            return False
        self._highest = max(self._highest, proposal.highest)
        self._mute |= proposal.mute()
        for elector, promise in sorted(proposal.promises.items()):
            if promise.commit.record:
                peer.quietly(peer.history.consider, promise.commit, elector)
        if not self.rollcall.open:
            return True
        silent = proposal.silent()
        refusals = proposal.refusals() if proposal.has_quorum else {}
        if silent:
            for elector in silent:
                peer.health.missed(elector)
            self._check(silent, self._note_silent)
        elif refusals or not proposal.has_quorum:
            self._leave_out(refusals)
        elif accepted := proposal.accepted():
            self._vote(accepted, parse_record(accepted))
        else:
            self._stage = self._gather
        return True

    def _note_silent(self, alive: list[str]) -> None:
        """Some did not answer the plan; those who live may do so a second time."""
        before = self._standing_mark()
        for peer in self._checked:
            if peer not in alive:
                self._standing.dead[peer] = "does not answer"
                continue
            self._silent[peer] = self._silent.get(peer, 0) + 1
            if self._silent[peer] >= MAX_SILENT:
                self._standing.excluded[peer] = "does not answer plans"
        self._again(at_once=self._standing_mark() != before)

    def _leave_out(self, refusals: Mapping[str, pb.Promise]) -> None:
        """Leave members out of the next attempt that refused this one for good."""
        before = self._standing_mark()
        for peer, promise in refusals.items():
            if not promise.promised.attempt:
                self._standing.excluded[peer] = promise.reason
                continue
            self._refused[peer] = self._refused.get(peer, 0) + 1
            if self._refused[peer] >= MAX_REFUSED:
                self._standing.excluded[peer] = "refuses one ballot after another"
        self._again(at_once=self._standing_mark() != before)

    # ---- the results ----------------------------------------------------------------------

    def note_report(self, sender: str, report: pb.Report) -> bool:
        """A member finished, or failed, an attempt; True when it is the one that is led."""
        return self._proposal is not None and self._proposal.note_report(sender, report)

    def _gather(self) -> bool:
        """Go on as the members' results, or what became of them, say."""
        gathering = self._gathering
        assert gathering is not None
        match gathering.look():
            case Progress.WAITING:
                return False
            case Progress.COMPLETE:
                self._propose_record(gathering.results)
            case Progress.FAILED:
                self._check(gathering.accused(), self._judge)
            case Progress.SUPERSEDED:
                self._again()
            case Progress.SPOILED:
                self._spoil(at_once=True)
        return True

    def _judge(self, alive: list[str]) -> None:
        before = self._standing_mark()
        assert self._proposal is not None
        self._standing.judge(self._proposal.reports, self._proposal.plan, alive)
        self._spoil(at_once=self._standing_mark() != before)

    def _check(self, peers: list[str], then: Callable[[list[str]], None]) -> None:
        """Look which of `peers` live, and go on with `then(alive)`."""
        self._checked, self._then = peers, then
        self._checked_since = self._peer.now
        self._stage = self._checking

    def _checking(self) -> bool:
        check = self._peer.health.check
        verdicts = {p: check(p, self._checked_since) for p in self._checked}
        if None in verdicts.values():
            return False
        self._then([p for p, alive in verdicts.items() if alive])
        return True

    # ---- the decision ---------------------------------------------------------------------

    def _propose_record(self, reports: Mapping[str, pb.Report]) -> None:
        assert self._proposal is not None
        record = record_of(self._peer, self.rollcall, self._proposal.plan, reports)
        self._vote(record.SerializeToString(), record)

    def _vote(self, data: bytes, record: pb.RoundRecord) -> None:
        """Have the record voted."""
        assert self._proposal is not None
        self._voting = Voting(self._peer, self._proposal.plan.ballot, data, record)
        self._stage = self._decide
        self._voting.begin(set() if record.unanimous else set(self._standing.dead))

    def _decide(self) -> bool:
        voting = self._voting
        assert voting is not None
        decided = voting.decided()
        if decided is None:
            return False
        if not decided:
            self._highest = max(self._highest, voting.highest)
            self._against |= voting.against
            self._spoil()
            return True
        if (spread_s := self.rollcall.spread_s()) is not None:
            self._peer.arrival_spreads.append(spread_s)
        commit = voting.commit()
        me = self._peer.setup.me
        others = sorted({*voting.voters, *voting.record.roster} - {me})
        self._peer.history.tell(commit, others)
        self._peer.history.adopt(commit, voting.record)
        return True

    # ---- the next attempt -----------------------------------------------------------------

    def _standing_mark(self) -> object:
        """Changes when a judgement said something new."""
        return self._standing.mark(), dict(self._silent)

    def _spoil(self, *, at_once: bool = False) -> None:
        """The attempt had its majority, and failed."""
        self._spoiled += 1
        self._again(at_once=at_once)

    def _again(self, *, at_once: bool = False) -> None:
        self._stage = self._collect
        self.rollcall.again()
        self._proposal = self._gathering = None
        self._resume_at = self._peer.now
        if not at_once:
            self._resume_at += self._pause_s * (1 + self._peer.rng.random())
            self._pause_s = min(2 * self._pause_s, MAX_PAUSE_S)
        if self._peer.now < self._peer.branches_at < self._resume_at:
            self._resume_at, self._pause_s = self._peer.branches_at, RETRY_S
