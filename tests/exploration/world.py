"""A few peers with real protocol machines in a world of events: time, messages, disks, accidents.

    world = World(Schedule.random(seed))
    world.run()                       # raises Violation; `world.story` says how it came to it

Everything is in virtual time and in one heap of events. What can differ between two runs is asked
of the schedule, so the same answers give the same run. First there is a time of accidents; then all
is healed, and the living have to become one swarm that commits again.
"""

from __future__ import annotations

import heapq
import itertools
import random
from collections import Counter
from collections.abc import Callable
from typing import Any

from accidents import Accidents
from ending import explain, is_whole
from engine import Engine
from lives import Lives, find_fragment
from network import LATENCY_S, Network
from oracle import Oracle, Violation
from peer import Peer
from rules import FRAGMENTS, NAMES, SIGNATURE, Rules, fork, manifest
from schedule import Schedule
from steering import KEY, Steering
from telling import describe

from swarm.collective.protocol import effects as fx
from swarm.collective.protocol import events as ev
from swarm.collective.protocol.setup import Setup
from swarm.identity import public_key_of
from swarm.wire import collective_pb2 as pb

HEALED_S = 90.0  # virtual time within which a healed world commits
MAX_EVENTS = 500_000
TOKENS = (100, 100, 100, 50, 1)  # that a peer trains in a round
FORKED = 0.08  # share of worlds that begin with two branches
FAULTY = 0.15  # share of worlds in which one machine computes wrong bits


