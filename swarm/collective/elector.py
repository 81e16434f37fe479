"""This member's word in the decisions of a round: promises, votes, and giving the vote up.

Everything a peer may be asked is checked before anything is promised, and every promise is on disk
before it is answered (`Ledger`).
"""

from __future__ import annotations

import asyncio
import contextlib
from datetime import timedelta
from typing import TYPE_CHECKING

from swarm.collective.consensus import (
    ballot_key,
    commit_id,
    decision_key,
    follows,
    make_ballot,
    parse_record,
    resignation_text,
    verify_resignation,
    vote_text,
)
from swarm.collective.state import version_message
from swarm.collective.validate import check_plan, check_record
from swarm.errors import SwarmError
from swarm.identity import verify
from swarm.wire import collective_pb2 as pb

if TYPE_CHECKING:
    from swarm.collective.member import RoundMember

RESIGN_WAIT = timedelta(seconds=1)
RESIGN_LIMIT_S = 3.0  # how long a leaver waits for the open round, in which it gave its word


class Elector:
    """Answers Plan, Accept and Resignation for a `RoundMember`."""

    def __init__(self, member: RoundMember) -> None:
        self._member = member
        self._ledger = member.ledger
        self._leaving = False
        serve = member.context.transport.serve
        serve(pb.Plan, self.on_plan)
        serve(pb.Accept, self.on_accept)
        serve(pb.Resignation, self._on_resignation)

    # ---- promises -------------------------------------------------------------------------

    async def on_plan(self, sender: str, plan: pb.Plan) -> pb.Promise:
        """Promise to take part in the attempt of `plan` and in no lower ballot of its decision."""
        member = self._member
        member.heard_from(sender)
        reason = self._objection(sender, plan)
        if reason:
            newer = self._ledger.find(plan.round)
            decided = newer is not None and parse_record(newer.record).previous == plan.base_commit
            return pb.Promise(granted=False, commit=newer if decided else None, reason=reason)
        decision = decision_key(plan.base_commit, plan.round, plan.unanimous, plan.electorate)
        promised = self._ledger.acceptor(decision).promised
        check_plan(
            plan,
            member.context.policy.numel,
            promised[0],
            round(1000 * member.timeouts.attempt_s),
            member.context.policy.open_tags,
        )
        takes_part = bool(plan.fragments) and member.me in [m.peer for m in plan.members]
        if takes_part and member.offer is None:
            return pb.Promise(granted=False, reason="there is no update to offer here")
        if not self._ledger.promise(decision, ballot_key(plan.ballot)):
            return pb.Promise(
                granted=False, promised=make_ballot(promised), reason="promised a higher ballot"
            )
        if takes_part and member.offer is not None:
            member.attempts.start(plan, member.offer)
        acceptor = self._ledger.acceptor(decision)
        return pb.Promise(
            granted=True,
            accepted_ballot=make_ballot(acceptor.accepted),
            accepted_record=acceptor.record,
        )

    def _objection(self, sender: str, plan: pb.Plan) -> str:
        """Why this peer may not take part in the plan's decision; empty if it may."""
        member = self._member
        if plan.run_id != member.run_id or plan.ballot.leader != sender:
            return "the plan is not of this run, or not its leader's"
        if plan.base_commit != self._ledger.commit_id or plan.round != self._ledger.next_round:
            if plan.round >= self._ledger.next_round:
                member.spawn(member.history.catch_up(sender))
            return "another round is open here"
        if sender not in plan.electorate or member.me not in plan.electorate:
            return "it is not for these electors to decide"
        if plan.unanimous:
            strangers = set(plan.electorate) - set(member.roster())
            if self._ledger.record is not None and strangers:
                return "the founders of a branch must be members"
            return "" if member.may_branch() else "a majority may still decide this round"
        if sorted(plan.electorate) != sorted(member.roster()):
            return "the electorate is not the roster of the last commit"
        return "this peer has given up its vote" if self._ledger.abstains else ""

    # ---- votes ----------------------------------------------------------------------------

    async def on_accept(self, sender: str, accept: pb.Accept) -> pb.AcceptReply:
        """Vote for a record in the ballot that was promised, if it is a possible one."""
        member = self._member
        member.heard_from(sender)
        record = parse_record(accept.record)
        ballot = ballot_key(accept.ballot)
        decision = decision_key(record.previous, record.round, record.unanimous, record.electorate)
        legitimate = (
            record.run_id == member.run_id
            and accept.ballot.leader == sender
            and member.me in record.electorate
            and follows(record, self._ledger.commit_id, self._ledger.record)
            and self._ledger.acceptor(decision).promised == ballot
            and (record.unanimous or not self._ledger.abstains)
        )
        if not legitimate:
            promised = make_ballot(self._ledger.acceptor(decision).promised)
            return pb.AcceptReply(promised=promised, reason="no vote was promised for it here")
        policy = member.context.policy
        check_record(
            record,
            self._ledger.record,
            lambda name: version_message(name, policy.initial(name)),
            policy.numel,
            member.state.results,
            member.max_round_tokens,
            policy.open_tags,
        )
        self._ledger.accept(decision, ballot, accept.record)
        text = vote_text(member.run_id, accept.ballot, accept.record)
        vote = pb.Vote(
            voter=member.me,
            ballot=accept.ballot,
            record_sha256=commit_id(accept.record),
            signature=member.context.identity.sign(text),
        )
        return pb.AcceptReply(vote=vote)

    # ---- leaving --------------------------------------------------------------------------

    async def _on_resignation(self, sender: str, word: pb.Resignation) -> pb.ResignationReply:
        member = self._member
        genuine = sender == word.peer and sender in member.roster()
        if genuine and verify_resignation(word, member.run_id, self._ledger.commit_id, verify):
            self._ledger.note_resignation(word)
            member.suspects[sender] = "left"
            if member.leader is not None and not member.leader.finished:
                member.leader.attendance.note_resignation(sender)
        return pb.ResignationReply(staying=not self._leaving)

    async def resign(self) -> None:
        """Leave the roster in good order, so that those who stay need not wait for this vote.

        Only a peer that has given no word in the open round may (docs/adr/0001), so it waits a
        little for an open round to end. The last to leave keeps its vote: somebody must be able to
        go on with the run.
        """
        member = self._member
        self._leaving = True
        if member.me not in member.roster() or not await self._somebody_stays():
            return
        deadline = member.context.clock() + RESIGN_LIMIT_S
        while self._ledger.has_promised and member.context.clock() < deadline:
            await asyncio.sleep(0.1)
        if self._ledger.has_promised or member.me not in member.roster():
            return
        base = self._ledger.commit_id
        self._ledger.abstain()
        signature = member.context.identity.sign(resignation_text(member.run_id, base))
        await self._tell_all(pb.Resignation(peer=member.me, base_commit=base, signature=signature))

    async def _somebody_stays(self) -> bool:
        """Ask by a resignation without a signature, which nobody takes for one."""
        return any(await self._tell_all(pb.Resignation(peer=self._member.me)))

    async def _tell_all(self, word: pb.Resignation) -> list[bool]:
        member = self._member

        async def tell(peer: str) -> bool:
            with contextlib.suppress(SwarmError):
                reply = await member.call(peer, word, pb.ResignationReply, RESIGN_WAIT)
                return reply.staying
            return False

        others = [p for p in member.roster() if p != member.me]
        return list(await asyncio.gather(*(tell(p) for p in others)))
