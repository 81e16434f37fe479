"""One peer's part in the round protocol, pure: `handle(event, now) -> effects`."""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any

from google.protobuf.message import Message

from swarm.collective.context import RoundEvent
from swarm.collective.plan import rendezvous_order, round_key
from swarm.collective.protocol import events
from swarm.collective.protocol.attempt import Attempt
from swarm.collective.protocol.boundary import Boundary
from swarm.collective.protocol.effects import (
    Answer,
    Call,
    Effect,
    Emit,
    PersistCommit,
    Refuse,
    WakeAt,
)
from swarm.collective.protocol.elector import Elector
from swarm.collective.protocol.health import Health
from swarm.collective.protocol.history import History
from swarm.collective.protocol.leading import Leading
from swarm.collective.protocol.leaving import Leaving
from swarm.collective.protocol.memory import Memory
from swarm.collective.protocol.recovery import Recovery
from swarm.collective.protocol.setup import Setup
from swarm.collective.validate import check_report
from swarm.errors import SwarmError
from swarm.wire import collective_pb2 as pb
from swarm.wire.membership_pb2 import PeerRecord

OnReply = Callable[[str, "Message | None", "Pending"], None]
NEVER = float("inf")


@dataclass
class Pending:
    """A call in flight; `on_reply(peer, reply or None, pending)` takes its end."""

    call_id: int
    peer: str
    message: Message
    on_reply: OnReply
    tag: Any
    refusal: str = ""  # with which the peer answered