class World:
    """See the module docstring.

    Attributes:
        story: what happened, a line for each event, when `telling`.
        seen: how often something notable happened, to judge what an exploration covers.
        healed: nothing goes wrong any more.
        faulty: the peer that computes wrong bits, if any.
        tokens: what peers may train in a round.
    """

    def __init__(self, schedule: Schedule, *, telling: bool = False) -> None:
        self.telling = telling
        self.story: list[str] = []
        self.seen: Counter[str] = Counter()
        self.now = 0.0
        self.healed = False
        self.peers: dict[str, Peer] = {}
        self._schedule = schedule
        self._asked: Counter[Any] = Counter()
        self._heap: list[tuple[float, int, Callable[..., None], tuple[Any, ...]]] = []
        self._order = itertools.count()
        self.network = Network(self)
        self.lives = Lives(self)
        self.oracle = Oracle(self)
        self.engine = Engine(self)
        self.steering = Steering(self)
        self._begin()

    def _begin(self) -> None:
        count = self.ask(("peers",), 3, lambda r: r.choice((2, 3, 3, 3, 3, 4, 5)))
        names = NAMES[:count]
        policy = self.ask(("policy",), "continue", lambda r: r.choice(("continue", "wait")))
        self.faulty = self.ask(("faulty",), "", lambda r: _draw_faulty(r, names))
        self.tokens = self.ask(("tokens",), TOKENS, lambda r: r.choice((TOKENS,) * 7 + ((0,),)))
        key = public_key_of(KEY.peer_id).public_bytes_raw().hex()
        self._manifest = manifest(policy, count, key)
        for name in names:
            self.make(name)
        if self.ask(("founded",), True, lambda r: r.random() < 0.9):
            self._begin_founded(names)
        self.accidents = Accidents(self, names)
        for peer in list(self.peers.values()):
            self.after(self.ask(("start", peer.id), 0.0, _start_time), self.lives.boot, peer)

    def _begin_founded(self, names: tuple[str, ...]) -> None:
        """The run was founded before; a few worlds begin where a cut has just been mended."""
        few = self.ask(("apart",), (), lambda r: _draw_minority(r, names))
        sides = [few, tuple(n for n in names if n not in few)]
        rounds = [self.ask(("rounds", i), (), _draw_rounds) if few else () for i in range(2)]
        for peer in self.peers.values():
            side = peer.id not in few
            links = fork(len(names), sides[side], rounds[side])
            peer.disk_commits = [commit for commit, _, _ in links]
            for commit, record, signed in links:
                self.network.signed.update(signed)
                self.oracle.note_before(peer, commit, record)
            self.network.publish_record(peer.id, links[-1][1], b"")

    def make(self, name: str) -> Peer:
        """A peer that has never run."""

        def sign(text: bytes) -> bytes:
            self.network.signed.add((name, text))
            return SIGNATURE

        setup = Setup(
            me=name,
            manifest=self._manifest,
            policy=Rules(),
            sign=sign,
            verify=self.network.verify,
            note=self.network.note,
            signed=self.network.signed_record,
            change=lambda: peer.change,
        )
        peer = self.peers[name] = Peer(name, setup)
        self.network.publish_record(name, None, b"")
        return peer

    # ---- chance and time ------------------------------------------------------------------

    def ask(self, name: tuple[Any, ...], default: Any, draw: Callable[[random.Random], Any]) -> Any:
        """A question to the schedule; the same name may be asked again and again."""
        self._asked[name] += 1
        return self._schedule.ask((*name, self._asked[name]), default, draw)

    def after(self, delay: float, work: Callable[..., None], *args: Any) -> None:
        """Do something later."""
        heapq.heappush(self._heap, (self.now + delay, next(self._order), work, args))

    def tell(self, line: str) -> None:
        """Add a line to the story."""
        self.story.append(f"{self.now:8.3f}  {line}")

    def run(self) -> None:
        """The time of accidents, then the time of healing. Raises `Violation`."""
        self._run_until(self.accidents.end_s, lambda: False)
        self.accidents.heal()
        self.healed = True
        self.oracle.healed()
        if not self._run_until(self.now + HEALED_S, lambda: is_whole(self)):
            explain(self)

    def _run_until(self, limit: float, done: Callable[[], bool]) -> bool:
        heap, oracle = self._heap, self.oracle
        while heap and heap[0][0] <= limit:
            self.now, number, work, args = heapq.heappop(heap)
            work(*args)
            if number > MAX_EVENTS:
                raise Violation("it never comes to rest", self)
            if oracle.changed:
                oracle.changed = False
                if done():
                    return True
        self.now = limit
        return done()

    # ---- events and effects ---------------------------------------------------------------

    def handle(self, peer: Peer, event: ev.Event) -> None:
        """Hand an event to a machine and carry out what it wants done."""
        life = peer.life
        try:
            effects = peer.machine.handle(event, self.now)
        except Exception as error:
            raise Violation(f"{peer.id} breaks: {type(error).__name__}: {error}", self) from error
        urgent: list[ev.Event] = []  # handed in before anything else
        for effect in effects:
            trap = self.accidents.trap(peer, effect)
            if trap == "full":
                urgent = [ev.PersistFailed(effect)]
                break
            if trap == "before":
                self.lives.crash(peer, f"before it can {describe(effect)}")
                return
            self._carry_out(peer, effect, urgent)
            if trap == "after":
                self.lives.crash(peer, f"after it could {describe(effect)}")
            if peer.life != life or not peer.alive:
                return
        for follow_up in urgent:
            self.handle(peer, follow_up)
        if peer.life == life and peer.alive:
            self._look_after(peer)

    def _look_after(self, peer: Peer) -> None:
        if peer.machine.failed:
            self.lives.crash(peer, "as its disk is full")
            return
        self.oracle.check_state(peer)
        self.lives.go_on(peer)

    def _carry_out(self, peer: Peer, effect: fx.Effect, urgent: list[ev.Event]) -> None:
        if self.telling and not isinstance(effect, fx.WakeAt | fx.Learn):
            self.tell(f"    {peer.id}: {describe(effect)}")
        kind = type(effect)
        if kind is fx.Adopt:
            urgent.append(self._adopt(peer, effect))
        elif kind is fx.Call:
            self.network.call(peer, effect)
        elif kind is fx.Answer:
            self.network.answer(peer, effect)
        elif kind is fx.Refuse:
            self.network.refuse(peer, effect)
        elif kind is not fx.Learn:  # everybody reads the world's directory
            OTHERS[kind](self, peer, effect)

    def _adopt(self, peer: Peer, effect: fx.Adopt) -> ev.Event:
        lacking = peer.state.adopt(effect.record, FRAGMENTS)
        peer.disk_state = dict(peer.state.fragments)
        self.oracle.changed = True
        delay = self.ask(("publish", peer.id), 0.05, lambda r: r.choice((0.05, 0.05, 0.5)))
        self.after(delay, self.network.publish, peer, peer.life)
        return ev.Adopted(tuple(lacking))

    def _persist_word(self, peer: Peer, effect: fx.PersistWord) -> None:
        self.oracle.note_word(peer, peer.disk_word, effect.word)
        peer.disk_word = effect.word

    def _persist_commit(self, peer: Peer, effect: fx.PersistCommit) -> None:
        self.oracle.note_adopted(peer, effect.commit, effect.links)
        peer.disk_commits = [*peer.disk_commits, *effect.links, effect.commit]

    def _start_attempt(self, peer: Peer, effect: fx.StartAttempt) -> None:
        self.engine.start(peer, effect.plan)

    def _end_attempt(self, peer: Peer, effect: fx.EndAttempt) -> None:
        self.engine.leave(peer)

    def attempt_ended(self, peer: Peer, report: pb.Report) -> None:
        """The engine has a result."""
        if self.telling:
            self.tell(f"{peer.id}'s attempt ends: {report.failure or 'results'}")
        self._attempt_ended(peer, peer.life, report)

    def _attempt_ended(self, peer: Peer, life: int, report: pb.Report) -> None:
        if not self.lives.later(peer, life, self._attempt_ended, report):
            self.handle(peer, ev.AttemptEnded(report))

    def _wake_at(self, peer: Peer, effect: fx.WakeAt) -> None:
        if effect.time_s != peer.wake or effect.time_s is None:
            peer.wake = effect.time_s
            if effect.time_s is not None:
                late = max(0.0, effect.time_s - self.now)
                self.after(late, self.due, peer, peer.life, effect.time_s)

    def due(self, peer: Peer, life: int, time_s: float | None) -> None:
        """The time of a `WakeAt` has come."""
        if peer.life != life or not peer.alive or peer.frozen or time_s is None:
            return
        if peer.wake == time_s and time_s <= self.now:
            peer.wake = None
            self.handle(peer, ev.Tick())

    def _fetch(self, peer: Peer, effect: fx.Fetch) -> None:
        delay = self.ask(("fetch", peer.id), 0.05, lambda r: round(r.expovariate(10), 3))
        self.after(delay, self._fetched, peer, peer.life, effect)

    def _fetched(self, peer: Peer, life: int, effect: fx.Fetch) -> None:
        if self.lives.later(peer, life, self._fetched, effect):
            return
        version = effect.version
        wanted = peer.machine.recovery.wants(version)  # as the driver does
        for other in self.peers.values() if wanted else ():
            if other.alive and not other.frozen and self.network.joined(peer.id, other.id):
                found = find_fragment(other.state, version)
                if found is not None:
                    peer.state.put(version.fragment, found)
                    peer.disk_state = dict(peer.state.fragments)
                    self.handle(peer, ev.Fetched(version))
                    return
        self.handle(peer, ev.FetchFailed(version))

    def _gave_up(self, peer: Peer, effect: fx.FetchGaveUp) -> None:
        self.after(1.0, self.lives.ask_level, peer, peer.life)

    def _look_up(self, peer: Peer, effect: fx.LookUp) -> None:
        self.after(LATENCY_S, self._looked_up, peer, peer.life)

    def _looked_up(self, peer: Peer, life: int) -> None:
        if not self.lives.later(peer, life, self._looked_up):
            self.handle(peer, ev.RecordsSeen(self.network.visible(peer)))

    def _left(self, peer: Peer, effect: fx.Left) -> None:
        if not peer.leaving:
            return  # it changed its mind before
        self.seen["rested" if peer.resting else "left"] += 1
        if not peer.resting:
            self.lives.crash(peer, "no: it leaves in good order")
            peer.gone = True

    def _emit(self, peer: Peer, effect: fx.Emit) -> None:
        self.seen[effect.event.name] += 1


OTHERS: dict[type, Callable[..., None]] = {
    fx.PersistWord: World._persist_word,
    fx.PersistCommit: World._persist_commit,
    fx.StartAttempt: World._start_attempt,
    fx.EndAttempt: World._end_attempt,
    fx.Fetch: World._fetch,
    fx.FetchGaveUp: World._gave_up,
    fx.LookUp: World._look_up,
    fx.Left: World._left,
    fx.Emit: World._emit,
    fx.WakeAt: World._wake_at,
}


def _start_time(rng: random.Random) -> float:
    return round(rng.random() * 0.2, 3)


def _draw_minority(rng: random.Random, names: tuple[str, ...]) -> tuple[str, ...]:
    if rng.random() > FORKED:
        return ()
    return tuple(sorted(rng.sample(names, rng.randint(1, len(names) // 2))))


def _draw_faulty(rng: random.Random, names: tuple[str, ...]) -> str:
    return rng.choice(names) if rng.random() < FAULTY else ""


def _draw_rounds(rng: random.Random) -> tuple[int, ...]:
    return tuple(rng.choice((0, 100)) for _ in range(rng.choice((1, 1, 2))))
