"""What a peer must not forget: the commits it follows and its word in each recent decision.

Only in memory; `PersistWord` and `PersistCommit` say what must be on disk
(`swarm/collective/ledger.py`). An acceptor that forgot a promise could help two records of one
decision to a majority.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from swarm.collective.consensus import NO_BALLOT, Acceptor, BallotKey, commit_id, parse_record
from swarm.wire import collective_pb2 as pb

KEPT_COMMITS = 256
KEPT_DECISIONS = 64

Link = tuple[pb.Commit, pb.RoundRecord]


@dataclass(frozen=True)
class Word:
    """A peer's word as it is on disk.

    `acceptors`: (decision, (promised, accepted, record)), oldest first. `promised_after` and
    `abstains_after` are commit ids: in the round after it a word was given, or is not given.
    `highest` is the highest attempt promised after `promised_after`, in any decision.
    """

    acceptors: tuple[tuple[bytes, tuple[BallotKey, BallotKey, bytes]], ...] = ()
    promised_after: bytes | None = None
    abstains_after: bytes | None = None
    resignations: tuple[pb.Resignation, ...] = ()
    highest: int = 0


class Memory:
    """See the module docstring.

    Attributes:
        commit: the newest commit; `record` and `commit_id` are its parts.
        resignations: of others, for the open round.
        recalled: those of them who may be back: from this peer's earlier life, or by their word.
    """

    def __init__(self) -> None:
        self.commit: pb.Commit | None = None
        self.record: pb.RoundRecord | None = None
        self.commit_id = b""
        self.resignations: dict[str, pb.Resignation] = {}
        self.recalled: frozenset[str] = frozenset()
        self.abstains_after: bytes | None = None
        self._promised_after: bytes | None = None
        self._highest = 0  # attempt promised after that
        self._commits: OrderedDict[bytes, Link] = OrderedDict()
        self._acceptors: OrderedDict[bytes, Acceptor] = OrderedDict()

    # ---- commits --------------------------------------------------------------------------

    @property
    def next_round(self) -> int:
        """The round that is open."""
        return 0 if self.record is None else int(self.record.round) + 1

    @property
    def branch(self) -> bytes:
        """The branch of the newest commit, empty before it."""
        return b"" if self.record is None else self.record.branch

    def adopt(
        self,
        commit: pb.Commit,
        record: pb.RoundRecord | None = None,
        links: Iterable[Link] = (),
    ) -> None:
        """Make a verified commit the newest one. Raises `COMMIT_INVALID` if it can not be parsed.

        `record`: the commit's, when it was parsed already. `links`: those before it that are not
        known yet, oldest first.
        """
        parsed = record if record is not None else parse_record(commit.record)
        for link in links:
            self._commits[commit_id(link[0].record)] = link
        self.commit, self.record = commit, parsed
        self.commit_id = commit_id(commit.record)
        self.resignations = {}
        self.recalled = frozenset()
        # Histories only get better, so nobody comes back to a decision that is behind this commit.
        self._acceptors.clear()
        self._commits[self.commit_id] = (commit, parsed)
        self._commits.move_to_end(self.commit_id)
        while len(self._commits) > KEPT_COMMITS:
            self._commits.popitem(last=False)

    def set_newest(self, identifier: bytes) -> None:
        """Make a remembered commit the newest again; with b"" none is."""
        commit, record = self._commits.get(identifier, (None, None))
        self.commit, self.record = commit, record
        self.commit_id = identifier if commit is not None else b""
        self.resignations = {}
        self.recalled = frozenset()

    def knows(self, identifier: bytes) -> pb.RoundRecord | None:
        """The record of a remembered commit."""
        known = self._commits.get(identifier)
        return known[1] if known is not None else None

    def history(self, round_index: int) -> Iterator[pb.Commit]:
        """The commits that are followed, from that of a round back, as far as remembered."""
        known = self._commits.get(self.commit_id)
        while known is not None:
            commit, record = known
            if record.round <= round_index:
                yield commit
            known = self._commits.get(record.previous)

    def successor(self, identifier: bytes, round_index: int) -> pb.Commit | None:
        """The commit that is followed in a round, if it is the successor of `identifier`."""
        commit = next(self.history(round_index), None)
        record = self.knows(commit_id(commit.record)) if commit is not None else None
        if record is None or (record.round, record.previous) != (round_index, identifier):
            return None
        return commit

    # ---- this peer's word -----------------------------------------------------------------

    def word(self) -> Word:
        """What must be on disk before anybody may rely on it."""
        return Word(
            tuple((k, (a.promised, a.accepted, a.record)) for k, a in self._acceptors.items()),
            self._promised_after,
            self.abstains_after,
            tuple(self.resignations.values()),
            self._highest,
        )

    def recall(self, word: Word) -> None:
        """Take back what was on disk; after the commits were adopted."""
        self._acceptors = OrderedDict((k, Acceptor(*fields)) for k, fields in word.acceptors)
        self._promised_after = word.promised_after
        self._highest = word.highest
        self.abstains_after = word.abstains_after
        self.resignations = {
            r.peer: r for r in word.resignations if r.base_commit == self.commit_id
        }
        self.recalled = frozenset(self.resignations)

    def doubt(self) -> None:
        """What was promised is unknown: give no word in the open round, and resign from nothing."""
        self._acceptors.clear()
        self.abstains_after = self._promised_after = self.commit_id

    @property
    def abstains(self) -> bool:
        """True when this peer has no vote in the majority's decision about the open round."""
        return self.abstains_after == self.commit_id

    @property
    def has_resigned(self) -> bool:
        """True when this peer gave up its vote in the open round, and gave no word before."""
        return self.abstains and not self.has_promised

    @property
    def has_promised(self) -> bool:
        """True when this peer has given its word in any decision about the open round."""
        return self._promised_after == self.commit_id

    @property
    def highest_attempt(self) -> int:
        """The highest that this peer has promised in any decision about the open round."""
        return self._highest if self.has_promised else 0

    def abstain(self) -> None:
        """Give up the vote in the open round."""
        self.abstains_after = self.commit_id

    def note_resignation(self, resignation: pb.Resignation, *, back: bool = False) -> None:
        """Another member gave up its vote in the open round; `back`: it is here all the same."""
        self.resignations[resignation.peer] = resignation
        if back:
            self.recalled |= {resignation.peer}

    @property
    def gone(self) -> set[str]:
        """Who resigned from the open round and is surely away."""
        return set(self.resignations) - self.recalled

    def acceptor(self, decision: bytes) -> Acceptor:
        """This peer's word in a decision; to be changed through `promise` and `accept` only."""
        return self._acceptors.get(decision, Acceptor())

    def promise(self, decision: bytes, ballot: BallotKey) -> bool:
        """See `Acceptor.promise`."""
        return self._update(decision, lambda acceptor: acceptor.promise(ballot))

    def accept(self, decision: bytes, ballot: BallotKey, record: bytes) -> bool:
        """See `Acceptor.accept`."""
        return self._update(decision, lambda acceptor: acceptor.accept(ballot, record))

    def _update(self, decision: bytes, change: Callable[[Acceptor], bool]) -> bool:
        acceptor = self._acceptors.setdefault(decision, Acceptor())
        granted = change(acceptor)
        if acceptor.promised == NO_BALLOT:
            del self._acceptors[decision]
        if granted:
            self._acceptors.move_to_end(decision)
            self._highest = max(self.highest_attempt, self._acceptors[decision].promised[0])
            self._promised_after = self.commit_id
            while len(self._acceptors) > KEPT_DECISIONS:
                self._acceptors.popitem(last=False)
        return granted
