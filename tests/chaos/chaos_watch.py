"""Watches peers that run freely (`ChaosPeer.do_live`): every commit that any of them tells of is
checked against its votes, its hashes and its contributors; nothing may stand still or grow.

    watch = Watch(manifest, Truth(numel))
    watch.look(peers)                          # again and again
    watch.common_commit(peers, since)          # a commit that all of them have told of
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from multiprocessing import connection as pipes
from typing import Any

from growth import ALLOWED, CEILINGS, growth
from peer_process import PeerProcess
from toy import Truth

from swarm.collective.consensus import commit_id, parse_record, verify_commit
from swarm.config import RunManifest
from swarm.identity import verify
from swarm.wire import collective_pb2 as pb


@dataclass
class Life:
    """What was seen of one process."""

    progress_at: float
    longest_s: float = 0.0  # between two commits
    vitals: list[dict[str, Any]] = field(default_factory=list)
    frozen: bool = False


class Watch:
    """See the module docstring.

    Attributes:
        commits: record by commit id, of every commit that a peer told of.
        told: by commit id, who has told of it.
        trouble: errors that peers reported and went on after.
    """

    def __init__(self, manifest: RunManifest, truth: Truth) -> None:
        self.commits: dict[bytes, pb.RoundRecord] = {}
        self.told: dict[bytes, set[str]] = defaultdict(set)
        self.trouble: list[str] = []
        self._manifest = manifest
        self._truth = truth
        self._decided: dict[tuple[bytes, int], bytes] = {}
        self._lives: dict[PeerProcess, Life] = {}
        self.began = time.monotonic()

    # ---- looking --------------------------------------------------------------------------

    def look(self, peers: Iterable[PeerProcess], timeout_s: float = 0.2) -> None:
        """Take in what the peers say within `timeout_s`, and check it."""
        open_pipes = {p.connection: p for p in peers if not p.connection.closed}
        for ready in pipes.wait(list(open_pipes), timeout_s):
            peer = open_pipes[ready]  # type: ignore[index]
            peer.pump()
            for message in [m for m in peer.inbox if m["kind"] != "reply"]:
                peer.inbox.remove(message)
                self._take(peer, message)

    def _take(self, peer: PeerProcess, message: dict[str, Any]) -> None:
        life = self._life(peer)
        kind = message["kind"]
        if kind == "started":
            peer.me, peer.address = message["me"], message["address"]
            peer.send("live", peer.pause_s)
        elif kind == "adopted":
            life.longest_s = max(life.longest_s, message["at"] - life.progress_at)
            life.progress_at = message["at"]
        elif kind == "commit":
            self._check(message)
        elif kind == "vitals":
            life.vitals.append(message)
        elif kind == "trouble":
            self.trouble.append(f"{message['at'] - self.began:.1f} {peer.name}: {message['text']}")
        elif kind == "defect":
            raise AssertionError(f"{peer.name}: {message['text']}")

    def _life(self, peer: PeerProcess) -> Life:
        if peer not in self._lives:
            self._lives[peer] = Life(peer.started_at)
        return self._lives[peer]

    def _check(self, told: dict[str, Any]) -> None:
        """Hashes as in the record, values as from the contributors, votes of a quorum."""
        commit = pb.Commit.FromString(told["commit"])
        identifier, record = commit_id(commit.record), parse_record(commit.record)
        verify_commit(commit, self._manifest.run_id, verify)
        for serialized in told["lineage"]:
            self._note(serialized)
        assert told["matches"], f"{told['me']} has other bits than round {record.round}"
        self._truth.check(identifier, told["samples"])
        self.told[identifier].add(told["me"])

    def _note(self, serialized: bytes) -> None:
        self._truth.follow(serialized)
        identifier, record = commit_id(serialized), parse_record(serialized)
        place = (bytes(record.branch), int(record.round))
        assert self._decided.setdefault(place, identifier) == identifier, (
            f"two commits of round {record.round} in one branch"
        )
        self.commits[identifier] = record

    # ---- what must hold -------------------------------------------------------------------

    def thawed(self, peer: PeerProcess) -> None:
        """A frozen process goes on: what it lost while it was frozen does not count."""
        life = self._life(peer)
        life.frozen, life.progress_at = False, time.monotonic()

    def frozen(self, peer: PeerProcess) -> None:
        """A process is stopped."""
        self._life(peer).frozen = True

    def progress_at(self, peer: PeerProcess) -> float:
        """When it adopted its newest commit, or started, or was thawed (monotonic)."""
        return self._life(peer).progress_at

    def check_progress(self, peers: Iterable[PeerProcess], limit_s: float) -> None:
        """No living process waits longer than `limit_s` for a commit."""
        now = time.monotonic()
        for peer in peers:
            life = self._life(peer)
            waited = now - life.progress_at
            if waited > limit_s and peer.alive and not life.frozen:
                raise AssertionError(f"{peer.name} has waited {waited:.1f} s for a commit")

    @property
    def longest_s(self) -> float:
        """The longest that a process waited for a commit."""
        return max((life.longest_s for life in self._lives.values()), default=0.0)

    def newest(self) -> pb.RoundRecord:
        """The record with the most tokens."""
        return max(self.commits.values(), key=lambda r: (r.committed_tokens, r.round))

    def common_commit(self, peers: Iterable[PeerProcess], after: int) -> pb.RoundRecord | None:
        """A commit of a later round than `after` with exactly these peers in its roster, which
        all of them have and have told of."""
        names = {p.me for p in peers}
        for identifier, record in self.commits.items():
            if record.round > after and set(record.roster) == names <= self.told[identifier]:
                return record
        return None

    def growth(self) -> list[str]:
        """Processes that leak, or hold too much; see `growth`."""
        return [
            f"{peer.name}: {line}"
            for peer, life in self._lives.items()
            for line in growth(life.vitals) or []
        ]

    def judged(self) -> list[PeerProcess]:
        """Processes that lived long enough to be told a leak of."""
        return [peer for peer, life in self._lives.items() if growth(life.vitals) is not None]

    def largest(self) -> dict[str, float]:
        """The largest of each vital figure of all processes."""
        seen = [v for life in self._lives.values() for v in life.vitals]
        return {
            name: round(max((v[name] for v in seen), default=0.0)) for name in (*ALLOWED, *CEILINGS)
        }
