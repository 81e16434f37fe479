"""Which history a peer follows: commits it is told of, checked, and adopted or refused.

The direct successor of the newest commit is followed. Anything else must be of a better history
and be shown, link by link, to come from a commit known here. Asking for the links is a `Pursuit`;
there is at most one for each source. The links are kept with the commit that they lead to: whoever
is asked for them next must have them, also when all others that had them are gone.
"""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import TYPE_CHECKING

from google.protobuf.message import Message

from swarm.collective.consensus import (
    better_history,
    commit_id,
    follows,
    verify_commit,
)
from swarm.collective.context import RoundEvent
from swarm.collective.protocol.effects import Adopt, Answer, Learn, PersistCommit
from swarm.collective.protocol.memory import KEPT_COMMITS, Link
from swarm.collective.validate_record import grows_plausibly
from swarm.errors import SwarmError
from swarm.wire import collective_pb2 as pb
from swarm.wire.membership_pb2 import PeerRecord

if TYPE_CHECKING:
    from swarm.collective.protocol.machine import PeerMachine, Pending

RETRY_S = 0.5
TELLS = 2  # calls to tell one peer of a commit
LINKS = 32  # commits in one answer
LINKS_BYTES = 1 << 20  # in one answer


@dataclass
class Pursuit:
    """A commit of `source` whose links back to a known one are being asked for."""

    source: str
    trusting: bool  # take it when its links are not known there any more
    commit: pb.Commit | None = None  # the goal; None: its newest is being asked for
    record: pb.RoundRecord | None = None
    link: pb.RoundRecord | None = None  # the last one that was shown
    links: list[Link] = field(default_factory=list)  # all that were, newest first
    answer_to: int | None = None  # the call that told of the commit


