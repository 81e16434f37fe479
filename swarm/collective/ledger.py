"""What a peer remembers across restarts: the newest commits and its own promises and votes.

    ledger = Ledger(directory)           # reads what is there into `ledger.memory`
    ledger.save_word(memory.word())      # on disk when it returns
    ledger.save_commit(commit)

What is remembered, and the rules of it, are in `swarm/collective/protocol/memory.py`. A peer whose
word can not be read any more abstains from the open round.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import msgpack

from swarm.collective.consensus import Acceptor, BallotKey, commit_id, parse_record
from swarm.collective.protocol.memory import KEPT_COMMITS, Memory, Word
from swarm.errors import Code, SwarmError
from swarm.files import write_atomic
from swarm.wire import collective_pb2 as pb


class Ledger:
    """The newest commits that a peer follows, and its word in each recent decision, on disk.

    `directory` None keeps everything in memory (tests and simulation).
    """

    def __init__(self, directory: Path | None) -> None:
        self.memory = Memory()
        self._directory = directory
        if directory is not None:
            self._load_history(directory / "commits")
            self._load_commit(directory / "commit.bin")
            self._load_word(directory / "acceptors.bin")

    # ---- reading --------------------------------------------------------------------------

    def _load_history(self, directory: Path) -> None:
        """Earlier commits, which let a peer show where its branch comes from."""
        for path in _by_age(directory):
            try:
                self.memory.adopt(pb.Commit.FromString(path.read_bytes()))
            except Exception:  # a damaged link only shortens what can be shown
                path.unlink(missing_ok=True)
        self.memory.set_newest(b"")

    def _load_commit(self, path: Path) -> None:
        if not path.exists():
            return
        try:
            self.memory.adopt(pb.Commit.FromString(path.read_bytes()))
        except Exception as error:  # protobuf raises many types on damaged bytes
            raise SwarmError(
                Code.CHECKPOINT_CORRUPT,
                f"{path} can not be read: {error}",
                f"remove {path}; the newest state is fetched from the swarm",
            ) from error

    def _load_word(self, path: Path) -> None:
        if not path.exists():
            return
        try:
            self.memory.recall(_unpack(path.read_bytes()))
        except Exception:  # damaged: what was promised is unknown, so promise nothing here
            self.memory.doubt()

    # ---- writing --------------------------------------------------------------------------

    def save_commit(self, commit: pb.Commit, links: Iterable[pb.Commit] = ()) -> None:
        """Keep a commit as the newest one, and `links` before it. Raises `DISK_FULL`."""
        if self._directory is None:
            return
        for link in links:  # many at a time; one that is lost only shortens what can be shown
            write_atomic(self._path(link), link.SerializeToString(), sync=False)
        data = commit.SerializeToString()
        write_atomic(self._path(commit), data)
        write_atomic(self._directory / "commit.bin", data)
        for path in _by_age(self._directory / "commits")[:-KEPT_COMMITS]:
            path.unlink(missing_ok=True)

    def _path(self, commit: pb.Commit) -> Path:
        assert self._directory is not None
        round_index = parse_record(commit.record).round
        name = f"{round_index:012d}-{commit_id(commit.record).hex()[:16]}.bin"
        return self._directory / "commits" / name

    def save_word(self, word: Word) -> None:
        """Keep what was promised, voted and given up. Raises `DISK_FULL`."""
        if self._directory is not None:
            write_atomic(self._directory / "acceptors.bin", _pack(word))

    # ---- for those who use a ledger by itself ---------------------------------------------

    @property
    def commit(self) -> pb.Commit | None:
        """The newest commit."""
        return self.memory.commit

    @property
    def record(self) -> pb.RoundRecord | None:
        """Its record."""
        return self.memory.record

    @property
    def commit_id(self) -> bytes:
        """Its id; empty before the first."""
        return self.memory.commit_id

    @property
    def next_round(self) -> int:
        """The round that is open."""
        return self.memory.next_round

    @property
    def branch(self) -> bytes:
        """The branch of the newest commit, empty before it."""
        return self.memory.branch

    @property
    def resignations(self) -> dict[str, pb.Resignation]:
        """Of others, for the open round."""
        return self.memory.resignations

    @property
    def abstains(self) -> bool:
        """See `Memory.abstains`."""
        return self.memory.abstains

    @property
    def has_promised(self) -> bool:
        """See `Memory.has_promised`."""
        return self.memory.has_promised

    def acceptor(self, decision: bytes) -> Acceptor:
        """See `Memory.acceptor`."""
        return self.memory.acceptor(decision)

    def promise(self, decision: bytes, ballot: BallotKey) -> bool:
        """`Acceptor.promise`, on disk before it returns."""
        granted = self.memory.promise(decision, ballot)
        self.save_word(self.memory.word())
        return granted

    def accept(self, decision: bytes, ballot: BallotKey, record: bytes) -> bool:
        """`Acceptor.accept`, on disk before it returns."""
        granted = self.memory.accept(decision, ballot, record)
        self.save_word(self.memory.word())
        return granted

    def abstain(self) -> None:
        """Give up the vote in the open round; on disk before it returns."""
        self.memory.abstain()
        self.save_word(self.memory.word())


def _by_age(directory: Path) -> list[Path]:
    """Commits, oldest first. A better branch may be in a lower round than the one before it."""
    return sorted(directory.glob("*.bin"), key=lambda p: (p.stat().st_mtime_ns, p.name))


def _pack(word: Word) -> bytes:
    fields: dict[str, Any] = {
        "acceptors": word.acceptors,
        "promised_after": word.promised_after,
        "abstains_after": word.abstains_after,
        "highest": word.highest,
        "resignations": [r.SerializeToString() for r in word.resignations],
    }
    return bytes(msgpack.packb(fields))


def _unpack(data: bytes) -> Word:
    fields = msgpack.unpackb(data)
    return Word(
        tuple(
            (key, ((p[0], p[1]), (a[0], a[1]), record))
            for key, (p, a, record) in fields["acceptors"]
        ),
        fields["promised_after"],
        fields["abstains_after"],
        tuple(pb.Resignation.FromString(data) for data in fields["resignations"]),
        fields.get("highest", 0),
    )
