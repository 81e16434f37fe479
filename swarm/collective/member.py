"""One peer's part in the round protocol: promises, attempts, votes, commits, resync.

`RoundMember` answers the protocol's messages and drives this peer's own progress:

    member = RoundMember(context)         # see Context for what it needs
    await member.run_round(offer)         # returns when the round is decided and the state is level
    await member.join()                   # swarm/collective/join.py, built on this

The leader's side is `swarm/collective/leader.py`. Nothing here trains or knows a model: the outer
step, the assignment and the initial state come in through `Policy`.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Callable, Collection, Coroutine, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Protocol, TypeVar

from google.protobuf.message import Message

from swarm.collective.codecs import F32
from swarm.collective.consensus import (
    ballot_key,
    better_history,
    commit_id,
    follows,
    make_ballot,
    parse_record,
    verify_commit,
    vote_text,
)
from swarm.collective.exchange import Exchange, ExchangeRegistry, Stream
from swarm.collective.leader import RoundLeader
from swarm.collective.ledger import Ledger
from swarm.collective.plan import rendezvous_order, round_key
from swarm.collective.recovery import fetch_fragment
from swarm.collective.reduce import AttemptFailedError
from swarm.collective.state import CanonicalState, FragmentState, version_message
from swarm.config import RunManifest
from swarm.errors import Code, SwarmError
from swarm.identity import Identity, verify
from swarm.network.transport import Transport
from swarm.wire import collective_pb2 as pb
from swarm.wire.control_pb2 import Ping, Pong
from swarm.wire.data_pb2 import ReduceFrame
from swarm.wire.membership_pb2 import PeerRecord, SignedRecord

R = TypeVar("R", bound=Message)
READY_INTERVAL = timedelta(seconds=1)


class Policy(Protocol):
    """What a run decides about fragments; pure."""

    numel: Mapping[str, int]

    def wanted(self, record: pb.RoundRecord | None) -> Collection[str]:
        """Fragments that this peer keeps under the assignments of `record`."""
        ...

    def initial(self, fragment: str) -> FragmentState:
        """The fragment at genesis."""
        ...

    def apply(
        self, fragment: str, mean: F32, state: FragmentState, contributors: int
    ) -> FragmentState:
        """The outer step; the same bits on every machine. `version` is one higher."""
        ...

    def assign(
        self, roster: Sequence[str], previous: Mapping[str, Sequence[int]]
    ) -> Mapping[str, Sequence[int]]:
        """Experts of each member of the new roster."""
        ...


class Directory(Protocol):
    """Who is known: signed records of live peers of this run."""

    async def records(self) -> Mapping[str, PeerRecord]:
        """Records that are valid now, this peer's own included."""
        ...

    def signed(self, peer: str) -> SignedRecord | None:
        """The signed form of a record seen earlier, or None."""
        ...

    def note(self, signed: SignedRecord) -> PeerRecord | None:
        """Take a record from a message; None when it is not valid."""
        ...


class Bulk(Protocol):
    """The data plane as the collective uses it."""

    def reduce_stream(
        self, record: PeerRecord, frames: Iterator[ReduceFrame], timeout: timedelta
    ) -> Stream:
        """Open a reduce stream to a peer."""
        ...

    def download_blob(
        self, sources: Sequence[PeerRecord], sha256: bytes, into: memoryview, timeout: timedelta
    ) -> None:
        """Fetch verified bytes from any source; raises a typed error."""
        ...


@dataclass
class Offer:
    """What a peer brings to a round: pseudo-gradients (base minus local) and their weights."""

    deltas: Mapping[str, F32]
    weights: Mapping[str, float]
    steps: int = 0
    tokens: int = 0
    loss: float = 0.0
    routed_tokens: Sequence[int] = ()


@dataclass(frozen=True)
class RoundEvent:
    """Something worth logging; `name` is stable, `detail` is for people."""

    name: str
    round: int
    detail: str = ""


