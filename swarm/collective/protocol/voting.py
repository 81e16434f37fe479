"""One ballot over a record: the leader asks the electors for their votes and counts them."""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING

from google.protobuf.message import Message

from swarm.collective.consensus import quorum, verify_vote
from swarm.collective.validate import MAX_ATTEMPT_STEP
from swarm.wire import collective_pb2 as pb

if TYPE_CHECKING:
    from swarm.collective.protocol.machine import PeerMachine, Pending

PARTIAL_VOTES_S = 0.25  # after a quorum, how long to wait for the other votes


class Voting:
    """See the module docstring.

    Attributes:
        voters: electors that have not given up their vote.
        highest: attempt number that a refusal named.
        against: electors to whom the record is impossible.
    """

    def __init__(
        self, peer: PeerMachine, ballot: pb.Ballot, data: bytes, record: pb.RoundRecord
    ) -> None:
        self.record = record
        resigned = {r.peer for r in record.resignations}
        self.voters = [p for p in record.electorate if p not in resigned]
        self.highest = 0
        self.against: set[str] = set()
        self._peer = peer
        self._accept = pb.Accept(ballot=ballot, record=data)
        self._needed = quorum(len(self.voters), record.unanimous)
        self._votes: dict[str, pb.Vote] = {}
        self._awaiting: set[str] = set()
        self._quorum_at: float | None = None

    def begin(self, dead: Collection[str]) -> None:
        """Ask everybody but the dead."""
        peer, me = self._peer, self._peer.setup.me
        others = [p for p in self.voters if p != me and p not in dead]
        self._awaiting = set(others)
        for voter in others:
            peer.call(voter, self._accept, self._on_reply)
        if me in self.voters:
            peer.quietly(self._vote_myself)

    def _vote_myself(self) -> None:
        me = self._peer.setup.me
        self._count(me, self._peer.elector.on_accept(me, self._accept))

    def _on_reply(self, voter: str, reply: Message | None, call: Pending) -> None:
        self._awaiting.discard(voter)
        if isinstance(reply, pb.AcceptReply):
            self._count(voter, reply)
        elif call.refusal:
            self.against.add(voter)

    def _count(self, voter: str, reply: pb.AcceptReply) -> None:
        setup, vote = self._peer.setup, reply.vote
        believed = self._accept.ballot.attempt + MAX_ATTEMPT_STEP
        self.highest = max(self.highest, min(reply.promised.attempt, believed))
        mine = vote.voter == voter and vote.ballot == self._accept.ballot
        if mine and verify_vote(vote, self._accept.record, setup.run_id, setup.verify):
            self._votes[voter] = vote
        if self._quorum_at is None and len(self._votes) >= self._needed:
            self._quorum_at = self._peer.now

    def decided(self) -> bool | None:
        """Whether the record is decided; None while votes are awaited."""
        if self._quorum_at is None:
            return None if self._awaiting else False
        until = self._quorum_at + PARTIAL_VOTES_S
        if self._awaiting and self._peer.now < until:
            self._peer.wake_by(until)
            return None
        return True

    def commit(self) -> pb.Commit:
        """The record with its votes."""
        return pb.Commit(
            record=self._accept.record, votes=[self._votes[p] for p in sorted(self._votes)]
        )
