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
from swarm.collective.context import READY_INTERVAL, Context, Offer, RoundEvent
from swarm.collective.elector import Elector
from swarm.collective.exchange import ExchangeRegistry
from swarm.collective.history import History
from swarm.collective.leader import RoundLeader
from swarm.collective.offers import contributions_of
from swarm.collective.plan import rendezvous_order, round_key
from swarm.collective.recovery import Resync
from swarm.collective.validate import check_ready, check_report
from swarm.errors import SwarmError
from swarm.wire import collective_pb2 as pb
from swarm.wire.control_pb2 import Ping, Pong

R = TypeVar("R", bound=Message)


class RoundMember:
    """See the module docstring. One instance per peer and process; single event loop."""

    def __init__(self, context: Context) -> None:
        self.context = context
        self.me = context.transport.peer_id
        self.run_id = context.manifest.run_id
        self.timeouts = context.manifest.timeouts
        self.ledger = context.ledger
        self.state = context.state
        training = context.manifest.training
        round_tokens = training.inner_steps * training.batch_size * training.sequence_length
        self.max_round_tokens = 4 * round_tokens  # of one peer; weights are clipped to 4 as well
        self.offer: Offer | None = None
        self.boundary_since: float | None = None  # when this peer became ready for the open round
        self.changed = asyncio.Condition()  # notified when the newest commit changes
        self.suspects: dict[str, str] = {}
        self.declined: set[str] = set()  # peers that do not lead the open round
        self.heard: dict[str, float] = {}
        self.arrival_spreads: deque[float] = deque(maxlen=20)  # of rounds this peer led
        self.commit_times: deque[float] = deque(maxlen=20)
        self.attempts = Attempts(context, self._send_report)
        self._resync = Resync(context)
        self._leading: asyncio.Task[None] | None = None
        self._background: set[asyncio.Task[None]] = set()
        self.leader: RoundLeader | None = None
        self.elector = Elector(self)
        self.history = History(self)
        self._waiting_for = ("", 0.0)  # the leader that was told of the offer, and since when
        self.failure: SwarmError | None = None  # why this peer can not go on
        self._serve()
        if self.ledger.record is not None:
            self._resync.adopt(self.ledger.record)

    # ---- messages -------------------------------------------------------------------------

    def _serve(self) -> None:
        serve = self.context.transport.serve
        serve(pb.Ready, self._on_ready)
        serve(pb.Report, self._on_report)

    async def call(
        self, peer: str, request: Message, reply: type[R], timeout: timedelta | None = None
    ) -> R:
        """Call a peer, remembering that it answered."""
        limit = timeout or self.timeouts.heartbeat
        answer = await self.context.transport.call(peer, request, reply, limit)
        self.heard_from(peer)
        return answer

    def heard_from(self, peer: str) -> None:
        """Note a sign of life."""
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
        policy = self.context.policy
        check_ready(
            ready, policy.numel, policy.routing_width, self.max_round_tokens, policy.open_tags
        )
        self.heard_from(sender)
        self.context.directory.note(ready.record)
        commit = self.ledger.commit
        if ready.base_commit != self.ledger.commit_id or ready.round != self.ledger.next_round:
            if commit is not None and ready.round <= self.ledger.next_round:
                return pb.ReadyReply(status=pb.ReadyReply.STALE, commit=commit)
            self.spawn(self.history.catch_up(sender))
            return pb.ReadyReply(status=pb.ReadyReply.COLLECTING)
        if self.declines:
            return pb.ReadyReply(status=pb.ReadyReply.NOT_LEADER)
        better = await self._better_leader(sender, ready)
        if better is not None:
            return pb.ReadyReply(status=pb.ReadyReply.NOT_LEADER, leader=better)
        self._lead(sender, ready)
        return pb.ReadyReply(status=pb.ReadyReply.COLLECTING)

    async def _better_leader(self, sender: str, ready: pb.Ready) -> str | None:
        """A live peer before this one in the succession, which the sender has not given up."""
        leading = self.leader is not None and not self.leader.finished
        if leading and self.leader is not None and self.leader.key == self._open_key():
            return None
        for peer in self.succession([sender]):
            if peer == self.me:
                return None
            if peer in ready.declined:
                continue
            if peer not in ready.suspects and peer not in self.suspects:
                return peer
            if await self.alive(peer):
                return peer
        return None

    @property
    def declines(self) -> bool:
        """True when this peer can not lead the open round, as it gave up its vote in it."""
        return self.ledger.abstains and not self.may_branch()

    def succession(self, known: Collection[str] = ()) -> list[str]:
        """Leaders of the open round in order. Before the first commit: of the known peers."""
        record = self.ledger.record
        electors = set(record.roster) if record is not None else {self.me, *known}
        key = round_key(self.run_id, self.ledger.branch, self.ledger.next_round)
        return rendezvous_order(key, electors)

    def may_branch(self) -> bool:
        """True before the first commit, and when this round has been open here for a lease."""
        if self.ledger.record is None:
            return True
        waited = self.context.clock() - (self.boundary_since or self.context.clock())
        policy = self.context.manifest.membership.on_majority_lost
        return policy == "continue" and waited > self.timeouts.lease_s

    def roster(self) -> list[str]:
        """Members by the newest commit."""
        return list(self.ledger.record.roster) if self.ledger.record is not None else []

    async def _on_report(self, sender: str, report: pb.Report) -> pb.ReportReply:
        check_report(report, self.context.policy.numel, self.context.policy.open_tags)
        self.heard_from(sender)
        noted = self.leader is not None and await self.leader.note_report(sender, report)
        return pb.ReportReply(noted=noted)

    # ---- commits --------------------------------------------------------------------------

    async def adopt(self, commit: pb.Commit, record: pb.RoundRecord) -> None:
        """Make a commit ours, which was verified and is ours to follow. Raises `DISK_FULL`."""
        try:
            self.ledger.adopt(commit)
        except SwarmError as error:
            self.failure = error
            await self._notify()
            raise
        self._resync.adopt(record)
        self.commit_times.append(self.context.clock())
        self.boundary_since = None
        self.declined.clear()
        self.offer = None
        self.attempts.end("the round is decided")
        self.context.emit(RoundEvent("committed", record.round, pb.Outcome.Name(record.outcome)))
        await self._notify()

    async def _notify(self) -> None:
        async with self.changed:
            self.changed.notify_all()

    @property
    def level(self) -> bool:
        """True when this peer has exactly what the newest commit says."""
        return self._resync.level

    @property
    def registry(self) -> ExchangeRegistry:
        """Where the data plane finds the attempt of an incoming stream."""
        return self.attempts.registry

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
        any newer commit, also one that this peer's update is not in; at once when the offer was not
        trained from the newest commit. Raises `DISK_FULL` when a commit could not be kept.
        """
        before = self.ledger.commit_id
        if offer is not None and offer.base_commit != before:
            await self.resync()
            assert self.ledger.record is not None
            return self.ledger.record
        self.offer = offer
        self.boundary_since = self.context.clock()
        while self.ledger.commit_id == before:
            if self.failure is not None:
                raise self.failure
            offer = self.offer
            await self._announce_ready(self._ready(offer))
            async with self.changed:
                with contextlib.suppress(asyncio.TimeoutError):
                    await asyncio.wait_for(
                        self.changed.wait_for(
                            lambda: (
                                self.ledger.commit_id != before
                                or self.failure is not None
                                or self.offer is not offer
                            )
                        ),
                        READY_INTERVAL.total_seconds(),
                    )
        await self.resync()
        assert self.ledger.record is not None
        return self.ledger.record

    async def revise(self, offer: Offer) -> None:
        """Offer something else in the open round, if `run_round` waits in it; told at once.

        What an attempt has taken of the earlier offer must be in it too.
        """
        if self.offer is not None and offer.base_commit == self.ledger.commit_id:
            self.offer = offer
            await self._notify()

    def _ready(self, offer: Offer | None) -> pb.Ready:
        roster = self.roster()
        ready = pb.Ready(
            round=self.ledger.next_round,
            base_commit=self.ledger.commit_id,
            branch=self.ledger.branch,
            joining=self.me not in roster,
            record=self.context.directory.signed(self.me),
            suspects=sorted(self.suspects),
            declined=sorted(self.declined),
        )
        if offer is not None:
            ready.steps, ready.tokens, ready.loss = offer.steps, offer.tokens, offer.loss
            ready.routed_tokens.extend(offer.routed_tokens)
            ready.contributions.extend(contributions_of(offer, self.state.fragments))
        return ready

    async def _announce_ready(self, ready: pb.Ready) -> None:
        """Tell the first leader in the succession that is not suspected; suspect a dead one."""
        for leader in await self._candidates():
            if leader == self.me:
                if self.declines:
                    continue
                if await self._better_leader(self.me, ready) is None:
                    self._lead(self.me, ready)
                return
            if leader in self.suspects or leader in self.declined:
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
                    await self.history.consider(reply.commit, leader)
            elif self._waits_too_long_for(leader):
                self.declined.add(leader)
                continue
            elif reply.status == pb.ReadyReply.NOT_LEADER and not reply.leader:
                self.declined.add(leader)
                continue
            elif reply.status == pb.ReadyReply.NOT_LEADER:
                self.suspects.pop(reply.leader, None)
            return
        self.suspects.clear()
        self.declined.clear()

    def _waits_too_long_for(self, leader: str) -> bool:
        """True when a leader takes this peer's word again and again but makes no plan."""
        now = self.context.clock()
        if self._waiting_for[0] != leader or self._waiting_for[1] < (self.boundary_since or now):
            self._waiting_for = (leader, now)
        patience_s = self.timeouts.round_s + self.timeouts.attempt_s
        return self.offer is not None and now - self._waiting_for[1] > patience_s

    async def _candidates(self) -> list[str]:
        if self.ledger.record is not None:
            return self.succession()
        records = await self.context.directory.records()
        founded = [p for p, r in records.items() if r.branch and p != self.me]
        for peer in founded:
            await self.history.catch_up(peer, trusting=not self.commit_times)
        return [] if founded else self.succession(records)

    def _open_key(self) -> tuple[bytes, int]:
        return (self.ledger.commit_id, self.ledger.next_round)

    def _lead(self, sender: str, ready: pb.Ready) -> None:
        key = self._open_key()
        if (ready.base_commit, ready.round) != key:
            return  # decided while the succession was looked at
        if self.leader is None or self.leader.finished or self.leader.key != key:
            if self._leading is not None:
                self._leading.cancel()
            self.leader = RoundLeader(self, key)
            self._leading = self.spawn(self.leader.run())
            self.context.emit(RoundEvent("leading", ready.round))
        self.leader.attendance.note(sender, ready)

    async def resync(self) -> None:
        """Download what this peer lacks of the newest commit, from anyone who has it.

        Raises `FRAGMENT_UNAVAILABLE` when nobody serves it within the join limit.
        """
        await self._resync.run(self.roster)

    async def resign(self) -> None:
        """Leave the roster in good order, before `close`; see `Elector.resign`."""
        await self.elector.resign()

    # ---- life -----------------------------------------------------------------------------

    def spawn(self, work: Coroutine[None, None, None]) -> asyncio.Task[None]:
        """Run something in the background until `close`."""
        task = asyncio.create_task(work)
        self._background.add(task)
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._background.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            detail = f"{type(error).__name__}: {error}"
            self.context.emit(RoundEvent("task_failed", self.ledger.next_round, detail))

    async def close(self) -> None:
        """End every task and stream of this member."""
        await self.attempts.close()
        for task in list(self._background):
            task.cancel()
        await asyncio.gather(*self._background, return_exceptions=True)