@dataclass
class Context:
    """Everything a member works with."""

    manifest: RunManifest
    identity: Identity
    transport: Transport
    bulk: Bulk
    directory: Directory
    ledger: Ledger
    state: CanonicalState
    policy: Policy
    clock: Callable[[], float]  # monotonic seconds
    wall_clock: Callable[[], float]  # Unix seconds
    emit: Callable[[RoundEvent], None] = field(default=lambda event: None)


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
        self.heard: dict[str, float] = {}
        self.arrival_spreads: deque[float] = deque(maxlen=20)
        self.registry = ExchangeRegistry(self.timeouts.chunk)
        self.level = asyncio.Event()  # our state equals the newest commit
        self._lacking: list[pb.FragmentVersion] = []
        self._attempt: asyncio.Task[None] | None = None
        self._exchange: Exchange | None = None
        self._leading: asyncio.Task[None] | None = None
        self._background: set[asyncio.Task[None]] = set()
        self.leader: RoundLeader | None = None
        self._serve()
        if self.ledger.record is not None:
            self._level_with(self.ledger.record)

    # ---- messages -------------------------------------------------------------------------

    def _serve(self) -> None:
        serve = self.context.transport.serve
        serve(pb.Ready, self._on_ready)
        serve(pb.Plan, self._on_plan)
        serve(pb.Report, self._on_report)
        serve(pb.Accept, self._on_accept)
        serve(pb.Commit, self._on_commit)
        serve(pb.GetCommit, self._on_get_commit)

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
        if self.me in [m.peer for m in plan.members] and not acceptor.record and plan.fragments:
            self._start_attempt(plan)
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
        if plan.run_id != self.run_id or plan.ballot.leader != sender:
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
        elif plan.unanimous and not self.may_branch():
            reason = "a majority may still decide this round"
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
            record.run_id == self.run_id
            and accept.ballot.leader == sender
            and self.me in record.electorate
            and follows(record, self.ledger.commit_id, self.ledger.record)
            and (not record.unanimous or self.may_branch())
        )
        if not legitimate:
            return pb.AcceptReply(reason="the record does not follow the commit known here")
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

    # ---- commits --------------------------------------------------------------------------

    async def adopt(self, commit: pb.Commit) -> pb.CommitReply:
        """Verify a commit and, if it is newer or of a better history, make it ours."""
        record = verify_commit(commit, self.run_id, verify)
        if not self._accepts(record):
            return pb.CommitReply(adopted=False, reason="not newer than the one known here")
        self.ledger.adopt(commit)
        self._level_with(record)
        self.boundary_since = None
        self.offer = None
        self._end_attempt("the round is decided")
        self.context.emit(RoundEvent("committed", record.round, pb.Outcome.Name(record.outcome)))
        async with self.changed:
            self.changed.notify_all()
        return pb.CommitReply(adopted=True)

    def _accepts(self, record: pb.RoundRecord) -> bool:
        current = self.ledger.record
        if follows(record, self.ledger.commit_id, current):
            return True
        return better_history(record, current)

    def _level_with(self, record: pb.RoundRecord) -> None:
        self._lacking = self.state.adopt(record, self.context.policy.wanted(record))
        if self._lacking:
            self.level.clear()
        else:
            self.level.set()

    async def catch_up(self, peer: str) -> None:
        """Ask a peer that seems ahead for its newest commit."""
        with contextlib.suppress(SwarmError):
            reply = await self.call(peer, pb.GetCommit(latest=True), pb.GetCommitReply)
            if reply.commit.record:
                for member in reply.members:
                    self.context.directory.note(member.record)
                await self.adopt(reply.commit)

    # ---- attempts -------------------------------------------------------------------------

    def _start_attempt(self, plan: pb.Plan) -> None:
        if self._exchange is not None and self._exchange.key[2] == ballot_key(plan.ballot):
            return
        self._end_attempt("a newer attempt began")
        offer = self.offer
        if offer is None:
            return
        exchange = Exchange(plan, self.me, offer.deltas, self._opener(plan), self.timeouts.chunk)
        self._exchange = exchange
        self.registry.add(exchange)
        self._attempt = self.spawn(self._run_attempt(plan, exchange))

    def _opener(self, plan: pb.Plan) -> Callable[[str, Iterator[ReduceFrame]], Stream]:
        records = {m.peer: self.context.directory.note(m.record) for m in plan.members}

        def open_stream(peer: str, frames: Iterator[ReduceFrame]) -> Stream:
            record = records.get(peer)
            if record is None:
                raise SwarmError(Code.PEER_UNREACHABLE, f"no valid record of {peer} in the plan")
            limit = timedelta(milliseconds=plan.attempt_timeout_ms)
            return self.context.bulk.reduce_stream(record, frames, limit)

        return open_stream

    def _end_attempt(self, reason: str) -> None:
        if self._exchange is not None:
            self.registry.remove(self._exchange)
            self._exchange.cancel(reason)
            self._exchange = None

    async def _run_attempt(self, plan: pb.Plan, exchange: Exchange) -> None:
        report = pb.Report(round=plan.round, branch=plan.branch, ballot=plan.ballot)
        try:
            base = self.state.fragments
            means = await asyncio.to_thread(exchange.run)
            shadow = await asyncio.to_thread(self._shadow, plan, means, base)
            if self._exchange is not exchange:
                return
            self.state.add_shadow(shadow)
            report.results.extend(version_message(f, s) for f, s in sorted(shadow.items()))
        except AttemptFailedError as error:
            if self._exchange is not exchange:
                return
            self.context.emit(RoundEvent("attempt_failed", plan.round, error.message))
            report.failure = error.message
            for peer, reason in error.suspects.items():
                report.suspects.append(pb.Suspect(peer=peer, reason=reason))
        await self._send_report(plan.ballot.leader, report)

    def _shadow(
        self, plan: pb.Plan, means: Mapping[str, F32], base: Mapping[str, FragmentState]
    ) -> dict[str, FragmentState]:
        contributors = {f.fragment: len(f.contributors) for f in plan.fragments}
        apply = self.context.policy.apply
        return {name: apply(name, means[name], base[name], contributors[name]) for name in means}

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

    # ---- level with the commit ------------------------------------------------------------

    async def resync(self) -> None:
        """Download what this peer lacks of the newest commit, from anyone who has it.

        Raises `FRAGMENT_UNAVAILABLE` when nobody serves it within the join limit.
        """
        deadline = self.context.clock() + self.timeouts.join_s
        while self._lacking:
            lacking = list(self._lacking)
            done = await self._fetch_all(lacking)
            if lacking == self._lacking:
                self._lacking = [v for v in lacking if v.fragment not in done]
            if self._lacking and self.context.clock() > deadline:
                names = ", ".join(v.fragment for v in self._lacking)
                raise SwarmError(Code.FRAGMENT_UNAVAILABLE, f"no peer serves {names}")
            if self._lacking:
                await asyncio.sleep(0.5)
        self.level.set()

    async def _fetch_all(self, lacking: Sequence[pb.FragmentVersion]) -> set[str]:
        sources = await self._sources()
        done: set[str] = set()
        for version in lacking:
            numel = self.context.policy.numel[version.fragment]
            state = await asyncio.to_thread(
                fetch_fragment, self.context.bulk, sources, version, numel, self.timeouts.join
            )
            if state is not None and version in self._lacking:
                self.state.put(version.fragment, state)
                done.add(version.fragment)
        if done:
            self.context.emit(RoundEvent("resync", self.ledger.next_round - 1, f"{len(done)}"))
        return done

    async def _sources(self) -> list[PeerRecord]:
        roster = set(self._roster())
        records = await self.context.directory.records()
        others = [r for p, r in records.items() if p != self.me]
        return sorted(others, key=lambda r: (r.peer_id not in roster, r.round < 1, r.peer_id))

    # ---- life -----------------------------------------------------------------------------

    def spawn(self, work: Coroutine[None, None, None]) -> asyncio.Task[None]:
        """Run something in the background until `close`."""
        task = asyncio.create_task(work)
        self._background.add(task)
        task.add_done_callback(self._background.discard)
        return task

    async def close(self) -> None:
        """End every task and stream of this member."""
        self._end_attempt("this peer is stopping")
        for task in list(self._background):
            task.cancel()
        await asyncio.gather(*self._background, return_exceptions=True)
