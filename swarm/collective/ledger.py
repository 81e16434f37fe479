"""What a peer remembers across restarts: the newest commit and its own promises and votes.

An acceptor that forgot a promise could help two records of one decision to a majority, so `Ledger`
writes to disk before it returns, keeps the acceptors of many past decisions, and abstains from the
open round when what it wrote can not be read any more.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgpack

from swarm.collective.consensus import NO_BALLOT, Acceptor, BallotKey, commit_id, parse_record
from swarm.errors import Code, SwarmError
from swarm.files import write_atomic
from swarm.wire import collective_pb2 as pb

KEPT_COMMITS = 256
KEPT_DECISIONS = 64


class Ledger:
    """The newest commits that a peer follows, and its word in each recent decision.

    `directory` None keeps everything in memory (tests and simulation).
    """

    def __init__(self, directory: Path | None) -> None:
        self._directory = directory
        self._commits: OrderedDict[bytes, pb.Commit] = OrderedDict()
        self.commit: pb.Commit | None = None
        self.record: pb.RoundRecord | None = None
        self.commit_id = b""
        self.abstains_after: bytes | None = None  # commit id; no word in the round after it
        self.resignations: dict[str, pb.Resignation] = {}  # of others, for the open round
        self._acceptors: OrderedDict[bytes, Acceptor] = OrderedDict()
        self._promised_after: bytes | None = None  # commit id; a word was given in its next round
        if directory is not None:
            self._load_history(directory / "commits")
            self._load_commit(directory / "commit.bin")
            self._load_word(directory / "acceptors.bin")

    # ---- commits --------------------------------------------------------------------------

    def _load_commit(self, path: Path) -> None:
        if not path.exists():
            return
        try:
            self._remember(pb.Commit.FromString(path.read_bytes()))
        except Exception as error:  # protobuf raises many types on damaged bytes
            raise SwarmError(
                Code.CHECKPOINT_CORRUPT,
                f"{path} can not be read: {error}",
                f"remove {path}; the newest state is fetched from the swarm",
            ) from error

    @property
    def next_round(self) -> int:
        """The round that is open."""
        return 0 if self.record is None else int(self.record.round) + 1

    @property
    def branch(self) -> bytes:
        """The branch of the newest commit, empty before it."""
        return b"" if self.record is None else self.record.branch

    def adopt(self, commit: pb.Commit) -> None:
        """Make a verified commit the newest one. Raises `DISK_FULL` and changes nothing then."""
        if self._directory is not None:
            data = commit.SerializeToString()
            record = parse_record(commit.record)
            name = f"{record.round:012d}-{commit_id(commit.record).hex()[:16]}.bin"
            write_atomic(self._directory / "commits" / name, data)
            write_atomic(self._directory / "commit.bin", data)
        self._remember(commit)
        self._prune_history()

    def _load_history(self, directory: Path) -> None:
        """Earlier commits, which let a peer show where its branch comes from."""
        for path in sorted(directory.glob("*.bin")):
            try:
                self._remember(pb.Commit.FromString(path.read_bytes()))
            except Exception:  # a damaged link only shortens what can be shown
                path.unlink(missing_ok=True)
        self.commit, self.record, self.commit_id = None, None, b""

    def _prune_history(self) -> None:
        if self._directory is not None:
            paths = sorted((self._directory / "commits").glob("*.bin"))
            for path in paths[:-KEPT_COMMITS]:
                path.unlink(missing_ok=True)

    def _remember(self, commit: pb.Commit) -> None:
        self.commit = commit
        self.record = parse_record(commit.record)
        self.commit_id = commit_id(commit.record)
        self.resignations = {}
        self._commits[self.commit_id] = commit
        self._commits.move_to_end(self.commit_id)
        while len(self._commits) > KEPT_COMMITS:
            self._commits.popitem(last=False)

    def knows(self, identifier: bytes) -> pb.RoundRecord | None:
        """The record of a remembered commit."""
        commit = self._commits.get(identifier)
        return parse_record(commit.record) if commit is not None else None

    def find(self, round_index: int) -> pb.Commit | None:
        """The remembered commit of a round, newest branch first."""
        for commit in reversed(self._commits.values()):
            if parse_record(commit.record).round == round_index:
                return commit
        return None

    # ---- this peer's word -----------------------------------------------------------------

    def _load_word(self, path: Path) -> None:
        if not path.exists():
            return
        try:
            fields = msgpack.unpackb(path.read_bytes())
            for key, (promised, accepted, record) in fields["acceptors"]:
                self._acceptors[key] = Acceptor(tuple(promised), tuple(accepted), record)
            self._promised_after = fields["promised_after"]
            self.abstains_after = fields["abstains_after"]
            for data in fields["resignations"]:
                resignation = pb.Resignation.FromString(data)
                if resignation.base_commit == self.commit_id:
                    self.resignations[resignation.peer] = resignation
        except Exception:  # damaged: what was promised is unknown, so promise nothing here
            self._acceptors.clear()
            self.abstains_after = self._promised_after = self.commit_id

    @property
    def abstains(self) -> bool:
        """True when this peer has no vote in the majority's decision about the open round."""
        return self.abstains_after == self.commit_id

    @property
    def has_promised(self) -> bool:
        """True when this peer has given its word in any decision about the open round."""
        return self._promised_after == self.commit_id

    def abstain(self) -> None:
        """Give up the vote in the open round; on disk before it returns."""
        self.abstains_after = self.commit_id
        self._save()

    def note_resignation(self, resignation: pb.Resignation) -> None:
        """Remember that another member gave up its vote in the open round."""
        self.resignations[resignation.peer] = resignation
        self._save()

    def acceptor(self, decision: bytes) -> Acceptor:
        """This peer's word in a decision; to be changed through `promise` and `accept` only."""
        return self._acceptors.get(decision, Acceptor())

    def promise(self, decision: bytes, ballot: BallotKey) -> bool:
        """`Acceptor.promise`, on disk before it returns."""
        return self._update(decision, lambda acceptor: acceptor.promise(ballot))

    def accept(self, decision: bytes, ballot: BallotKey, record: bytes) -> bool:
        """`Acceptor.accept`, on disk before it returns."""
        return self._update(decision, lambda acceptor: acceptor.accept(ballot, record))

    def _update(self, decision: bytes, change: Callable[[Acceptor], bool]) -> bool:
        acceptor = self._acceptors.setdefault(decision, Acceptor())
        granted = change(acceptor)
        if acceptor.promised == NO_BALLOT:
            del self._acceptors[decision]
        if granted:
            self._acceptors.move_to_end(decision)
            self._promised_after = self.commit_id
            while len(self._acceptors) > KEPT_DECISIONS:
                self._acceptors.popitem(last=False)
            self._save()
        return granted

    def _save(self) -> None:
        if self._directory is None:
            return
        fields: dict[str, Any] = {
            "acceptors": [
                (key, (a.promised, a.accepted, a.record)) for key, a in self._acceptors.items()
            ],
            "promised_after": self._promised_after,
            "abstains_after": self.abstains_after,
            "resignations": [r.SerializeToString() for r in self.resignations.values()],
        }
        write_atomic(self._directory / "acceptors.bin", msgpack.packb(fields))
