"""The lives of peers: they start, crash, freeze and leave, and do what a node does around it."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from peer import Peer
from rules import FRAGMENTS, NAMES, Rules, initial

from swarm.collective.changes import in_effect
from swarm.collective.protocol import events as ev
from swarm.collective.protocol.machine import PeerMachine
from swarm.collective.protocol.memory import Memory
from swarm.collective.state import CanonicalState
from swarm.wire import collective_pb2 as pb

if TYPE_CHECKING:
    from world import World

LOOK_S = 1.0  # how often a peer looks for better histories
IDLE_S = 0.1  # between two rounds of a paused run


class Lives:
    """Starts and ends the peers of a world, and takes them from round to round."""

    def __init__(self, world: World) -> None:
        self._world = world

    def newcomer(self) -> Peer | None:
        """A peer that was never here, or None when there are enough."""
        if len(self._world.peers) >= len(NAMES):
            return None
        return self._world.make(NAMES[len(self._world.peers)])

    def boot(self, peer: Peer) -> None:
        """Start a peer with what its disk holds."""
        if peer.alive:
            return
        world = self._world
        peer.life += 1
        peer.alive, peer.frozen, peer.gone = True, False, False
        peer.leaving = peer.resting = False
        peer.backlog, peer.attempt, peer.wake = [], None, None
        peer.calls.clear()
        peer.prepared = peer.levelling = None
        memory = self._recall(peer)
        peer.state = CanonicalState(peer.disk_state or {n: initial(n) for n in FRAGMENTS})
        lacking = peer.state.adopt(memory.record, FRAGMENTS) if memory.record is not None else ()
        seed = world.ask(("seed", peer.id), 0, lambda r: r.randrange(1 << 16))
        peer.machine = PeerMachine(peer.setup, memory, random.Random(seed))
        if world.telling:
            world.tell(f"{peer.id} starts, round {memory.next_round} is open")
        world.network.publish(peer, peer.life)
        world.handle(peer, ev.Started(tuple(lacking)))
        self._look(peer, peer.life)

    def _recall(self, peer: Peer) -> Memory:
        """What the disk says."""
        memory = Memory()
        for commit in peer.disk_commits:
            memory.adopt(commit)
        if peer.disk_damaged:
            self._world.oracle.note_doubt(peer)
            memory.doubt()
            peer.disk_damaged = False
            peer.disk_word = memory.word()
        elif peer.disk_word is not None:
            memory.recall(peer.disk_word)
        return memory

    def crash(self, peer: Peer, why: str = "") -> None:
        """As by SIGKILL."""
        if not peer.alive:
            return
        if self._world.telling:
            self._world.tell(f"{peer.id} CRASHES {why}")
        self._world.seen["crash"] += 1
        peer.alive = peer.frozen = False
        self._world.engine.leave(peer)
        peer.calls.clear()
        peer.backlog = []
        self._world.oracle.changed = True

    def freeze(self, peer: Peer) -> None:
        """As by SIGSTOP."""
        if peer.alive and not peer.frozen:
            peer.frozen = True
            if self._world.telling:
                self._world.tell(f"{peer.id} FREEZES")

    def thaw(self, peer: Peer) -> None:
        """As by SIGCONT: it does at once what came meanwhile."""
        if not (peer.alive and peer.frozen):
            return
        peer.frozen = False
        if self._world.telling:
            self._world.tell(f"{peer.id} THAWS")
        backlog, peer.backlog = peer.backlog, []
        for work, args in backlog:
            work(*args)
        self._world.due(peer, peer.life, peer.wake)

    def later(self, peer: Peer, life: int, work: Callable[..., None], *args: Any) -> bool:
        """True when a peer can not do `work(peer, life, *args)` now: it is dead, or frozen.

        What a frozen peer has to do is done when it thaws.
        """
        if peer.life != life or not peer.alive:
            return True
        if peer.frozen:
            peer.backlog.append((work, (peer, life, *args)))
        return peer.frozen

    # ---- what a node does around its machine ----------------------------------------------

    def go_on(self, peer: Peer) -> None:
        """Level first, then train, then to the round's boundary; strangers ask to enter."""
        machine = peer.machine
        memory = machine.memory
        if not machine.level:
            if peer.levelling != memory.commit_id:
                peer.levelling = memory.commit_id
                self._world.after(0.0, self.ask_level, peer, peer.life)
            return
        if peer.prepared == memory.commit_id or machine.discovering or peer.leaving:
            return
        peer.prepared = memory.commit_id
        member = memory.record is not None and peer.id in memory.record.roster
        train_s = 0.0
        if in_effect(memory.record).paused:
            member, train_s = False, IDLE_S
        elif member:
            draw = self._world.accidents.training_time
            train_s = self._world.ask(("train", peer.id), 0.1, draw)
        self._world.after(train_s, self._offer, peer, peer.life, memory.commit_id, member)

    def ask_level(self, peer: Peer, life: int) -> None:
        """Fetch what is lacking."""
        if not self.later(peer, life, self.ask_level) and not peer.machine.level:
            self._world.handle(peer, ev.LevelAsked())

    def _offer(self, peer: Peer, life: int, base: bytes, member: bool) -> None:
        if self.later(peer, life, self._offer, base, member):
            return
        if peer.memory.commit_id != base or peer.leaving:
            return
        ready = self._ready(peer) if member else None
        if self._world.telling:
            self._world.tell(f"{peer.id} is ready for round {peer.memory.next_round}")
        self._world.handle(peer, ev.Offered(base, ready))

    def _ready(self, peer: Peer) -> pb.Ready:
        usual = self._world.tokens[0]
        tokens = self._world.ask(("tokens", peer.id), usual, lambda r: r.choice(self._world.tokens))
        self._world.engine.contents[(peer.id, peer.memory.commit_id)] = peer.life
        routed = self._world.ask(("routed", peer.id), 0, lambda r: r.choice((0, 0, tokens)))
        ready = pb.Ready(steps=1, tokens=tokens, loss=1.0)
        ready.routed_tokens.extend((tokens - routed, routed))
        for fragment in Rules().trains(peer.memory.record, peer.id):
            ready.contributions.add(
                fragment=fragment,
                weight=tokens or 1,
                base_hash=peer.state.fragments[fragment].theta_hash,
                numel=FRAGMENTS[fragment],
            )
        return ready

    def leave(self, peer: Peer) -> None:
        """Ask a peer to leave in good order."""
        if peer.alive and not peer.frozen:
            if self._world.telling:
                self._world.tell(f"{peer.id} is asked to LEAVE")
            peer.leaving = True
            self._world.handle(peer, ev.LeaveAsked())

    def rest(self, peer: Peer) -> None:
        """Ask a peer to leave in good order for a while; it goes on living."""
        if peer.alive and not (peer.frozen or peer.leaving):
            peer.resting = True
            self._world.handle(peer, ev.Withdrawn())
            self.leave(peer)

    def stay(self, peer: Peer) -> None:
        """It takes part again."""
        if peer.alive and peer.resting:
            if self._world.telling:
                self._world.tell(f"{peer.id} STAYS")
            peer.leaving = peer.resting = False
            peer.prepared = None
            self._world.seen["stayed"] += 1
            self._world.handle(peer, ev.StayAsked())

    def _look(self, peer: Peer, life: int) -> None:
        """Look for better histories now and then."""
        if peer.life != life or not peer.alive:
            return
        self._world.after(LOOK_S, self._look, peer, life)
        if peer.frozen:
            return
        record = peer.memory.record
        mine = (record.branch, record.round) if record is not None else (b"", 0)
        claims = self._world.network.visible(peer).values()
        if any(c.branch and (c.branch, c.round) != mine for c in claims):
            self._world.handle(peer, ev.RecordsSeen(self._world.network.visible(peer), True))


def find_fragment(state: CanonicalState, version: pb.FragmentVersion) -> Any:
    """A peer's fragment with these hashes, from any generation that it keeps."""
    for generation in (state.fragments, state._previous, *state._shadows):
        found = generation.get(version.fragment)
        if found is not None and found.matches(version):
            return found
    return None
