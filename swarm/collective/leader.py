"""The leader of one round: collect the ready, propose a plan, gather results, have them voted.

A `RoundLeader` lives on whichever peer the succession points to (`RoundMember` starts it) and can
be replaced at any moment: all it knows is asked again by its successor. It repeats attempts with
the survivors until a record is committed, here or by somebody else.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING

from swarm.collective.attendance import Attendance
from swarm.collective.consensus import (
    NO_BALLOT,
    BallotKey,
    ballot_key,
    decision_key,
    make_ballot,
    parse_record,
    quorum,
    record_to_adopt,
    verify_vote,
)
from swarm.collective.context import RoundEvent
from swarm.collective.offers import collect_offers
from swarm.collective.plan import PlanInputs, make_plan, operation_of, reducers_of
from swarm.collective.record import RecordInputs, build_record
from swarm.errors import SwarmError
from swarm.identity import verify
from swarm.wire import collective_pb2 as pb

if TYPE_CHECKING:
    from swarm.collective.member import RoundMember

RETRY_S = 0.5
MAX_PAUSE_S = 8.0  # between attempts that lead nowhere
ACCUSATIONS_S = 0.2
PARTIAL_VOTES_S = 1.0  # after a quorum, how long to wait for the other votes


class RoundLeader:
    """Leads the round that follows `key` = (commit id, round)."""

    def __init__(self, member: RoundMember, key: tuple[bytes, int]) -> None:
        self.key = key
        self.finished = False
        self._member = member
        self.attendance = Attendance(member, key)
        self._ready = self.attendance.ready
        self._standing = self.attendance.standing
        self._dead = self._standing.dead
        self._excluded = self._standing.excluded
        self._reports: dict[tuple[BallotKey, str], pb.Report] = {}
        self._ballot = NO_BALLOT  # of the attempt that is being led
        self._highest = 0  # attempt number seen so far
        self._attempts = 0

    async def note_report(self, sender: str, report: pb.Report) -> bool:
        """A member finished, or failed, an attempt."""
        ballot = ballot_key(report.ballot)
        if ballot != self._ballot:
            return False
        self._reports[(ballot, sender)] = report
        await self.attendance.notify()
        return True

    # ---- the round ------------------------------------------------------------------------

    async def run(self) -> None:
        """Lead until the round is decided."""
        pause_s = RETRY_S
        try:
            while self.attendance.open():
                await self.attendance.collect()
                if not self.attendance.open() or await self._better_leader_leads():
                    return
                try:
                    if await self._one_attempt():
                        continue
                except SwarmError as error:
                    event = RoundEvent("attempt_failed", self.key[1], str(error))
                    self._member.context.emit(event)
                await asyncio.sleep(pause_s * (1 + random.random()))
                pause_s = min(2 * pause_s, MAX_PAUSE_S)
        finally:
            self.finished = True

    async def _better_leader_leads(self) -> bool:
        """True when a peer before this one in the succession leads too, and lives.

        Two leaders end each other's attempts; the later one gives way.
        """
        member = self._member
        order = member.succession(self._ready)
        rival = member.ledger.acceptor(self._decision()).promised[1]
        if rival in ("", member.me) or rival not in order or member.me not in order:
            return False
        return order.index(rival) < order.index(member.me) and await member.alive(rival)

    def _decision(self) -> bytes:
        unanimous = self.attendance.founding or self._branching()
        return decision_key(*self.key, unanimous, self._electorate(unanimous))

    async def _one_attempt(self) -> bool:
        """One ballot. True when it led to a commit, False to try again."""
        member = self._member
        unanimous = self.attendance.founding or self._branching()
        electorate = self._electorate(unanimous)
        promised = member.ledger.acceptor(self._decision()).promised
        self._highest = max(self._highest, promised[0]) + 1
        self._attempts += 1
        self._ballot = (self._highest, member.me)
        ballot = make_ballot(self._ballot)
        plan = self._plan(ballot, electorate, unanimous)
        promises = await self._propose(plan)
        for peer, promise in promises.items():
            if promise.commit.record and await member.history.consider(promise.commit, peer):
                return True
            self._highest = max(self._highest, promise.promised.attempt)
        granted = {p for p, promise in promises.items() if promise.granted}
        voters = set(electorate) - (set() if unanimous else set(member.ledger.resignations))
        if len(granted & voters) < quorum(len(voters), unanimous):
            await self.attendance.bury(p for p in electorate if p not in promises)
            return False
        refused = [m.peer for m in plan.members if m.peer not in granted]
        if refused:
            self._drop(refused, promises)
            return False
        record = record_to_adopt(promises[p] for p in granted)
        if not record:
            reports = await self._gather_reports(plan)
            if reports is None:
                return False
            record = self._record(plan, reports).SerializeToString()
        return await self._decide(ballot, record)

    def _branching(self) -> bool:
        roster = [p for p in self.attendance.roster() if p not in self._member.ledger.resignations]
        living = [p for p in roster if p not in self._dead]
        return self._member.may_branch() and len(living) < quorum(len(roster))

    def _electorate(self, unanimous: bool) -> list[str]:
        return [p for p in self.attendance.roster() if not unanimous or p not in self._dead]

    def _plan(self, ballot: pb.Ballot, electorate: Sequence[str], unanimous: bool) -> pb.Plan:
        member = self._member
        manifest = member.context.manifest
        policy = member.context.policy
        left_out = {*self._dead, *self._excluded}
        offered = collect_offers(self._ready, left_out, member.ledger.record, policy)
        records = {p: member.context.directory.note(r.record) for p, r in self._ready.items()}
        told = {p: 0.0 if r is None else r.bandwidth_bps for p, r in records.items()}
        plan = make_plan(
            PlanInputs(
                run_id=member.run_id,
                branch=member.ledger.branch,
                round=self.key[1],
                ballot=ballot,
                base_commit=self.key[0],
                electorate=electorate,
                unanimous=unanimous,
                offers=offered.weights,
                numel=offered.numel,
                norms=offered.norms,
                wishes=offered.wishes,
                operation=operation_of(manifest.sync.aggregation),
                records={p: self._ready[p].record for p in offered.weights},
                codec=manifest.sync.codec,
                equal_weights=manifest.sync.weights == "equal",
                readers_keep_all=not policy.open_tags and manifest.sync.forward == "full",
                timeouts=member.timeouts,
                upload_bps={p: r.upload_bps or told[p] for p, r in self._ready.items()},
                download_bps={p: r.download_bps or told[p] for p, r in self._ready.items()},
            )
        )
        return plan

    async def _propose(self, plan: pb.Plan) -> dict[str, pb.Promise]:
        peers = sorted({*plan.electorate, self._member.me} - (set(self._dead) - {self._member.me}))

        async def ask(peer: str) -> pb.Promise | None:
            try:
                return await self._member.call(peer, plan, pb.Promise)
            except SwarmError:
                return None

        # Its own promise first: after a crash the same ballot must not carry another plan.
        own = await self._member.elector.on_plan(self._member.me, plan)
        if not own.granted:
            return {self._member.me: own}
        peers.remove(self._member.me)
        answers = await asyncio.gather(*(ask(p) for p in peers))
        told = {p: a for p, a in zip(peers, answers, strict=True) if a is not None}
        return {self._member.me: own, **told}

    def _drop(self, peers: Collection[str], promises: Mapping[str, pb.Promise]) -> None:
        """Leave members out of the next attempt that did not answer or refused this one."""
        for peer in peers:
            if peer not in promises:
                self._dead[peer] = "does not answer"
            elif not promises[peer].promised.attempt:
                self._excluded[peer] = promises[peer].reason

    async def _gather_reports(self, plan: pb.Plan) -> dict[str, pb.Report] | None:
        """The members' results; None when the attempt failed (suspects are noted)."""
        member = self._member
        if not plan.fragments:
            return {}
        ballot = ballot_key(plan.ballot)
        expected = {m.peer for m in plan.members}
        deadline = member.context.clock() + plan.attempt_timeout_ms / 1000
        while self.attendance.open():
            reports = self._reports_of(ballot, expected)
            if any(r.suspects or r.failure for r in reports.values()):
                # Other accusations of the same failure are on their way.
                await asyncio.sleep(ACCUSATIONS_S)
                await self._judge(self._reports_of(ballot, expected), plan)
                return None
            waiting = expected - set(reports) - set(self._dead)
            if not waiting:
                return reports
            if member.context.clock() > deadline:
                self._excluded.update({p: "missed the attempt's deadline" for p in waiting})
                return None
            await self.attendance.bury(waiting)
            if any(r in self._dead and r not in reports for r in reducers_of(plan)):
                return None  # nobody can get its parts any more
            if member.ledger.acceptor(self._decision()).promised > ballot:
                return None
            await self.attendance.wait_change()
        return None

    def _reports_of(self, ballot: BallotKey, peers: Collection[str]) -> dict[str, pb.Report]:
        return {p: r for p in peers if (r := self._reports.get((ballot, p))) is not None}

    async def _judge(self, reports: Mapping[str, pb.Report], plan: pb.Plan) -> None:
        accused = sorted(self._standing.accused(reports, plan))
        answers = await asyncio.gather(*(self._member.alive(p) for p in accused))
        alive = [p for p, answered in zip(accused, answers, strict=True) if answered]
        self._standing.judge(reports, plan, alive)

    # ---- the decision ---------------------------------------------------------------------

    def _record(self, plan: pb.Plan, reports: dict[str, pb.Report]) -> pb.RoundRecord:
        member = self._member
        return build_record(
            RecordInputs(
                plan=plan,
                previous=member.ledger.record,
                reports=reports,
                ready=self._ready,
                roster=self.attendance.roster(),
                joiners=self.attendance.living_joiners(),
                dead=self._dead,
                excluded=self._excluded,
                resignations=member.ledger.resignations,
                proposer=member.me,
                attempts=self._attempts,
                decided_at_ms=round(1000 * member.context.wall_clock()),
            ),
            member.context.policy,
        )

    async def _decide(self, ballot: pb.Ballot, record: bytes) -> bool:
        """Have the record voted and tell everybody. True when it was committed."""
        member = self._member
        parsed = parse_record(record)
        resigned = {r.peer for r in parsed.resignations}
        voters = [p for p in parsed.electorate if p not in resigned]
        needed = quorum(len(voters), parsed.unanimous)
        accept = pb.Accept(ballot=ballot, record=record)
        votes: dict[str, pb.Vote] = {}

        async def ask(peer: str) -> None:
            try:
                if peer == member.me:
                    reply = await member.elector.on_accept(peer, accept)
                else:
                    reply = await member.call(peer, accept, pb.AcceptReply)
            except SwarmError:
                return
            genuine = verify_vote(reply.vote, record, member.run_id, verify)
            if genuine and reply.vote.voter == peer and reply.vote.ballot == ballot:
                votes[peer] = reply.vote

        peers = [p for p in voters if p not in self._dead or parsed.unanimous]
        tasks = [asyncio.create_task(ask(p)) for p in peers]
        try:
            for next_done in asyncio.as_completed(tasks):
                await next_done
                if len(votes) >= needed:
                    break
            if len(votes) < needed:
                return False
            await asyncio.wait(tasks, timeout=PARTIAL_VOTES_S)
        finally:
            for task in tasks:
                task.cancel()
        commit = pb.Commit(record=record, votes=[votes[p] for p in sorted(votes)])
        if (spread_s := self.attendance.spread_s()) is not None:
            member.arrival_spreads.append(spread_s)
        await member.adopt(commit, parsed)
        others = sorted({*voters, *parsed.roster} - {member.me})
        await asyncio.gather(*(self._tell(p, commit) for p in others))
        return True

    async def _tell(self, peer: str, commit: pb.Commit) -> None:
        for _ in range(2):
            try:
                await self._member.call(peer, commit, pb.CommitReply)
                return
            except SwarmError:
                await asyncio.sleep(RETRY_S)
