"""The asyncio side of a `PeerMachine`: messages become events, effects become what they say.

    driver = Driver(context, machine)
    driver.feed(Offered(...))            # carries out every effect that needs no waiting

Single event loop; nothing here decides anything.
"""

from __future__ import annotations

import asyncio
import itertools
from collections import deque
from collections.abc import Callable, Coroutine, Mapping, Sequence
from datetime import timedelta

from google.protobuf.message import Message

from swarm.collective.attempts import Attempts
from swarm.collective.context import Context, Offer, RoundEvent
from swarm.collective.protocol import effects, events
from swarm.collective.protocol.machine import PeerMachine
from swarm.collective.recovery import download
from swarm.errors import Code, SwarmError
from swarm.wire import collective_pb2 as pb
from swarm.wire.membership_pb2 import PeerRecord

GOODBYE_S = 1.0
DEFECT_PAUSE_S = 1.0  # after which the machine is asked to go on
SERVED = (pb.Ready, pb.Report, pb.Plan, pb.Accept, pb.Resignation, pb.Commit, pb.GetCommit)


class Driver:
    """See the module docstring.

    Attributes:
        offer: the data of this peer's update for the open round.
        failure: why this peer can not go on.
        on_change: called when the newest commit changed, or `failure` was set.
    """

    def __init__(self, context: Context, machine: PeerMachine) -> None:
        self.offer: Offer | None = None
        self.failure: SwarmError | None = None
        self.on_change: Callable[[], None] = lambda: None
        self.attempts = Attempts(context, self._send_report)
        self._context = context
        self._machine = machine
        self._inbox: deque[events.Event] = deque()
        self._urgent: deque[events.Event] = deque()
        self._busy = False
        self._closed = False
        self._changed = False
        self._numbers = itertools.count(1)
        self._answers: dict[int, asyncio.Future[Message]] = {}
        self._leveling: list[asyncio.Future[None]] = []
        self._leaving: list[asyncio.Future[None]] = []
        self._discovering: list[asyncio.Future[None]] = []
        self._timer: asyncio.TimerHandle | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._telling: set[asyncio.Task[None]] = set()  # of a commit
        for kind in SERVED:
            context.transport.serve(kind, self._serve)

    # ---- events ---------------------------------------------------------------------------

    def feed(self, event: events.Event) -> None:
        """Hand an event to the machine and carry out what follows."""
        self._inbox.append(event)
        if self._busy or self._closed:
            return
        self._busy = True
        try:
            while (self._urgent or self._inbox) and not self._closed:
                self._take((self._urgent or self._inbox).popleft())
        finally:
            self._busy = False
        self._tell_waiters()

    def _take(self, event: events.Event) -> None:
        try:
            todo = self._machine.handle(event, self._context.clock())
        except Exception as error:
            self._report_defect(error)
            self._carry_out_all(self._machine.unfinished())
            self._wake_at(self._context.clock() + DEFECT_PAUSE_S)
            if isinstance(event, events.Received):
                self._refuse(event.call_id, SwarmError(Code.INTERNAL, repr(error)))
            return
        self._carry_out_all(todo)

    def _carry_out_all(self, todo: Sequence[effects.Effect]) -> None:
        """In order; what can not be kept is neither said nor done."""
        for effect in todo:
            try:
                self._carry_out(effect)
            except SwarmError as error:
                if not isinstance(effect, effects.PersistWord | effects.PersistCommit):
                    raise
                self._fail(error)
                self._urgent.append(events.PersistFailed(effect))
                return

    async def _serve(self, sender: str, message: Message) -> Message:
        if self.failure is not None:
            raise self.failure.again()
        call_id = next(self._numbers)
        answer: asyncio.Future[Message] = asyncio.get_running_loop().create_future()
        self._answers[call_id] = answer
        try:
            self.feed(events.Received(sender, call_id, message))
            return await answer
        finally:
            del self._answers[call_id]

    async def _send_report(self, leader: str, report: pb.Report) -> None:
        self.feed(events.AttemptEnded(report))

    def _tick(self) -> None:
        self.feed(events.Tick())

    # ---- effects --------------------------------------------------------------------------

    def _carry_out(self, effect: effects.Effect) -> None:
        context = self._context
        match effect:
            case effects.Call():
                task = self.spawn(self._call(effect))
                if isinstance(effect.message, pb.Commit):
                    self._telling.add(task)
                    task.add_done_callback(self._telling.discard)
            case effects.Answer():
                self._answer(effect.call_id, effect.message)
            case effects.Refuse():
                self._refuse(effect.call_id, effect.error)
            case effects.PersistWord():
                context.ledger.save_word(effect.word)
            case effects.PersistCommit():
                context.ledger.save_commit(effect.commit, effect.links)
            case effects.StartAttempt():
                if self.offer is not None:
                    self.attempts.start(effect.plan, self.offer)
            case effects.EndAttempt():
                self.attempts.end(effect.reason)
            case effects.Adopt():
                self.offer = None
                self._changed = True
                lacking = context.state.adopt(effect.record, context.policy.wanted(effect.record))
                self._urgent.append(events.Adopted(tuple(lacking)))
            case effects.Fetch():
                self.spawn(self._fetch(effect))
            case effects.FetchGaveUp():
                self._give_up(effect.fragments)
            case effects.LookUp():
                self.spawn(self._look_up())
            case effects.Learn():
                context.directory.note(effect.record)
            case effects.Left():
                _resolve(self._leaving)
            case effects.Emit():
                context.emit(effect.event)
            case effects.WakeAt():
                self._wake_at(effect.time_s)

    async def _call(self, effect: effects.Call) -> None:
        reply: Message | None = None
        refusal = ""
        limit = timedelta(seconds=effect.timeout_s)
        kind = effects.REPLIES[type(effect.message)]
        try:
            reply = await self._context.transport.call(effect.peer, effect.message, kind, limit)
        except SwarmError as error:
            if error.code is Code.PEER_REFUSED:
                refusal = error.message
        except Exception as error:
            self._report_defect(error)
        self.feed(events.Replied(effect.call_id, reply, refusal))

    def _answer(self, call_id: int, message: Message) -> None:
        answer = self._answers.get(call_id)
        if answer is not None and not answer.done():
            answer.set_result(message)

    def _refuse(self, call_id: int, error: SwarmError) -> None:
        answer = self._answers.get(call_id)
        if answer is not None and not answer.done():
            answer.set_exception(error)

    async def _fetch(self, effect: effects.Fetch) -> None:
        state = None
        try:
            state = await download(self._context, effect.version, effect.preferred)
        except Exception as error:
            self._report_defect(error)
        if state is not None and self._machine.recovery.wants(effect.version):
            self._context.state.put(effect.version.fragment, state)
            self.feed(events.Fetched(effect.version))
        else:
            self.feed(events.FetchFailed(effect.version))

    async def _look_up(self) -> None:
        self.feed(events.RecordsSeen(await self._context.directory.records()))

    def _wake_at(self, time_s: float | None) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if time_s is not None:
            # A little late, so that the machine's clock has surely come to that time.
            delay_s = max(0.0, time_s - self._context.clock()) + 0.001
            self._timer = asyncio.get_running_loop().call_later(delay_s, self._tick)

    def _give_up(self, fragments: tuple[str, ...]) -> None:
        limit_s = self._context.manifest.timeouts.join_s
        error = SwarmError(
            Code.FRAGMENT_UNAVAILABLE,
            f"no peer served {', '.join(fragments)} for {limit_s:g} s",
            "a peer that holds the newest state must be online",
        )
        _resolve(self._leveling, error)

    def _fail(self, error: SwarmError) -> None:
        """What was promised or decided can not be kept: this peer stops."""
        self.failure = error
        self._changed = True
        self.attempts.end("this peer has failed")
        for call_id in list(self._answers):
            self._refuse(call_id, error)
        for waiting in (self._leveling, self._leaving, self._discovering):
            _resolve(waiting, error)

    def _report_defect(self, error: Exception) -> None:
        detail = f"{type(error).__name__}: {error}"
        event = RoundEvent("task_failed", self._context.ledger.next_round, detail)
        self._context.emit(event)

    # ---- waiting --------------------------------------------------------------------------

    def _tell_waiters(self) -> None:
        if self._machine.level:
            _resolve(self._leveling)
        if not self._machine.discovering:
            _resolve(self._discovering)
        if self._changed:
            self._changed = False
            self.on_change()

    async def level(self) -> None:
        """Fetch what is lacking. Raises `FRAGMENT_UNAVAILABLE`, or why this peer failed."""
        await self._wait(self._leveling, events.LevelAsked())

    async def leave(self) -> None:
        """Resign, if it may be."""
        await self._wait(self._leaving, events.LeaveAsked())

    def stay(self) -> None:
        """Take part again after `leave`."""
        self.feed(events.StayAsked())

    async def look_into(self, records: Mapping[str, PeerRecord]) -> None:
        """Look into the histories that these peers claim."""
        await self._wait(self._discovering, events.RecordsSeen(records, discovering=True))

    async def _wait(self, waiting: list[asyncio.Future[None]], event: events.Event) -> None:
        if self.failure is not None:
            raise self.failure.again()
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        waiting.append(done)
        self.feed(event)
        await done

    # ---- life -----------------------------------------------------------------------------

    def spawn(self, work: Coroutine[None, None, None]) -> asyncio.Task[None]:
        """Run something in the background until `close`."""
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            detail = f"{type(error).__name__}: {error}"
            event = RoundEvent("task_failed", self._context.ledger.next_round, detail)
            self._context.emit(event)

    async def close(self) -> None:
        """End every task, call and stream; the others are told of a commit first, for a moment."""
        if self._telling:
            await asyncio.wait(self._telling, timeout=GOODBYE_S)
        self._closed = True
        if self._timer is not None:
            self._timer.cancel()
        await self.attempts.close()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


def _resolve(waiting: list[asyncio.Future[None]], error: SwarmError | None = None) -> None:
    """End everybody's waiting, with an error if there is one."""
    for done in waiting:
        if not done.done():
            if error is None:
                done.set_result(None)
            else:
                done.set_exception(error)
    waiting.clear()
