"""All that the dashboard shows at one moment, added up from looks at a node. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from swarm.wire.node_pb2 import LogLine, Look, PeerStatus, RoundSummary, StatusReply

KEPT_ROUNDS = 2000
KEPT_LINES = 2000


@dataclass(frozen=True)
class Snapshot:
    """What is known at `at_ms` (Unix time). Nothing in it may be changed.

    Attributes:
        status: the node's last answer.
        rounds: commits, oldest first, at most `KEPT_ROUNDS`.
        log: lines of the node, oldest first, at most `KEPT_LINES`.
        silent_since_ms: when the node began not to answer; 0 when it answers.
    """

    at_ms: int
    status: StatusReply
    rounds: tuple[RoundSummary, ...] = ()
    log: tuple[LogLine, ...] = ()
    silent_since_ms: int = 0

    @property
    def losses(self) -> list[float]:
        """Mean training loss of each committed round, nats per token."""
        return [summary.loss for summary in self.rounds if summary.loss > 0]

    @property
    def speeds(self) -> list[float]:
        """Tokens per second of the whole run from each commit to the next."""
        speeds = []
        for before, after in zip(self.rounds, self.rounds[1:], strict=False):
            seconds = (after.committed_at_ms - before.committed_at_ms) / 1000
            tokens = int(after.committed_tokens) - int(before.committed_tokens)
            if seconds > 0 and tokens >= 0:  # a branch that won may have fewer than the one before
                speeds.append(tokens / seconds)
        return speeds

    def peer(self, peer_id: str) -> PeerStatus | None:
        """What the node knows of a peer."""
        return next((p for p in self.status.peers if p.peer_id == peer_id), None)


class Folder:
    """Adds looks up, in the order of their time."""

    def __init__(self) -> None:
        self._rounds: dict[int, RoundSummary] = {}
        self._log: list[LogLine] = []
        self._status = StatusReply()
        self._silent_since_ms = 0

    @property
    def last_round(self) -> int:
        """Newest round that is known."""
        return max(self._rounds, default=0)

    def add(self, look: Look) -> Snapshot:
        """The snapshot at the time of `look`."""
        if look.HasField("status"):
            self._status, self._silent_since_ms = look.status, 0
        elif not self._silent_since_ms:
            self._silent_since_ms = look.at_ms
        self._rounds |= {summary.round: summary for summary in look.rounds}
        for number in sorted(self._rounds)[:-KEPT_ROUNDS]:
            del self._rounds[number]
        self._log = [*self._log, *look.log][-KEPT_LINES:]
        return Snapshot(
            at_ms=look.at_ms,
            status=self._status,
            rounds=tuple(self._rounds[number] for number in sorted(self._rounds)),
            log=tuple(self._log),
            silent_since_ms=self._silent_since_ms,
        )
