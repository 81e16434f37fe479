"""Messages and the directory of a world: what arrives when, and who can be seen by whom."""

from __future__ import annotations

import itertools
import random
from collections import defaultdict
from typing import TYPE_CHECKING, Any, NamedTuple

from oracle import Violation
from rules import RUN_ID, SIGNATURE
from telling import describe_message

from swarm.collective.protocol import effects as fx
from swarm.collective.protocol import events as ev
from swarm.wire import collective_pb2 as pb
from swarm.wire.control_pb2 import Pong
from swarm.wire.membership_pb2 import PeerRecord, SignedRecord

if TYPE_CHECKING:
    from peer import Peer
    from world import World

LATENCY_S = 0.01
RECORD_LIFE_S = 5.0  # the directory shows a dead peer for so long


class Hop(NamedTuple):
    """A request on its way: a call of one life of its source."""

    source: Peer
    life: int
    call_id: int
    target: Any  # the Peer, or None where there is none of that name
    message: Any
    kind: str


class Network:
    """Carries calls, answers and records between the peers of a world.

    Attributes:
        cut: how many cuts take down each directed link.
        signed: who has signed what; nobody can sign for another.
        roughness: share of the messages that meet with an accident, until all is healed.
    """

    def __init__(self, world: World) -> None:
        self.cut: dict[tuple[str, str], int] = defaultdict(int)
        self.signed: set[tuple[str, bytes]] = set()
        self.roughness = world.ask(("roughness",), 0.0, _draw_roughness)
        self._world = world
        self._published: dict[str, tuple[SignedRecord, PeerRecord, float]] = {}
        self._read: dict[bytes, PeerRecord] = {}
        self._requests: dict[int, Hop] = {}
        self._ids = itertools.count(1)

    # ---- the directory --------------------------------------------------------------------

    def visible(self, peer: Peer) -> dict[str, PeerRecord]:
        """Records that a peer can see: of who lives, or did a moment ago, on its side of a cut."""
        horizon = self._world.now - RECORD_LIFE_S
        return {
            name: record
            for name, (_, record, time_s) in self._published.items()
            if self._world.peers[name].life
            and (self._world.peers[name].alive or time_s > horizon)
            and (name == peer.id or self.linked(name, peer.id))
        }

    def publish(self, peer: Peer, life: int) -> None:
        """Put in the directory what a peer follows."""
        if peer.life == life and peer.alive:
            self.publish_record(peer.id, peer.memory.record, peer.memory.commit_id)

    def publish_record(self, name: str, record: pb.RoundRecord | None, commit: bytes) -> None:
        """Put in the directory that a peer follows a commit."""
        public = PeerRecord(peer_id=name, run_id=RUN_ID, commit_id=commit)
        if record is not None:
            public.branch, public.round = record.branch, record.round
            public.committed_tokens = record.committed_tokens
        payload = public.SerializeToString()
        self._read[payload] = public
        self._published[name] = (SignedRecord(payload=payload), public, self._world.now)

    def note(self, signed: SignedRecord) -> PeerRecord | None:
        """Read a record; see `Setup`."""
        return self._read.get(signed.payload)

    def signed_record(self, peer: str) -> SignedRecord | None:
        """The signed form of a known peer's; see `Setup`."""
        known = self._published.get(peer)
        return known[0] if known is not None else None

    def verify(self, peer: str, data: bytes, signature: bytes) -> bool:
        """True when that peer has signed exactly this."""
        return signature == SIGNATURE and (peer, data) in self.signed

    # ---- messages -------------------------------------------------------------------------

    def linked(self, source: str, target: str) -> bool:
        """True when messages get from one to the other now."""
        return not self.cut.get((source, target), 0)

    def joined(self, one: str, other: str) -> bool:
        """True when messages get both ways."""
        return self.linked(one, other) and self.linked(other, one)

    def _travel(self, source: Peer, target: Peer, kind: str) -> tuple[float, ...]:
        """When a message arrives: never, once or twice."""
        if self._world.healed:
            return (LATENCY_S,)
        fate = self._world.ask((source.id, target.id, kind), (LATENCY_S,), self._draw_travel)
        return fate if self.linked(source.id, target.id) else ()

    def _draw_travel(self, rng: random.Random) -> tuple[float, ...]:
        luck = rng.random()
        if luck > 0.3 + self.roughness:
            return (LATENCY_S,)
        if luck > self.roughness:
            return (round(rng.random() * 0.08, 3),)
        what = rng.random()
        if what < 0.4:
            return ()
        late = round(rng.random() * rng.choice((0.2, 1.0, 4.0)), 3)
        return (late,) if what < 0.8 else (LATENCY_S, late)

    def call(self, peer: Peer, effect: fx.Call) -> None:
        """Send a request, and see to it that the call ends."""
        world = self._world
        world.oracle.note_call(peer, effect)
        target = world.peers.get(effect.peer)
        kind = type(effect.message).__name__
        hop = Hop(peer, peer.life, effect.call_id, target, effect.message, kind)
        peer.calls.add(effect.call_id)
        world.after(effect.timeout_s, self._replied, peer, peer.life, hop, None, "")
        if target is not None:
            for delay in self._travel(peer, target, kind):
                world.after(delay, self._arrive, hop)

    def _arrive(self, hop: Hop) -> None:
        world, target = self._world, hop.target
        if not target.alive:
            world.after(LATENCY_S, self._replied, hop.source, hop.life, hop, None, "")
        elif target.frozen:
            target.backlog.append((self._arrive, (hop,)))
        elif hop.kind == "Ping":
            self._send_back(hop, Pong(), "")
        else:
            request = next(self._ids)
            self._requests[request] = hop
            if world.telling:
                what = describe_message(hop.message)
                world.tell(f"{target.id} gets {what} from {hop.source.id}")
            world.handle(target, ev.Received(hop.source.id, request, hop.message))

    def _take_request(self, peer: Peer, call_id: int) -> Hop:
        """What is answered, once, by who was asked."""
        hop = self._requests.pop(call_id, None)
        if hop is None or hop.target is not peer:
            raise Violation(f"{peer.id} answers twice, or somebody else's request", self._world)
        return hop

    def answer(self, peer: Peer, effect: fx.Answer) -> None:
        """Send a reply."""
        hop = self._take_request(peer, effect.call_id)
        if hop.kind == "Plan" and effect.message.helps:
            self._world.seen["helped without a vote"] += 1
        self._world.oracle.note_answer(peer, hop.message, effect.message)
        self._send_back(hop, effect.message, "")

    def refuse(self, peer: Peer, effect: fx.Refuse) -> None:
        """Send a refusal."""
        self._send_back(self._take_request(peer, effect.call_id), None, effect.error.code.value)

    def _send_back(self, hop: Hop, reply: Any, refusal: str) -> None:
        for delay in self._travel(hop.target, hop.source, "reply to " + hop.kind):
            self._world.after(delay, self._replied, hop.source, hop.life, hop, reply, refusal)

    def _replied(self, peer: Peer, life: int, hop: Hop, reply: Any, refusal: str) -> None:
        if peer.life != life or hop.call_id not in peer.calls:
            return
        if self._world.lives.later(peer, life, self._replied, hop, reply, refusal):
            return
        peer.calls.discard(hop.call_id)
        if self._world.telling and hop.kind != "Ping":
            what = describe_message(reply) if reply is not None else refusal or "nothing"
            self._world.tell(f"{peer.id} gets {what} for its {hop.kind}")
        self._world.handle(peer, ev.Replied(hop.call_id, reply, refusal))


def _draw_roughness(rng: random.Random) -> float:
    return rng.choice((0.0, 0.02, 0.1, 0.3))
