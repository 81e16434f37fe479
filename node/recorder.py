"""Watches a testnet: what each node said and which rounds were committed, over restarts.

`Recorder.observe` takes statuses and histories as they come; everything else is computed from
what was seen. Pure but for the clock that the caller passes in.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from node.swarm_view import PeerView, RoundView
from swarm.wire.node_pb2 import RoundSummary, StatusReply

ACTIVE_STATES = ("TRAINING", "AVERAGING")
LOSSES_KEPT = 400


@dataclass
class NodeRecord:
    """What was seen of one node, all its processes together."""

    name: str
    domain: str
    peer_id: str = ""
    status: StatusReply | None = None
    """Last status, also when the node is dead now."""

    alive: bool = False
    active_s: float = 0.0
    """Seconds seen in TRAINING or AVERAGING."""

    losses: list[float] = field(default_factory=list)
    traffic_by_pid: dict[int, tuple[int, int]] = field(default_factory=dict)
    tokens_by_pid: dict[int, int] = field(default_factory=dict)
    summaries: dict[int, RoundSummary] = field(default_factory=dict)
    """By round, this node's own account of it."""

    @property
    def sent(self) -> int:
        """Bytes sent by all processes of the node."""
        return sum(sent for sent, _ in self.traffic_by_pid.values())

    @property
    def received(self) -> int:
        """Bytes received by all processes of the node."""
        return sum(received for _, received in self.traffic_by_pid.values())

    @property
    def tokens_trained(self) -> int:
        """Tokens trained by all processes of the node."""
        return sum(self.tokens_by_pid.values())


@dataclass(frozen=True)
class RoundResult:
    """One round as all nodes tell it together."""

    round: int
    outcome: str
    seconds: float
    contributors: tuple[str, ...]
    voters: tuple[str, ...]
    missing: tuple[str, ...]
    attempts: int
    commit_id: str
    loss: float
    committed_tokens: int
    committed_at_ms: int
    compared: int
    """Nodes whose hashes were compared."""

    hashes_equal: bool


class Recorder:
    """Collects observations of the nodes of one testnet."""

    def __init__(self, names_and_domains: Sequence[tuple[str, str]]) -> None:
        self.nodes = [NodeRecord(name, domain) for name, domain in names_and_domains]
        self._last_s: float | None = None

    def observe(
        self,
        now_s: float,
        statuses: Sequence[StatusReply | None],
        histories: Sequence[Sequence[RoundSummary]],
    ) -> None:
        """Add one look at all nodes; `now_s` is a monotonic clock."""
        passed = now_s - self._last_s if self._last_s is not None else 0.0
        self._last_s = now_s
        for node, status, history in zip(self.nodes, statuses, histories, strict=True):
            if node.alive and node.status and node.status.state in ACTIVE_STATES:
                node.active_s += passed
            node.alive = status is not None
            if status is not None:
                self._add_status(node, status)
            for summary in history:
                node.summaries[summary.round] = summary

    def next_round(self, index: int) -> int:
        """Round after which the history of a node is still to be asked."""
        return max(self.nodes[index].summaries, default=0)

    def names(self) -> Mapping[str, str]:
        """Peer id -> name of the nodes seen so far."""
        return {node.peer_id: node.name for node in self.nodes if node.peer_id}

    def rounds(self) -> list[RoundResult]:
        """All rounds that any node told of, in order."""
        numbers = sorted({number for node in self.nodes for number in node.summaries})
        return [self._round(number) for number in numbers]

    def peer_views(self, now_ms: int) -> tuple[PeerView, ...]:
        """The nodes as the view shows them."""
        return tuple(_peer_view(node, now_ms) for node in self.nodes)

    def round_views(self) -> tuple[RoundView, ...]:
        """The rounds as the view shows them."""
        return tuple(
            RoundView(
                round=item.round,
                outcome=item.outcome,
                seconds=item.seconds,
                contributors=len(item.contributors),
                members=len(self.nodes),
                hashes_equal=item.hashes_equal,
                loss=item.loss,
                missing=item.missing,
            )
            for item in self.rounds()
        )

    def _add_status(self, node: NodeRecord, status: StatusReply) -> None:
        node.status = status
        node.peer_id = status.peer_id
        node.traffic_by_pid[status.pid] = (status.bytes_sent, status.bytes_received)
        node.tokens_by_pid[status.pid] = status.tokens_trained
        if status.loss > 0 and node.losses[-1:] != [status.loss]:
            node.losses.append(status.loss)
            del node.losses[:-LOSSES_KEPT]

    def _round(self, number: int) -> RoundResult:
        told = [node.summaries[number] for node in self.nodes if number in node.summaries]
        fullest = max(told, key=lambda summary: (len(summary.contributors), summary.seconds))
        same = {(summary.commit_id, summary.state_root) for summary in told}
        names = self.names()
        return RoundResult(
            round=number,
            outcome=fullest.outcome,
            seconds=max(summary.seconds for summary in told),
            contributors=tuple(sorted(names.get(peer, peer) for peer in fullest.contributors)),
            voters=tuple(sorted({names.get(p, p) for summary in told for p in summary.voters})),
            missing=tuple(_with_names(text, names) for text in fullest.missing),
            attempts=max(summary.attempts for summary in told),
            commit_id=fullest.commit_id,
            loss=fullest.loss,
            committed_tokens=fullest.committed_tokens,
            committed_at_ms=fullest.committed_at_ms,
            compared=len(told),
            hashes_equal=len(same) == 1,
        )


def _with_names(text: str, names: Mapping[str, str]) -> str:
    for peer_id, name in names.items():
        text = text.replace(peer_id, name)
    return text


def _peer_view(node: NodeRecord, now_ms: int) -> PeerView:
    status = node.status
    return PeerView(
        name=node.name,
        domain=node.domain,
        state=status.state if node.alive and status else "dead" if status else "starting",
        since_s=max(0.0, (now_ms - status.since_ms) / 1000) if status and node.alive else 0.0,
        round=status.round if status else 0,
        held=tuple(status.held_experts) if status else (),
        tokens_per_second=status.tokens_per_second if status and node.alive else 0.0,
        losses=tuple(node.losses),
        sent=node.sent,
        received=node.received,
    )
