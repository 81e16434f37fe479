"""At the boundary of a round: telling its leader, finding another, and being asked to lead.

A waiting peer says Ready to the first in the succession that it does not suspect, again and again;
so it notices within seconds when that one dies. A peer that is asked to lead though somebody comes
before it first looks whether that one lives.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from google.protobuf.message import Message

from swarm.collective.context import READY_INTERVAL, RoundEvent
from swarm.collective.protocol.effects import Learn, LookUp
from swarm.collective.protocol.events import Offered
from swarm.collective.protocol.leading import Leading
from swarm.collective.validate import check_ready
from swarm.wire import collective_pb2 as pb

if TYPE_CHECKING:
    from swarm.collective.protocol.machine import PeerMachine, Pending

INTERVAL_S = READY_INTERVAL.total_seconds()
PETITION_S = 3.0
MAX_UNANSWERED = 3


class Boundary:
    """Answers Ready, and sends this peer's own.

    Attributes:
        offer: what this peer brings to the open round; None: nothing.
        since: when it came to the boundary; None: it did not yet.
        declined: peers that do not lead the open round, and until when that is believed.
        petitions: newcomers that asked this peer to enter: what they say of their machine, and
            until when that holds. Where rounds are short, a request comes too late for its round;
            it is good for the next one led here.
    """

    def __init__(self, peer: PeerMachine) -> None:
        self.offer: pb.Ready | None = None
        self.since: float | None = None
        self.declined: dict[str, float] = {}
        self.petitions: dict[str, tuple[pb.Ready, float]] = {}
        self._peer = peer
        self._waiting = False
        self._next_at = 0.0
        self._calling = 0  # the Ready in flight
        self._doubted: tuple[str, float] | None = None  # a leader whose call failed, and when
        self._passed_over: set[str] = set()  # suspects before the leader that was told
        self._records_fresh = False
        self._looking_up = False
        self._waiting_for = ("", 0.0)  # the leader that was told of the offer, and since when
        self._hopeful: dict[str, pb.Ready] = {}  # ask us to lead; is somebody better alive?
        self._early: dict[str, tuple[pb.Ready, float]] = {}  # of the next round; good until when
        self._doubts: dict[str, float] = {}  # who comes before us, and since when it is doubted
        self._vouched: dict[str, float] = {}  # who was doubted and lives, and when that was found
        self._unanswered = 0  # Readys that a living leader left unanswered

    # ---- this peer waits ------------------------------------------------------------------

    def offered(self, event: Offered) -> None:
        """This peer came to the boundary, or says what else it brings."""
        if event.ready is not None and event.base_commit != self._peer.memory.commit_id:
            return
        self.offer = event.ready
        if self.since is None:
            self.since = self._peer.now
        self._waiting = True
        self._next_at = self._peer.now

    def withdraw(self) -> None:
        """This peer does not wait any more."""
        self._waiting = False

    def round_is_over(self) -> None:
        """A commit was adopted."""
        self._waiting = False
        self.offer = self.since = self._doubted = None
        self.declined.clear()
        self._calling = 0
        self._passed_over.clear()
        self._hopeful = self._take_early()
        self._doubts.clear()
        self._vouched.clear()
        self._unanswered = 0
        now = self._peer.now
        self.petitions = {p: said for p, said in self.petitions.items() if said[1] >= now}

    def records_seen(self) -> None:
        """The directory answered."""
        self._looking_up = False
        self._records_fresh = True

    def step(self) -> None:
        """Say Ready if it is time to; decide about those who ask us to lead."""
        for sender, ready in list(self._hopeful.items()):
            better = self._better_leader(sender, ready)
            if better is not None:
                del self._hopeful[sender]
            if better == "":
                self.lead(sender, ready)
        if self._peer.health.is_dead(self._waiting_for[0]):  # a report to it failed
            self._waiting_for = ("", 0.0)
            self._next_at = self._peer.now
        if self._passed_over - self._peer.health.suspects.keys():  # one of them is back
            self._passed_over.clear()
            self._next_at = self._peer.now
        if self._waiting and not self._calling and not self._is_doubting() and self._is_time():
            self._announce()

    def _is_doubting(self) -> bool:
        """True while it is open whether the leader that did not answer is dead."""
        if self._doubted is None:
            return False
        leader, since = self._doubted
        alive = self._peer.health.check(leader, since)
        if alive is None:
            return True
        self._doubted = None
        if not alive:
            self._next_at = self._peer.now
            round_index = self._peer.memory.next_round
            self._peer.emit(RoundEvent("suspect", round_index, f"leader {leader}"))
        return False

    def _is_time(self) -> bool:
        if self._peer.now < self._next_at:
            self._peer.wake_by(self._next_at)
            return False
        if self._peer.memory.record is None and not self._records_fresh:
            if not self._looking_up:
                self._looking_up = True
                self._peer.out.append(LookUp())
            return False
        return True

    def ready(self) -> pb.Ready:
        """This peer's Ready for the open round."""
        peer, memory = self._peer, self._peer.memory
        ready = pb.Ready()
        if self.offer is not None:
            ready.CopyFrom(self.offer)
        ready.round, ready.base_commit, ready.branch = (
            memory.next_round,
            memory.commit_id,
            memory.branch,
        )
        ready.joining = peer.setup.me not in peer.roster
        ready.suspects.extend(sorted(peer.health.suspects))
        ready.declined.extend(sorted(self.declined))
        ready.capability.CopyFrom(peer.setup.capability())
        change = peer.setup.change()
        if memory.record is None or change != memory.record.change:
            ready.change.CopyFrom(change)
        signed = peer.setup.signed(peer.setup.me)
        if signed is not None:
            ready.record.CopyFrom(signed)
        return ready

    def _announce(self) -> None:
        """Tell the first leader in the succession that is not suspected."""
        peer = self._peer
        self.declined = {p: until for p, until in self.declined.items() if until > peer.now}
        ready = self.ready()
        suspects = peer.health.suspects
        self._passed_over.clear()
        self._next_at = peer.now + INTERVAL_S
        peer.wake_by(self._next_at)
        for leader in self._candidates():
            if leader == peer.setup.me:
                if peer.declines:
                    continue
                better = self._better_leader(leader, ready)
                if better is None:
                    self._next_at = peer.now  # decided when the probe has ended
                    return
                if better == "":
                    self.lead(leader, ready)
            elif leader in self.declined:
                continue
            elif leader in suspects:
                peer.health.check(leader, peer.now - INTERVAL_S)  # it may be back
                self._passed_over.add(leader)
                continue
            else:
                self._calling = peer.call(
                    leader, ready, self._on_reply, timeout_s=peer.health.probe_s, tag=peer.open_key
                )
            self._records_fresh = False
            return
        self._records_fresh = False
        suspects.clear()
        self.declined.clear()

    def _candidates(self) -> list[str]:
        peer = self._peer
        if peer.memory.record is not None:
            return peer.succession()
        founded = sorted(p for p, r in peer.known.items() if r.branch and p != peer.setup.me)
        for founder in founded:
            peer.history.catch_up(founder, trusting=peer.history.away)
        return [] if founded else peer.succession(sorted(peer.known))

    def _on_reply(self, leader: str, reply: Message | None, call: Pending) -> None:
        peer = self._peer
        if call.tag != peer.open_key:
            return  # decided meanwhile
        if call.call_id == self._calling:
            self._calling = 0
        if not isinstance(reply, pb.ReadyReply):
            peer.health.missed(leader)
            self._doubted = (leader, peer.now)
            self._unanswered += 1
            if self._unanswered > MAX_UNANSWERED:
                self._unanswered = 0
                self._decline(leader)
            return
        self._unanswered = 0
        if reply.status == pb.ReadyReply.STALE:
            peer.quietly(peer.history.consider, reply.commit, leader)
        elif self._waits_too_long_for(leader) or (
            reply.status == pb.ReadyReply.NOT_LEADER and not reply.leader
        ):
            self._decline(leader)
            self._next_at = peer.now
        elif reply.status == pb.ReadyReply.NOT_LEADER:
            peer.health.suspects.pop(reply.leader, None)
        elif peer.leading is not None:
            peer.leading.give_way()  # this one comes before us, and lives

    def _decline(self, leader: str) -> None:
        """Go on to the next in the succession; later this one is asked again."""
        self.declined[leader] = self._peer.now + self._peer.setup.timeouts.round_s

    def _waits_too_long_for(self, leader: str) -> bool:
        """True when a leader takes this peer's word again and again but makes no plan."""
        now, timeouts = self._peer.now, self._peer.setup.timeouts
        since = self.since if self.since is not None else now
        if self._waiting_for[0] != leader or self._waiting_for[1] < since:
            self._waiting_for = (leader, now)
        patience_s = timeouts.round_s + timeouts.attempt_s
        return self.offer is not None and now - self._waiting_for[1] > patience_s

    # ---- others wait ----------------------------------------------------------------------

    def on_ready(self, sender: str, ready: pb.Ready, call_id: int) -> pb.ReadyReply:
        """Somebody is at the boundary and thinks that this peer leads. Raises typed errors."""
        peer, memory, policy = self._peer, self._peer.memory, self._peer.setup.policy
        tokens = peer.setup.max_round_tokens
        check_ready(ready, policy.numel, policy.routing_width, tokens, policy.open_tags)
        peer.health.heard_from(sender)
        if ready.joining and memory.record is not None:
            word = pb.Ready(capability=ready.capability, upload_bps=ready.upload_bps)
            self.petitions[sender] = (word, peer.now + PETITION_S)
        if ready.HasField("record"):
            peer.out.append(Learn(ready.record))
        if ready.base_commit != memory.commit_id or ready.round != memory.next_round:
            if memory.commit is not None and ready.round <= memory.next_round:
                return pb.ReadyReply(status=pb.ReadyReply.STALE, commit=memory.commit)
            peer.history.catch_up(sender)
            if sender in peer.roster and ready.round == memory.next_round + 1:
                self._early[sender] = (ready, peer.now + INTERVAL_S)
            return pb.ReadyReply(status=pb.ReadyReply.COLLECTING)
        if peer.declines:
            return pb.ReadyReply(status=pb.ReadyReply.NOT_LEADER)
        better = self._better_leader(sender, ready)
        if better:
            return pb.ReadyReply(status=pb.ReadyReply.NOT_LEADER, leader=better)
        if better is None:
            self._hopeful[sender] = ready
        else:
            self.lead(sender, ready)
        return pb.ReadyReply(status=pb.ReadyReply.COLLECTING)

    def _take_early(self) -> dict[str, pb.Ready]:
        """What members said of the round that is open now, before the last one was decided here.

        It is taken as if it came now. They would not say it again for a second, and where one
        operation follows the other at once, a Ready often overtakes the commit before it.
        """
        early, self._early = self._early, {}
        of_this_round = {
            sender: ready
            for sender, (ready, until) in early.items()
            if until >= self._peer.now and (ready.base_commit, ready.round) == self._peer.open_key
        }
        return {} if self._peer.declines else of_this_round

    def _better_leader(self, sender: str, ready: pb.Ready) -> str | None:
        """A live peer before this one in the succession, which the sender has not given up.

        "" if there is none; None while one that is doubted is being probed.
        """
        peer, health = self._peer, self._peer.health
        leading = peer.leading
        if leading is not None and not leading.finished and leading.key == peer.open_key:
            return ""
        for before in peer.succession([sender, *peer.known]):
            if before == peer.setup.me:
                return ""
            if before in ready.declined:
                continue
            if before not in ready.suspects and before not in health.suspects:
                return before
            if health.is_dead(before):
                continue
            vouched = self._vouched.get(before, -1e9) >= peer.now - 1.5 * INTERVAL_S
            if vouched and not health.is_missing(before):
                return before
            alive = health.check(before, self._doubts.setdefault(before, peer.now))
            if alive is None:
                return None
            if alive:
                self._vouched[before] = self._doubts.pop(before)
                return before
        return ""

    def lead(self, sender: str, ready: pb.Ready) -> None:
        """Take the sender's Ready as the leader of the open round."""
        peer = self._peer
        key = peer.open_key
        if (ready.base_commit, ready.round) != key:
            return
        if peer.leading is None or peer.leading.finished or peer.leading.key != key:
            peer.leading = Leading(peer, key)
            peer.emit(RoundEvent("leading", ready.round))
        peer.leading.rollcall.note(sender, ready)
        peer.dirty = True
