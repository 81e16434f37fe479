"""This peer's word in the decisions of a round: promises and votes.

Everything a peer may be asked is checked before anything is promised, and every promise is on disk
before it is answered (`PersistWord` comes before the answer).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from swarm.collective.changes import check_change
from swarm.collective.consensus import (
    ballot_key,
    commit_id,
    decision_key,
    follows,
    make_ballot,
    parse_record,
    vote_text,
)
from swarm.collective.protocol.effects import PersistWord
from swarm.collective.selection_bias import check_bias
from swarm.collective.tallies import check_tallies
from swarm.collective.validate import check_plan
from swarm.collective.validate_record import (
    check_as_computed,
    check_duties,
    check_made_as_planned,
    check_record,
)
from swarm.wire import collective_pb2 as pb

if TYPE_CHECKING:
    from swarm.collective.protocol.machine import PeerMachine

NO_VOTE = "this peer has given up its vote"


class Elector:
    """Answers Plan and Accept."""

    def __init__(self, peer: PeerMachine) -> None:
        self._peer = peer

    def on_plan(self, sender: str, plan: pb.Plan, call_id: int = 0) -> pb.Promise:
        """Promise to take part in the attempt of `plan` and in no lower ballot of its decision.

        Raises `MESSAGE_MALFORMED`.
        """
        peer, memory = self._peer, self._peer.memory
        peer.health.heard_from(sender)
        peer.leaving.pass_on(sender, plan.base_commit)
        reason = self._objection(sender, plan)
        if reason == NO_VOTE and self._may_help(plan):
            peer.attempt.start(plan)
            return pb.Promise(granted=False, reason=reason, helps=True)
        if reason:
            decided = memory.successor(plan.base_commit, plan.round)
            return pb.Promise(granted=False, commit=decided, reason=reason)
        decision = decision_key(plan.base_commit, plan.round, plan.unanimous, plan.electorate)
        acceptor = memory.acceptor(decision)
        before = acceptor.promised
        limit_ms = round(1000 * peer.setup.timeouts.attempt_s)
        policy = peer.setup.policy
        check_plan(plan, policy.numel, before[0], limit_ms, policy.open_tags)
        takes_part = bool(plan.fragments) and any(m.peer == peer.setup.me for m in plan.members)
        if takes_part and peer.boundary.offer is None:
            return pb.Promise(granted=False, reason="there is no update to offer here")
        if takes_part and not self._offers_all(plan):
            return pb.Promise(granted=False, reason="it wants an update that was not offered")
        if not memory.promise(decision, ballot_key(plan.ballot)):
            return pb.Promise(
                granted=False, promised=make_ballot(before), reason="promised a higher ballot"
            )
        peer.out.append(PersistWord(memory.word()))
        peer.attempt.promised(plan)
        if takes_part:
            peer.attempt.start(plan)
        acceptor = memory.acceptor(decision)
        return pb.Promise(
            granted=True,
            accepted_ballot=make_ballot(acceptor.accepted),
            accepted_record=acceptor.record,
        )

    def _may_help(self, plan: pb.Plan) -> bool:
        """True when this peer, which gave up its vote and is back, can give its update.

        It gives no word by that: nobody counts it among those who promised. Raises
        `MESSAGE_MALFORMED`.
        """
        peer = self._peer
        running = peer.attempt.ballot
        limit_ms = round(1000 * peer.setup.timeouts.attempt_s)
        check_plan(plan, peer.setup.policy.numel, running[0], limit_ms, peer.setup.policy.open_tags)
        takes_part = bool(plan.fragments) and any(m.peer == peer.setup.me for m in plan.members)
        has_offer = peer.boundary.offer is not None and self._offers_all(plan)
        return takes_part and has_offer and ballot_key(plan.ballot) >= running

    def _offers_all(self, plan: pb.Plan) -> bool:
        """True when the plan asks this peer only for updates that it offers."""
        offer, me = self._peer.boundary.offer, self._peer.setup.me
        offered = {c.fragment: c for c in offer.contributions} if offer is not None else {}
        return all(
            f.fragment in offered and _is_as_wished(f, offered[f.fragment])
            for f in plan.fragments
            if me in f.contributors
        )

    def _objection(self, sender: str, plan: pb.Plan) -> str:
        """Why this peer may not take part in the plan's decision; empty if it may."""
        peer, memory = self._peer, self._peer.memory
        if plan.run_id != peer.setup.run_id or plan.ballot.leader != sender:
            return "the plan is not of this run, or not its leader's"
        if plan.base_commit != memory.commit_id or plan.round != memory.next_round:
            if plan.round >= memory.next_round:
                peer.history.catch_up(sender)
            return "another round is open here"
        if sender not in plan.electorate or peer.setup.me not in plan.electorate:
            return "it is not for these electors to decide"
        if plan.unanimous:
            strangers = set(plan.electorate) - set(peer.roster)
            if memory.record is not None and strangers:
                return "the founders of a branch must be members"
            return "" if peer.may_branch() else "a majority may still decide this round"
        if sorted(plan.electorate) != sorted(peer.roster):
            return "the electorate is not the roster of the last commit"
        return NO_VOTE if memory.abstains else ""

    def on_accept(self, sender: str, accept: pb.Accept, call_id: int = 0) -> pb.AcceptReply:
        """Vote for a record in the ballot that was promised, if it is a possible one.

        Raises `MESSAGE_MALFORMED` or `COMMIT_INVALID`.
        """
        peer, memory, setup = self._peer, self._peer.memory, self._peer.setup
        peer.health.heard_from(sender)
        record = parse_record(accept.record)
        ballot = ballot_key(accept.ballot)
        decision = decision_key(record.previous, record.round, record.unanimous, record.electorate)
        promised = memory.acceptor(decision).promised
        legitimate = (
            record.run_id == setup.run_id
            and accept.ballot.leader == sender
            and setup.me in record.electorate
            and follows(record, memory.commit_id, memory.record)
            and promised == ballot
            and (record.unanimous or not memory.abstains)
        )
        if not legitimate:
            reason = "no vote was promised for it here"
            return pb.AcceptReply(promised=make_ballot(promised), reason=reason)
        self.check_possible(record)
        made_in = (record.attempts, record.proposer)  # a later attempt may have had other updates
        check_made_as_planned(record, peer.attempt.planned.get(made_in))
        check_as_computed(record, peer.attempt.results.get(made_in, {}))
        memory.accept(decision, ballot, accept.record)
        peer.out.append(PersistWord(memory.word()))
        text = vote_text(setup.run_id, accept.ballot, accept.record)
        vote = pb.Vote(
            voter=setup.me,
            ballot=accept.ballot,
            record_sha256=commit_id(accept.record),
            signature=setup.sign(text),
        )
        return pb.AcceptReply(vote=vote)

    def check_possible(self, record: pb.RoundRecord) -> None:
        """All of a successor's checks that come out the same at every elector.

        Raises `MESSAGE_MALFORMED`, or what an unsigned change of the run is.
        """
        setup, previous = self._peer.setup, self._peer.memory.record
        check_record(
            record,
            previous,
            setup.policy.initial_version,
            setup.policy.numel,
            setup.max_round_tokens,
            setup.policy.open_tags,
        )
        check_duties(record, setup.max_round_steps)
        if not setup.policy.open_tags:  # under tags nobody trains, and nothing is summed
            check_tallies(record, previous, setup.max_round_tokens)
        check_change(record, previous, setup.manifest)
        check_bias(record, previous, setup.manifest)


def _is_as_wished(fragment: pb.FragmentPlan, said: pb.Contribution) -> bool:
    """False for another operation, codec or size than the peer has asked for under a tag."""
    if not said.operation:  # the run says what is done
        return True
    wished = (said.operation, said.codec or "fp32", said.numel)
    return wished == (fragment.operation, fragment.codec, fragment.numel)
