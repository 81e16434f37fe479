"""One plan that is being promised: the leader asks the electors for their word and counts it."""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING

from google.protobuf.message import Message

from swarm.collective.consensus import (
    ballot_key,
    decision_key,
    follows,
    parse_record,
    quorum,
    record_to_adopt,
)
from swarm.collective.protocol.elector import NO_VOTE
from swarm.collective.validate import MAX_ATTEMPT_STEP
from swarm.errors import SwarmError
from swarm.wire import collective_pb2 as pb

if TYPE_CHECKING:
    from swarm.collective.protocol.machine import PeerMachine, Pending


class Proposal:
    """See the module docstring.

    Attributes:
        members: peers that take part in the attempt, sorted.
        promises: what the electors answered.
        reports: how the attempt ended at its members.
    """

    def __init__(self, peer: PeerMachine, plan: pb.Plan) -> None:
        self.plan = plan
        self.ballot = ballot_key(plan.ballot)
        self.members = [m.peer for m in plan.members]
        self.promises: dict[str, pb.Promise] = {}
        self.reports: dict[str, pb.Report] = {}
        self._peer = peer
        self._decision = decision_key(plan.base_commit, plan.round, plan.unanimous, plan.electorate)
        self._asked: list[str] = []
        self._awaiting: set[str] = set()

    def begin(self, dead: Collection[str]) -> None:
        """Promise it, and ask everybody but the dead. Raises typed errors of this peer's own.

        Its own promise comes first: after a crash the same ballot must not carry another plan.
        """
        peer, me = self._peer, self._peer.setup.me
        own = self.promises[me] = peer.elector.on_plan(me, self.plan)
        if own.granted:
            self._asked = [p for p in self.plan.electorate if p != me and p not in dead]
        self._awaiting = set(self._asked)
        for elector in self._asked:
            peer.call(elector, self.plan, self._on_promise)

    def _on_promise(self, elector: str, reply: Message | None, call: Pending) -> None:
        self._awaiting.discard(elector)
        if isinstance(reply, pb.Promise):
            self.promises[elector] = reply

    @property
    def answered(self) -> bool:
        """True when nobody's answer is awaited any more."""
        return not self._awaiting

    @property
    def superseded(self) -> bool:
        """True when this peer has promised a higher ballot meanwhile."""
        return self._peer.memory.acceptor(self._decision).promised > self.ballot

    @property
    def highest(self) -> int:
        """Attempt number that a refusal named, as far as others would follow there at once."""
        named = max((p.promised.attempt for p in self.promises.values()), default=0)
        return int(min(named, self.ballot[0] + MAX_ATTEMPT_STEP))

    @property
    def has_quorum(self) -> bool:
        """True when enough of those that may vote have granted the plan."""
        resigned = () if self.plan.unanimous else self._peer.memory.resignations
        voters = [p for p in self.plan.electorate if p not in resigned]
        granted = sum(p in self.promises and self.promises[p].granted for p in voters)
        return granted >= quorum(len(voters), self.plan.unanimous)

    def silent(self) -> list[str]:
        """Who did not answer, and is needed."""
        silent = [p for p in self._asked if p not in self.promises]
        return [p for p in silent if p in self.members] if self.has_quorum else silent

    def refusals(self) -> dict[str, pb.Promise]:
        """What members said that do not take part."""
        said = {p: self.promises[p] for p in self.members if p in self.promises}
        return {p: said[p] for p in said if not said[p].granted and not said[p].helps}

    def mute(self) -> set[str]:
        """Electors that have no vote in the open round."""
        return {p for p, promise in self.promises.items() if promise.reason == NO_VOTE}

    def accepted(self) -> bytes:
        """The record of an earlier ballot that must be proposed again; empty if there is none.

        What no honest elector can have voted for is a lie, which must not hold the round up.
        """
        granted = (p for p in self.promises.values() if p.granted)
        return record_to_adopt(
            p for p in granted if not p.accepted_record or self._may_have_votes(p)
        )

    def _may_have_votes(self, promise: pb.Promise) -> bool:
        memory, elector = self._peer.memory, self._peer.elector
        try:
            record = parse_record(promise.accepted_record)
            key = (record.previous, record.round, record.unanimous, record.electorate)
            of_another = decision_key(*key) != self._decision
            if of_another or not follows(record, memory.commit_id, memory.record):
                return False
            elector.check_possible(record)
        except SwarmError:
            return False
        # In this very ballot, too: a leader that lost its word may have led it before.
        return ballot_key(promise.accepted_ballot) <= self.ballot

    def note_report(self, sender: str, report: pb.Report) -> bool:
        """A member finished, or failed, an attempt; True when it is this one."""
        mine = ballot_key(report.ballot) == self.ballot and sender in self.members
        if mine:
            self.reports[sender] = report
        return mine
