"""One peer's part in the round protocol: promises, attempts, votes, commits, resync.

`RoundMember` answers the protocol's messages and drives this peer's own progress:

    member = RoundMember(context)         # context.py says what it needs
    await member.run_round(offer)         # returns when the round is decided and the state is level
    await join(member)                    # swarm/collective/join.py, built on this

The leader's side is `swarm/collective/leader.py`. Nothing here trains or knows a model: the outer
step, the assignment and the initial state come in through `Policy`.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Collection, Coroutine
from datetime import timedelta
from typing import TypeVar

from google.protobuf.message import Message

from swarm.collective.attempts import Attempts
from swarm.collective.consensus import (
    ballot_key,
    better_history,
    commit_id,
    follows,
    make_ballot,
    parse_record,
    resignation_text,
    verify_commit,
    verify_resignation,
    vote_text,
)
from swarm.collective.context import READY_INTERVAL, Context, Offer, RoundEvent
from swarm.collective.exchange import ExchangeRegistry
from swarm.collective.leader import RoundLeader
from swarm.collective.plan import rendezvous_order, round_key
from swarm.collective.recovery import Resync
from swarm.collective.state import version_message
from swarm.collective.validate import check_plan, check_ready, check_record
from swarm.errors import SwarmError
from swarm.identity import verify
from swarm.wire import collective_pb2 as pb
from swarm.wire.control_pb2 import Ping, Pong

R = TypeVar("R", bound=Message)
RESIGN_WAIT = timedelta(seconds=1)


class RoundMember:
    """See the module docstring. One instance per peer and process; single event loop."""

    def __init__(self, context: Context) -> None:
        self.context = context
        self.me = context.transport.peer_id
        self.run_id = context.manifest.run_id
        self.timeouts = context.manifest.timeouts
        self.ledger = context.ledger
        self.state = context.state
        self.offer: Offer | None = None
        self.boundary_since: float | None = None  # when this peer became ready for the open round
        self.changed = asyncio.Condition()  # notified when the newest commit changes
        self.suspects: dict[str, str] = {}
        self.resignations: dict[str, pb.Resignation] = {}  # of the open round
        self.heard: dict[str, float] = {}
        self.arrival_spreads: deque[float] = deque(maxlen=20)  # of rounds this peer led
        self.commit_times: deque[float] = deque(maxlen=20)
        self._attempts = Attempts(context, self._send_report)
        self._resync = Resync(context)
        self._leading: asyncio.Task[None] | None = None
        self._background: set[asyncio.Task[None]] = set()
        self.leader: RoundLeader | None = None
        self._resigned = False
        self._serve()
        if self.ledger.record is not None:
            self._resync.adopt(self.ledger.record)

    # ---- messages -------------------------------------------------------------------------

    def _serve(self) -> None:
        serve = self.context.transport.serve
        serve(pb.Ready, self._on_ready)
        serve(pb.Plan, self._on_plan)
        serve(pb.Report, self._on_report)
        serve(pb.Accept, self._on_accept)
        serve(pb.Commit, self._on_commit)
        serve(pb.GetCommit, self._on_get_commit)
        serve(pb.Resignation, self._on_resignation)

    async def call(
        self, peer: str, request: Message, reply: type[R], timeout: timedelta | None = None
    ) -> R:
        """Call a peer, remembering that it answered."""
        limit = timeout or self.timeouts.heartbeat
        answer = await self.context.transport.call(peer, request, reply, limit)
        self._heard_from(peer)
        return answer

    def _heard_from(self, peer: str) -> None:
        self.heard[peer] = self.context.clock()
        self.suspects.pop(peer, None)

    async def alive(self, peer: str) -> bool:
        """True when `peer` answers a ping within the heartbeat limit, tried twice."""
        if peer == self.me:
            return True
        for pause_s in (0.3, 0.0):
            try:
                await self.call(peer, Ping(), Pong)
                return True
            except SwarmError:
                await asyncio.sleep(pause_s)
        return False

    async def _on_ready(self, sender: str, ready: pb.Ready) -> pb.ReadyReply:
        check_ready(ready, self.context.policy.numel)
        self._heard_from(sender)
        self.context.directory.note(ready.record)
        commit = self.ledger.commit
        if ready.base_commit != self.ledger.commit_id or ready.round != self.ledger.next_round:
            if commit is not None and ready.round <= self.ledger.next_round:
                return pb.ReadyReply(status=pb.ReadyReply.STALE, commit=commit)
            self.spawn(self.catch_up(sender))
            return pb.ReadyReply(status=pb.ReadyReply.COLLECTING)
        better = await self._better_leader(sender, ready)
        if better is not None:
            return pb.ReadyReply(status=pb.ReadyReply.NOT_LEADER, leader=better)
        self._lead(sender, ready)
        return pb.ReadyReply(status=pb.ReadyReply.COLLECTING)

    async def _better_leader(self, sender: str, ready: pb.Ready) -> str | None:
        """A live peer before this one in the succession, which the sender has not given up."""
        if self.leader is not None and not self.leader.finished:
            return None
        for peer in self.succession([sender]):
            if peer == self.me:
                return None
            if peer not in ready.suspects and peer not in self.suspects:
                return peer
            if await self.alive(peer):
                return peer
        return None

    def succession(self, known: Collection[str] = ()) -> list[str]:
        """Leaders of the open round in order. Before the first commit: of the known peers."""
        record = self.ledger.record
        electors = set(record.roster) if record is not None else {self.me, *known}
        key = round_key(self.run_id, self.ledger.branch, self.ledger.next_round)
        return rendezvous_order(key, electors)

    async def _on_plan(self, sender: str, plan: pb.Plan) -> pb.Promise:
        self._heard_from(sender)
        refusal = self._refuse_plan(sender, plan)
        if refusal is not None:
            return refusal
        if not self.ledger.promise(ballot_key(plan.ballot)):
            promised = make_ballot(self.ledger.acceptor().promised)
            return pb.Promise(granted=False, promised=promised, reason="promised a higher ballot")
        acceptor = self.ledger.acceptor()
        takes_part = self.me in [m.peer for m in plan.members] and plan.fragments
        if takes_part and self.offer is not None:
            self._attempts.start(plan, self.offer)
        return pb.Promise(
            granted=True,
            accepted_ballot=make_ballot(acceptor.accepted),
            accepted_record=acceptor.record,
        )

    async def promise_to_self(self, plan: pb.Plan) -> pb.Promise:
        """The leader's own promise."""
        return await self._on_plan(self.me, plan)

    async def vote_for_self(self, accept: pb.Accept) -> pb.AcceptReply:
        """The leader's own vote."""
        return await self._on_accept(self.me, accept)

    def _refuse_plan(self, sender: str, plan: pb.Plan) -> pb.Promise | None:
        reason = ""
        if self._resigned:
            reason = "this peer has left"
        elif plan.run_id != self.run_id or plan.ballot.leader != sender:
            reason = "the plan is not of this run, or not its leader's"
        elif plan.base_commit != self.ledger.commit_id or plan.round != self.ledger.next_round:
            newer = self.ledger.find(plan.round)
            if newer is not None and parse_record(newer.record).previous == plan.base_commit:
                return pb.Promise(granted=False, commit=newer, reason="already decided")
            self.spawn(self.catch_up(sender))
            reason = "the plan is for another round than the one open here"
        elif not plan.unanimous and sorted(plan.electorate) != sorted(self._roster()):
            reason = "the electorate is not the roster of the last commit"
        elif plan.unanimous and self.me not in plan.electorate:
            reason = "a founding needs me to be an elector"
        elif sender not in plan.electorate:
            reason = "only an elector may lead"
        elif plan.unanimous and not self.may_branch():
            reason = "a majority may still decide this round"
        else:
            promised = self.ledger.acceptor().promised[0]
            limit_ms = round(1000 * self.timeouts.attempt_s)
            check_plan(plan, self.context.policy.numel, promised, limit_ms)
        return pb.Promise(granted=False, reason=reason) if reason else None

    def may_branch(self) -> bool:
        """True before the first commit, and when this round has been open for a whole lease."""
        if self.ledger.record is None:
            return True
        waited = self.context.clock() - (self.boundary_since or self.context.clock())
        policy = self.context.manifest.membership.on_majority_lost
        return policy == "continue" and waited > self.timeouts.lease_s

    def _roster(self) -> list[str]:
        return list(self.ledger.record.roster) if self.ledger.record is not None else []

    async def _on_report(self, sender: str, report: pb.Report) -> pb.ReportReply:
        self._heard_from(sender)
        noted = self.leader is not None and await self.leader.note_report(sender, report)
        return pb.ReportReply(noted=noted)

    async def _on_accept(self, sender: str, accept: pb.Accept) -> pb.AcceptReply:
        self._heard_from(sender)
        record = parse_record(accept.record)
        legitimate = (
            not self._resigned
            and record.run_id == self.run_id
            and accept.ballot.leader == sender
            and self.me in record.electorate
            and follows(record, self.ledger.commit_id, self.ledger.record)
            and (not record.unanimous or self.may_branch())
        )
        if not legitimate or ballot_key(accept.ballot) != self.ledger.acceptor().promised:
            return pb.AcceptReply(reason="no such record was promised a vote here")
        check_record(
            record,
            self.ledger.record,
            lambda name: version_message(name, self.context.policy.initial(name)),
            self.context.policy.numel,
            self.state.shadow_hashes(),
        )
        if not self.ledger.accept(ballot_key(accept.ballot), accept.record):
            promised = make_ballot(self.ledger.acceptor().promised)
            return pb.AcceptReply(promised=promised, reason="promised a higher ballot")
        text = vote_text(self.run_id, accept.ballot, accept.record)
        vote = pb.Vote(
            voter=self.me,
            ballot=accept.ballot,
            record_sha256=commit_id(accept.record),
            signature=self.context.identity.sign(text),
        )
        return pb.AcceptReply(vote=vote)

    async def _on_commit(self, sender: str, commit: pb.Commit) -> pb.CommitReply:
        self._heard_from(sender)
        return await self.adopt(commit)

    async def _on_get_commit(self, sender: str, request: pb.GetCommit) -> pb.GetCommitReply:
        commit = self.ledger.commit if request.latest else self.ledger.find(request.round)
        if commit is None:
            return pb.GetCommitReply()
        reply = pb.GetCommitReply(commit=commit)
        for peer in parse_record(commit.record).roster:
            signed = self.context.directory.signed(peer)
            if signed is not None:
                reply.members.append(pb.Member(peer=peer, record=signed))
        return reply

    async def _on_resignation(
        self, sender: str, resignation: pb.Resignation
    ) -> pb.ResignationReply:
        known = self.ledger.commit_id
        if sender == resignation.peer and verify_resignation(
            resignation, self.run_id, known, verify
        ):
            self.resignations[sender] = resignation
            self.suspects[sender] = "left"
            if self.leader is not None and not self.leader.finished:
                self.leader.note_resignation(sender)
        return pb.ResignationReply()

    async def resign(self) -> None:
        """Leave the roster in good order: the others need not wait for this peer's vote.

        After it this member promises and votes no more. A peer that has voted in the open round
        can not take that back; it simply goes.
        """
        others = [p for p in self._roster() if p != self.me]
        if self.me not in self._roster() or self.ledger.acceptor().record:
            return
        self._resigned = True
        base = self.ledger.commit_id
        text = resignation_text(self.run_id, base)
        word = pb.Resignation(
            peer=self.me, base_commit=base, signature=self.context.identity.sign(text)
        )

        async def tell(peer: str) -> None:
            with contextlib.suppress(SwarmError):
                await self.call(peer, word, pb.ResignationReply, RESIGN_WAIT)

        await asyncio.gather(*(tell(p) for p in others))

    # ---- commits --------------------------------------------------------------------------

    async def adopt(self, commit: pb.Commit) -> pb.CommitReply:
        """Verify a commit and, if it is newer or of a better history, make it ours."""
        record = verify_commit(commit, self.run_id, verify)
        if not self._accepts(record):
            return pb.CommitReply(adopted=False, reason="not newer than the one known here")
        self.ledger.adopt(commit)
        self._resync.adopt(record)
        self.commit_times.append(self.context.clock())
        self.boundary_since = None
        self.resignations.clear()
        self.offer = None
        self._attempts.end("the round is decided")
        self.context.emit(RoundEvent("committed", record.round, pb.Outcome.Name(record.outcome)))
        async with self.changed:
            self.changed.notify_all()
        return pb.CommitReply(adopted=True)

    def _accepts(self, record: pb.RoundRecord) -> bool:
        current = self.ledger.record
        if follows(record, self.ledger.commit_id, current):
            return True
        return better_history(record, current)

    @property
    def level(self) -> bool:
        """True when this peer has exactly what the newest commit says."""
        return self._resync.level

    @property
    def registry(self) -> ExchangeRegistry:
        """Where the data plane finds the attempt of an incoming stream."""
        return self._attempts.registry

    async def catch_up(self, peer: str) -> None:
        """Ask a peer that seems ahead for its newest commit."""
        with contextlib.suppress(SwarmError):
            reply = await self.call(peer, pb.GetCommit(latest=True), pb.GetCommitReply)
            if reply.commit.record:
                for member in reply.members:
                    self.context.directory.note(member.record)
                await self.adopt(reply.commit)

    async def _send_report(self, leader: str, report: pb.Report) -> None:
        if leader == self.me:
            if self.leader is not None:
                await self.leader.note_report(self.me, report)
            return
        for pause_s in (0.2, 1.0, 0.0):
            try:
                await self.call(leader, report, pb.ReportReply)
                return
            except SwarmError:
                await asyncio.sleep(pause_s)
        self.suspects[leader] = "did not take the report"

    # ---- a round from this peer's side ----------------------------------------------------

    async def run_round(self, offer: Offer | None) -> pb.RoundRecord:
        """Offer an update for the open round and return its record once this peer is level with it.

        `offer` None asks to enter the roster (or to stay in it) without contributing. Returns after
        any newer commit, also one that this peer's update is not in.
        """
        before = self.ledger.commit_id
        self.offer = offer
        self.boundary_since = self.context.clock()
        while self.ledger.commit_id == before:
            await self._announce_ready(self._ready(offer))
            async with self.changed:
                with contextlib.suppress(asyncio.TimeoutError):
                    await asyncio.wait_for(
                        self.changed.wait_for(lambda: self.ledger.commit_id != before),
                        READY_INTERVAL.total_seconds(),
                    )
        await self.resync()
        assert self.ledger.record is not None
        return self.ledger.record

    def _ready(self, offer: Offer | None) -> pb.Ready:
        roster = self._roster()
        ready = pb.Ready(
            round=self.ledger.next_round,
            base_commit=self.ledger.commit_id,
            branch=self.ledger.branch,
            joining=self.me not in roster,
            record=self.context.directory.signed(self.me),
            suspects=sorted(self.suspects),
        )
        if offer is not None:
            ready.steps, ready.tokens, ready.loss = offer.steps, offer.tokens, offer.loss
            ready.routed_tokens.extend(offer.routed_tokens)
            for fragment in sorted(offer.deltas):
                state = self.state.fragments[fragment]
                ready.contributions.add(
                    fragment=fragment,
                    weight=offer.weights.get(fragment, 0.0),
                    base_sha256=state.theta_sha256,
                )
        return ready

    async def _announce_ready(self, ready: pb.Ready) -> None:
        """Tell the first leader in the succession that is not suspected; suspect a dead one."""
        for leader in await self._candidates():
            if leader == self.me:
                if await self._better_leader(self.me, ready) is None:
                    self._lead(self.me, ready)
                return
            if leader in self.suspects:
                continue
            try:
                reply = await self.call(leader, ready, pb.ReadyReply)
            except SwarmError as error:
                if await self.alive(leader):
                    return
                self.suspects[leader] = error.code.value
                self.context.emit(RoundEvent("suspect", ready.round, f"leader {leader}"))
                continue
            if reply.status == pb.ReadyReply.STALE:
                with contextlib.suppress(SwarmError):
                    await self.adopt(reply.commit)
            elif reply.status == pb.ReadyReply.NOT_LEADER:
                self.suspects.pop(reply.leader, None)
            return
        self.suspects.clear()

    async def _candidates(self) -> list[str]:
        if self.ledger.record is not None:
            return self.succession()
        records = await self.context.directory.records()
        founded = [p for p, r in records.items() if r.branch and p != self.me]
        for peer in founded:
            await self.catch_up(peer)
        return [] if founded else self.succession(records)

    def _lead(self, sender: str, ready: pb.Ready) -> None:
        key = (self.ledger.commit_id, self.ledger.next_round)
        if self.leader is None or self.leader.finished or self.leader.key != key:
            if self._leading is not None:
                self._leading.cancel()
            self.leader = RoundLeader(self, key)
            self._leading = self.spawn(self.leader.run())
            self.context.emit(RoundEvent("leading", ready.round))
        self.leader.note_ready(sender, ready)

    async def resync(self) -> None:
        """Download what this peer lacks of the newest commit, from anyone who has it.

        Raises `FRAGMENT_UNAVAILABLE` when nobody serves it within the join limit.
        """
        await self._resync.run(self._roster)

    # ---- life -----------------------------------------------------------------------------

    def spawn(self, work: Coroutine[None, None, None]) -> asyncio.Task[None]:
        """Run something in the background until `close`."""
        task = asyncio.create_task(work)
        self._background.add(task)
        task.add_done_callback(self._background.discard)
        return task

    async def close(self) -> None:
        """End every task and stream of this member."""
        await self._attempts.close()
        for task in list(self._background):
            task.cancel()
        await asyncio.gather(*self._background, return_exceptions=True)