class History:
    """Answers Commit and GetCommit, and looks at what others follow.

    Attributes:
        commit_times: when the last commits were adopted, in this life.
    """

    def __init__(self, peer: PeerMachine) -> None:
        self.commit_times: deque[float] = deque(maxlen=20)
        self._peer = peer
        self._pursuits: dict[str, Pursuit] = {}
        self._before: deque[tuple[bytes, bytes]] = deque(maxlen=4)  # (adopted, newest before it)
        self._claims: list[tuple[str, pb.RoundRecord]] = []  # to be looked into
        self._looking_at = ""
        self._telling: list[tuple[float, str, pb.Commit, int]] = []  # (when, whom, what, times)

    # ---- messages -------------------------------------------------------------------------

    def on_commit(self, sender: str, commit: pb.Commit, call_id: int) -> pb.CommitReply | None:
        """A commit, of which somebody tells."""
        self._peer.health.heard_from(sender)
        adopted = self.consider(commit, sender, answer_to=call_id)
        return None if adopted is None else pb.CommitReply(adopted=adopted)

    def on_get_commit(self, sender: str, request: pb.GetCommit, call_id: int) -> pb.GetCommitReply:
        """The newest commit, or that of a round, with the records of its roster."""
        memory = self._peer.memory
        newest = memory.next_round if request.latest else request.round
        history = memory.history(newest)
        commit = next(history, None)
        record = memory.knows(commit_id(commit.record)) if commit is not None else None
        if record is None or not (request.latest or record.round == request.round):
            return pb.GetCommitReply()
        reply = pb.GetCommitReply(commit=commit)
        size = 0
        for link in itertools.islice(history, min(request.links, LINKS - 1)):
            size += link.ByteSize()
            if size > LINKS_BYTES:
                break
            reply.links.append(link)
        for peer in record.roster if record is not None else ():
            signed = self._peer.setup.signed(peer)
            if signed is not None:
                reply.members.append(pb.Member(peer=peer, record=signed))
        return reply

    # ---- what others follow ---------------------------------------------------------------

    def look_into(self, records: Mapping[str, PeerRecord]) -> None:
        """Adopt the best of the histories that these peers claim, one after the other."""
        self._claims = [
            (p, pb.RoundRecord(branch=r.branch, round=r.round, committed_tokens=r.committed_tokens))
            for p, r in sorted(records.items())
            if p != self._peer.setup.me and r.branch
        ]

    @property
    def away(self) -> bool:
        """True when others may have forgotten what follows the newest commit here.

        So at the start, and when this peer was cut off, or its machine slept, for a lease and for
        as many rounds as commits are kept: who merely trains a long round believes no liar.
        """
        times = self.commit_times
        if not times:
            return True
        intervals = [b - a for a, b in itertools.pairwise(times)]
        forgotten_s = KEPT_COMMITS * median(intervals) if intervals else 0.0
        away_s = self._peer.now - times[-1]
        return away_s > max(self._peer.setup.timeouts.lease_s, forgotten_s)

    @property
    def looking(self) -> bool:
        """True while claims are being looked into."""
        return bool(self._claims) or self._looking_at in self._pursuits

    def catch_up(self, source: str, *, trusting: bool = False) -> None:
        """Ask a peer that seems ahead for its newest commit; see `consider`."""
        if source in self._pursuits:
            return
        self._pursuits[source] = Pursuit(source, trusting)
        self._peer.call(source, pb.GetCommit(latest=True), self._on_newest)

    def _on_newest(self, source: str, reply: Message | None, call: Pending) -> None:
        pursuit = self._pursuits.pop(source, None)
        if pursuit is None or not isinstance(reply, pb.GetCommitReply) or not reply.commit.record:
            return
        self._peer.out.extend(Learn(m.record) for m in reply.members if m.HasField("record"))
        self._peer.quietly(self.consider, reply.commit, source, pursuit.trusting)

    def consider(
        self,
        commit: pb.Commit,
        source: str,
        trusting: bool = False,
        answer_to: int | None = None,
    ) -> bool | None:
        """Adopt a commit that `source` told of, if it is ours to follow.

        Returns whether it was adopted; None while its links are being asked for, after which the
        call `answer_to` is answered. `trusting` also takes what `source` has no links of: a
        newcomer has no history to compare with and takes what is well voted. Raises
        `COMMIT_INVALID`.
        """
        memory, setup = self._peer.memory, self._peer.setup
        if memory.commit_id and commit_id(commit.record) == memory.commit_id:
            return False
        record = verify_commit(commit, setup.run_id, setup.verify)
        current = memory.record
        if follows(record, memory.commit_id, current) and not record.unanimous:
            if not grows_plausibly(record, current, setup.max_round_tokens):
                return False
            self.adopt(commit, record)
            return True
        if source in self._pursuits or not better_history(record, current):
            return False
        self._pursuits[source] = Pursuit(
            source, trusting, commit, record, record, answer_to=answer_to
        )
        return self._trace(self._pursuits[source])

    def _trace(self, pursuit: Pursuit) -> bool | None:
        """Follow the links as far as they are known here; ask for the next."""
        link = pursuit.link
        assert link is not None
        known = self._peer.memory.knows(link.previous)
        if known is not None or not link.previous:
            return self._end(pursuit, self._links(link, known))
        if link.round == 0:
            return self._end(pursuit, False)
        if len(pursuit.links) >= KEPT_COMMITS:
            return self._end(pursuit, pursuit.trusting)
        request = pb.GetCommit(round=link.round - 1, links=LINKS - 1)
        self._peer.call(pursuit.source, request, self._on_links)
        return None

    def _on_links(self, source: str, reply: Message | None, call: Pending) -> None:
        pursuit = self._pursuits.get(source)
        if pursuit is None or pursuit.link is None:
            return
        adopted: bool | None
        if not isinstance(reply, pb.GetCommitReply):  # it may have them all the same
            adopted = self._end(pursuit, False)
        elif not reply.commit.record:
            adopted = self._end(pursuit, pursuit.trusting)
        elif all(self._take(pursuit, link) for link in (reply.commit, *reply.links[: LINKS - 1])):
            adopted = self._trace(pursuit)
        else:
            adopted = self._end(pursuit, False)
        if adopted is not None and pursuit.answer_to is not None:
            self._peer.out.append(Answer(pursuit.answer_to, pb.CommitReply(adopted=adopted)))

    def _take(self, pursuit: Pursuit, shown: pb.Commit) -> bool:
        """Take the next link, unless it is known here; False if it is none."""
        setup, later = self._peer.setup, pursuit.link
        assert later is not None
        if not later.previous or self._peer.memory.knows(later.previous) is not None:
            return True
        if commit_id(shown.record) != later.previous:
            return False
        try:
            record = verify_commit(shown, setup.run_id, setup.verify)
        except SwarmError:
            return False
        pursuit.links.append((shown, record))
        pursuit.link = record
        return self._links(later, record)

    def _end(self, pursuit: Pursuit, shown: bool) -> bool:
        """The links were shown or not; adopt, unless a better history was adopted meanwhile."""
        self._pursuits.pop(pursuit.source, None)
        assert pursuit.commit is not None and pursuit.record is not None
        if not shown:
            detail = f"{pursuit.source} could not show where it comes from"
            self._peer.emit(RoundEvent("commit_refused", pursuit.record.round, detail))
            return False
        if not better_history(pursuit.record, self._peer.memory.record):
            return False
        self.adopt(pursuit.commit, pursuit.record, pursuit.links[::-1])
        return True

    def _links(self, record: pb.RoundRecord, previous: pb.RoundRecord | None) -> bool:
        legitimate = follows(record, record.previous, previous)
        return legitimate and grows_plausibly(record, previous, self._peer.setup.max_round_tokens)

    # ---- adopting and telling -------------------------------------------------------------

    def adopt(self, commit: pb.Commit, record: pb.RoundRecord, links: Sequence[Link] = ()) -> None:
        """Make a commit ours, which was verified and is ours to follow; `links` lead to it."""
        peer = self._peer
        before = peer.memory.commit_id
        peer.out.append(PersistCommit(commit, tuple(link for link, _ in links)))
        peer.memory.adopt(commit, record, links)
        self._before.append((peer.memory.commit_id, before))
        peer.out.append(Adopt(commit, record))
        self.commit_times.append(peer.now)
        peer.round_is_over()

    def forget(self, commit: pb.Commit) -> None:
        """A commit could not be kept; what was adopted before it is the newest again."""
        for identifier, before in self._before:
            if identifier == commit_id(commit.record):
                self._peer.memory.set_newest(before)

    def tell(self, commit: pb.Commit, peers: Sequence[str]) -> None:
        """Tell others of a commit, again if they do not answer."""
        for peer in peers:
            self._peer.call(peer, commit, self._on_told, tag=1)

    def _on_told(self, told: str, reply: Message | None, call: Pending) -> None:
        if reply is None and call.tag < TELLS:
            assert isinstance(call.message, pb.Commit)
            self._telling.append((self._peer.now + RETRY_S, told, call.message, call.tag + 1))

    def step(self) -> None:
        """Tell again, and look into the next claim."""
        peer = self._peer
        for entry in list(self._telling):
            due, told, commit, times = entry
            if peer.now < due:
                peer.wake_by(due)
            else:
                self._telling.remove(entry)
                peer.call(told, commit, self._on_told, tag=times)
        while self._claims and self._looking_at not in self._pursuits:
            self._looking_at, claim = self._claims.pop(0)
            if better_history(claim, peer.memory.record):
                self.catch_up(self._looking_at, trusting=self.away)
