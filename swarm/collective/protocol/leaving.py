"""Leaving the roster in good order: resignations, one's own and of others (docs/adr/0001).

Only a peer that has given no word in the open round may resign, so it waits a little for an open
round to end. The last to leave keeps its vote: somebody must be able to go on with the run.
"""

from __future__ import annotations

from enum import Enum
from typing import TYPE_CHECKING

from google.protobuf.message import Message

from swarm.collective.consensus import resignation_text, verify_resignation
from swarm.collective.protocol.effects import Left, PersistWord
from swarm.wire import collective_pb2 as pb

if TYPE_CHECKING:
    from swarm.collective.protocol.machine import PeerMachine, Pending

RESIGN_WAIT_S = 1.0  # for an answer of each member
RESIGN_LIMIT_S = 3.0  # how long a leaver waits for the open round, in which it gave its word


class Stage(Enum):
    """How far this peer's leaving is."""

    STAYING = 0
    ASKING = 1  # whether somebody stays
    WAITING = 2  # for the open round, in which a word was given
    TELLING = 3
    DONE = 4


class Leaving:
    """Answers Resignation, and resigns."""

    def __init__(self, peer: PeerMachine) -> None:
        self._peer = peer
        self._stage = Stage.STAYING
        self._awaiting: set[int] = set()
        self._somebody_stays = False
        self._deadline: float | None = None
        self._asked_after = b""  # the commit whose roster was asked who stays
        self._passed_on: set[tuple[str, str]] = set()  # (leader, who resigned)
        self._passed_for = b""  # the commit that those resignations follow

    def on_resignation(
        self, sender: str, word: pb.Resignation, call_id: int
    ) -> pb.ResignationReply:
        """Note that a member gave up its vote; without a signature it only asks who stays.

        Others may pass on what a member signed.
        """
        peer, memory = self._peer, self._peer.memory
        known = word.peer in memory.resignations or word.peer not in peer.roster
        if not known and verify_resignation(
            word, peer.setup.run_id, memory.commit_id, peer.setup.verify
        ):
            memory.note_resignation(word, back=word.back and sender == word.peer)
            peer.out.append(PersistWord(memory.word()))
            if sender == word.peer and not word.back:
                peer.health.suspects[sender] = "left"
                if peer.leading is not None and not peer.leading.finished:
                    peer.leading.rollcall.standing.dead[sender] = "left"
        # One that has no vote can not keep it for those who leave.
        return pb.ResignationReply(staying=self._stage is Stage.STAYING and not memory.abstains)

    def pass_on(self, leader: str, base_commit: bytes) -> None:
        """Tell the leader of the open round whose resignations are known here, once."""
        peer = self._peer
        if base_commit != peer.memory.commit_id or leader == peer.setup.me:
            return
        if self._passed_for != base_commit:
            self._passed_for = base_commit
            self._passed_on.clear()
        words = list(peer.memory.resignations.values())
        if peer.memory.has_resigned:  # and is back; the leader may not have heard of it
            words.append(self._resignation(back=True))
        for word in words:
            if word.peer != leader and (leader, word.peer) not in self._passed_on:
                self._passed_on.add((leader, word.peer))
                peer.call(leader, word, self._on_passed, timeout_s=RESIGN_WAIT_S, tag=word.peer)

    def _on_passed(self, leader: str, reply: Message | None, call: Pending) -> None:
        if reply is None:
            self._passed_on.discard((leader, call.tag))  # with its next plan

    def begin(self) -> None:
        """Ask, by a resignation without a signature, which nobody takes for one."""
        if self._stage not in (Stage.STAYING, Stage.DONE):
            return
        self._deadline = None
        self._ask()

    def _ask(self) -> None:
        self._stage = Stage.ASKING
        self._asked_after = self._peer.memory.commit_id
        self._somebody_stays = False
        self._tell_all(pb.Resignation(peer=self._peer.setup.me))

    def stay(self) -> None:
        """Resign no more, and tell those who ask that this peer stays.

        What it signed for the open round holds all the same.
        """
        if self._stage not in (Stage.STAYING, Stage.DONE):
            self._done()
        self._stage = Stage.STAYING

    def _tell_all(self, word: pb.Resignation) -> None:
        me = self._peer.setup.me
        members = self._peer.roster if me in self._peer.roster else ()
        self._awaiting = {
            self._peer.call(p, word, self._on_reply, timeout_s=RESIGN_WAIT_S)
            for p in members
            if p != me
        }

    def _on_reply(self, sender: str, reply: Message | None, call: Pending) -> None:
        if call.call_id not in self._awaiting:
            return  # of a leaving that was given up: who stayed then may have left
        self._awaiting.discard(call.call_id)
        if self._stage is Stage.ASKING and isinstance(reply, pb.ResignationReply):
            self._somebody_stays = self._somebody_stays or reply.staying

    def step(self) -> None:
        """Go on with leaving as far as possible."""
        if self._stage is Stage.ASKING and (self._somebody_stays or not self._awaiting):
            if not self._somebody_stays:
                self._done()
                return
            self._stage = Stage.WAITING
            if self._deadline is None:
                self._deadline = self._peer.now + RESIGN_LIMIT_S
        if self._stage is Stage.WAITING:
            self._resign_when_free()
        if self._stage is Stage.TELLING and not self._awaiting:
            self._done()

    def _resign_when_free(self) -> None:
        peer, memory = self._peer, self._peer.memory
        assert self._deadline is not None
        if peer.setup.me not in peer.roster:
            self._done()
        elif memory.commit_id != self._asked_after and peer.now < self._deadline:
            self._ask()  # those who stayed may have left, and not be members any more
            peer.dirty = True
        elif memory.commit_id == self._asked_after and not memory.has_promised:
            memory.abstain()
            peer.out.append(PersistWord(memory.word()))
            self._stage = Stage.TELLING
            self._tell_all(self._resignation())
        elif peer.now >= self._deadline:
            self._done()
        else:
            peer.wake_by(self._deadline)

    def _resignation(self, *, back: bool = False) -> pb.Resignation:
        """This peer's own, signed. It must have given no word, and abstain on disk."""
        setup, commit_id = self._peer.setup, self._peer.memory.commit_id
        text = resignation_text(setup.run_id, commit_id)
        return pb.Resignation(
            peer=setup.me, base_commit=commit_id, signature=setup.sign(text), back=back
        )

    def _done(self) -> None:
        self._stage = Stage.DONE
        self._awaiting = set()
        self._peer.out.append(Left())