class PeerMachine:
    """See the package's docstring.

    A restart is a new machine with what was persisted: `memory.adopt` for each commit in order,
    `memory.recall(word)`, then `handle(Started(lacking), now)`.

    Attributes:
        memory: commits and word of this peer; changed by the machine only.
        now: time of the event that is being handled.
        out: its effects so far.
        dirty: something changed that an earlier part may wait for.
        known: records of live peers, as last seen.
        leading: the round that this peer leads or led last, or None.
        arrival_spreads: seconds from the first to the last offer, of rounds this peer led.
        failed: a `PersistFailed` came; nothing more is said.
    """

    def __init__(self, setup: Setup, memory: Memory, rng: random.Random) -> None:
        self.setup = setup
        self.memory = memory
        self.rng = rng
        self.now = 0.0
        self.out: list[Effect] = []
        self.dirty = False
        self.failed = False
        self.known: Mapping[str, PeerRecord] = {}
        self.arrival_spreads: deque[float] = deque(maxlen=20)
        self.leading: Leading | None = None
        self.health = Health(self)
        self.history = History(self)
        self.elector = Elector(self)
        self.attempt = Attempt(self)
        self.boundary = Boundary(self)
        self.leaving = Leaving(self)
        self.recovery = Recovery(self)
        self._calls: dict[int, Pending] = {}
        self._last_call = 0
        self._wake = NEVER
        self._wake_told = NEVER
        self._successions: tuple[Any, list[str]] = (None, [])
        self._roster: tuple[bytes, tuple[str, ...]] = (b"", ())
        self._serves: dict[type[Message], Callable[[str, Any, int], Message | None]] = {
            pb.Ready: self.boundary.on_ready,
            pb.Report: self._on_report,
            pb.Plan: self.elector.on_plan,
            pb.Accept: self.elector.on_accept,
            pb.Resignation: self.leaving.on_resignation,
            pb.Commit: self.history.on_commit,
            pb.GetCommit: self.history.on_get_commit,
        }

    def handle(self, event: events.Event, now: float) -> list[Effect]:
        """Take one event at `now` (seconds of any clock that does not go back)."""
        if self.failed:
            return []
        self.now = now
        out = self.out = []
        self._take(event)
        self._advance()
        self.out = []
        return out

    def unfinished(self) -> list[Effect]:
        """Effects of an event in the middle of which `handle` raised something unexpected.

        They have to be carried out all the same: the machine has changed as they say. A commit
        would else be adopted in its memory alone, and a call be waited for that nobody makes. Each
        comes after those that it rests on, so that it is as if this peer had been stopped there.
        """
        self._wake_told = NEVER  # whoever asks will come again at a time of his own
        out, self.out = self.out, []
        return out

    def _take(self, event: events.Event) -> None:
        match event:
            case events.Received():
                self._received(event)
            case events.Replied():
                self._replied(event)
            case events.Tick():
                pass
            case events.Started():
                self.recovery.set_lacking(event.lacking)
            case events.Adopted():
                self._adopted(event)
            case events.Offered():
                self.boundary.offered(event)
            case events.Withdrawn():
                self.boundary.withdraw()
            case events.AttemptEnded():
                self.attempt.ended(event.report)
            case events.RecordsSeen():
                self.known = event.records
                self.boundary.records_seen()
                if event.discovering:
                    self.history.look_into(event.records)
            case events.LevelAsked():
                self.recovery.ask()
            case events.Fetched():
                self.recovery.fetched(event.version)
            case events.FetchFailed():
                self.recovery.failed(event.version)
            case events.LeaveAsked():
                self.leaving.begin()
            case events.StayAsked():
                self.leaving.stay()
            case events.PersistFailed():
                self.failed = True
                if isinstance(event.effect, PersistCommit):
                    self.history.forget(event.effect.commit)

    def _received(self, event: events.Received) -> None:
        try:
            answer = self._serves[type(event.message)](event.sender, event.message, event.call_id)
        except SwarmError as error:
            self.out.append(Refuse(event.call_id, error))
            return
        if answer is not None:
            self.out.append(Answer(event.call_id, answer))

    def _replied(self, event: events.Replied) -> None:
        pending = self._calls.pop(event.call_id, None)
        if pending is None:
            return
        pending.refusal = event.refusal
        if event.reply is not None:
            self.health.heard_from(pending.peer)
        pending.on_reply(pending.peer, event.reply, pending)

    def _adopted(self, event: events.Adopted) -> None:
        self.recovery.set_lacking(event.lacking)
        record = self.memory.record
        if record is not None:
            outcome = pb.Outcome.Name(record.outcome)
            self.emit(RoundEvent("committed", record.round, outcome))

    def _on_report(self, sender: str, report: pb.Report, call_id: int) -> pb.ReportReply:
        check_report(report, self.setup.policy.numel, self.setup.policy.open_tags)
        self.health.heard_from(sender)
        noted = self.leading is not None and self.leading.note_report(sender, report)
        return pb.ReportReply(noted=noted)

    def _advance(self) -> None:
        """Let every part go on as far as it can, and say when to come again."""
        self.dirty = True
        while self.dirty:
            self.dirty = False
            self._wake = NEVER
            self.boundary.step()
            if self.leading is not None and not self.leading.finished:
                self.leading.step()
            self.attempt.step()
            self.history.step()
            self.leaving.step()
            self.recovery.step()
            self.health.step()
        if self._wake != self._wake_told or self.now >= self._wake_told:
            self._wake_told = self._wake
            self.out.append(WakeAt(None if self._wake == NEVER else self._wake))

    # ---- for the parts --------------------------------------------------------------------

    def call(
        self,
        peer: str,
        message: Message,
        on_reply: OnReply,
        *,
        timeout_s: float | None = None,
        tag: Any = None,
    ) -> int:
        """Call another peer; its end goes to `on_reply`. Returns the call's id."""
        self._last_call += 1
        pending = Pending(self._last_call, peer, message, on_reply, tag)
        self._calls[pending.call_id] = pending
        limit_s = timeout_s if timeout_s is not None else self.setup.timeouts.heartbeat_s
        self.out.append(Call(pending.call_id, peer, message, limit_s))
        return pending.call_id

    def wake_by(self, time_s: float) -> None:
        """Come again at this time at the latest; what is due already does not count."""
        if self.now < time_s < self._wake:
            self._wake = time_s

    def emit(self, event: RoundEvent) -> None:
        """Something worth logging."""
        self.out.append(Emit(event))

    def quietly(self, work: Callable[..., object], *arguments: Any) -> None:
        """Do something with what somebody said; if it is not valid, nothing happens."""
        try:
            work(*arguments)
        except SwarmError:
            return

    def round_is_over(self) -> None:
        """A commit was adopted."""
        self.attempt.end("the round is decided")
        self.boundary.round_is_over()
        self.health.round_is_over()
        self.recovery.commit_changed()
        self.dirty = True

    # ---- what this peer is in the open round ----------------------------------------------

    @property
    def open_key(self) -> tuple[bytes, int]:
        """What names the open round: the commit that it follows, and its number."""
        return (self.memory.commit_id, self.memory.next_round)

    @property
    def roster(self) -> tuple[str, ...]:
        """Members by the newest commit."""
        if self._roster[0] != self.memory.commit_id:
            record = self.memory.record
            self._roster = (self.memory.commit_id, tuple(record.roster) if record else ())
        return self._roster[1]

    @property
    def declines(self) -> bool:
        """True when this peer can not lead the open round, as it gave up its vote in it."""
        return self.memory.abstains and not self.may_branch()

    def may_branch(self) -> bool:
        """True before the first commit, and when this round has been open here for a lease."""
        return self.memory.record is None or self.now >= self.branches_at

    @property
    def branches_at(self) -> float:
        """When this peer may go on without a majority, if the open round lasts so long."""
        since = self.boundary.since
        if since is None or self.setup.manifest.membership.on_majority_lost != "continue":
            return NEVER
        return since + self.setup.timeouts.lease_s

    def succession(self, known: Collection[str] = ()) -> list[str]:
        """Leaders of the open round in order. Before the first commit: of the known peers."""
        memory = self.memory
        electors = self.roster if memory.record is not None else tuple({self.setup.me, *known})
        key = (memory.commit_id, frozenset(electors) if memory.record is None else None)
        if self._successions[0] != key:
            name = round_key(self.setup.run_id, memory.branch, memory.next_round)
            self._successions = (key, rendezvous_order(name, electors))
        return self._successions[1]

    @property
    def level(self) -> bool:
        """True when this peer has exactly what the newest commit says."""
        return self.recovery.level

    @property
    def discovering(self) -> bool:
        """True while better histories are looked into after `RecordsSeen(discovering=True)`."""
        return self.history.looking
