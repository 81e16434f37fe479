"""What a peer remembers across restarts: the newest commit and its own promises and votes.

An acceptor that forgot a promise could help two records of one round to a majority, so `Ledger`
writes to disk before it returns.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path

import msgpack

from swarm.collective.consensus import Acceptor, BallotKey, commit_id, parse_record
from swarm.errors import Code, SwarmError
from swarm.files import write_atomic
from swarm.wire import collective_pb2 as pb

KEPT_COMMITS = 64


class Ledger:
    """The newest commits of the branch that a peer follows, and its acceptor of the open round.

    `directory` None keeps everything in memory (tests and simulation).
    """

    def __init__(self, directory: Path | None) -> None:
        self._directory = directory
        self._commits: OrderedDict[bytes, pb.Commit] = OrderedDict()
        self.commit: pb.Commit | None = None
        self.record: pb.RoundRecord | None = None
        self.commit_id = b""
        self._acceptor = Acceptor()
        self._acceptor_of: tuple[bytes, int] = (b"", 0)
        if directory is not None:
            self._load(directory)

    def _load(self, directory: Path) -> None:
        path = directory / "commit.bin"
        try:
            if path.exists():
                self._remember(pb.Commit.FromString(path.read_bytes()))
            path = directory / "acceptor.bin"
            if path.exists():
                fields = msgpack.unpackb(path.read_bytes())
                self._acceptor_of = (fields["previous"], fields["round"])
                self._acceptor = Acceptor(
                    promised=tuple(fields["promised"]),
                    accepted=tuple(fields["accepted"]),
                    record=fields["record"],
                )
        except Exception as error:  # protobuf and msgpack raise many types on damaged bytes
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
        """Make a verified commit the newest one."""
        if self._directory is not None:
            write_atomic(self._directory / "commit.bin", commit.SerializeToString())
        self._remember(commit)

    def _remember(self, commit: pb.Commit) -> None:
        self.commit = commit
        self.record = parse_record(commit.record)
        self.commit_id = commit_id(commit.record)
        self._commits[self.commit_id] = commit
        while len(self._commits) > KEPT_COMMITS:
            self._commits.popitem(last=False)

    def find(self, round_index: int) -> pb.Commit | None:
        """The remembered commit of a round, newest branch first."""
        for commit in reversed(self._commits.values()):
            if parse_record(commit.record).round == round_index:
                return commit
        return None

    def acceptor(self) -> Acceptor:
        """The acceptor of the open round; change it through `promise` and `accept` only."""
        instance = (self.commit_id, self.next_round)
        if self._acceptor_of != instance:
            self._acceptor_of, self._acceptor = instance, Acceptor()
        return self._acceptor

    def promise(self, ballot: BallotKey) -> bool:
        """`Acceptor.promise`, on disk before it returns."""
        return self._update(lambda acceptor: acceptor.promise(ballot))

    def accept(self, ballot: BallotKey, record: bytes) -> bool:
        """`Acceptor.accept`, on disk before it returns."""
        return self._update(lambda acceptor: acceptor.accept(ballot, record))

    def _update(self, change: Callable[[Acceptor], bool]) -> bool:
        acceptor = self.acceptor()
        granted = change(acceptor)
        if granted and self._directory is not None:
            fields = {
                "previous": self._acceptor_of[0],
                "round": self._acceptor_of[1],
                "promised": acceptor.promised,
                "accepted": acceptor.accepted,
                "record": acceptor.record,
            }
            write_atomic(self._directory / "acceptor.bin", msgpack.packb(fields))
        return granted
