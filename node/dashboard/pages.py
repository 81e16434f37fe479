"""The pages of the dashboard: each a function from a snapshot to a sheet. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from rich.text import Text

from node.dashboard.layout import Column, Sheet, line
from node.dashboard.overview import overview
from node.dashboard.snapshot import Snapshot
from node.dashboard.words import clock, names_of, with_names
from node.status_view import STATE_STYLES, contribution_rows, human_bytes, numbers, short_id
from swarm.wire.node_pb2 import PeerStatus

OUTCOME_STYLES = {"full": "green", "founded": "green", "partial": "yellow", "skipped": "red"}


def peers(snapshot: Snapshot) -> Sheet:
    """Who is in the swarm, what each does, and why one is absent."""
    columns = (
        Column("peer", 16), Column("state", 10), Column("experts", 8),
        Column("tok/s", 7, right=True), Column("counted", 7, right=True),
        Column("path", 7), Column("domain", 14, from_width=100),
        Column("device", 10, from_width=120), Column("steps", 6, right=True, from_width=120),
        Column("id", 8, from_width=140), Column("nat", 10, from_width=140),
        Column("version", 8, from_width=140),
        Column("absent because", 0),
    )  # fmt: skip
    rows: list[list[str | Text]] = []
    styles = []
    for peer in snapshot.status.peers:
        rows.append(
            [
                peer.display_name or short_id(peer.peer_id), _state(peer),
                numbers(peer.held_experts), f"{peer.tokens_per_second:.0f}",
                str(peer.last_counted_round or "-"), peer.path, peer.domain, peer.device or "-",
                str(peer.steps or "-"), short_id(peer.peer_id), peer.nat or "-",
                peer.version or "-", peer.absent,
            ]
        )  # fmt: skip
        styles.append("" if peer.alive else "dim")
    return Sheet((), columns, rows, styles, "no peer is known yet")


def _state(peer: PeerStatus) -> Text:
    state = peer.state if peer.alive else "silent"
    return line((state or "-", STATE_STYLES.get(state, "" if peer.alive else "red")))


def experts(snapshot: Snapshot) -> Sheet:
    """Who holds each expert, what it was trained on, how busy it is."""
    columns = (
        Column("expert", 6, right=True), Column("holders", 28),
        Column("version", 7, right=True), Column("tokens/round", 12, right=True),
        Column("load", 6, right=True), Column("since", 6, right=True, from_width=100),
        Column("trained on", 0),
    )  # fmt: skip
    names = names_of(snapshot)
    rows, styles = [], []
    for row in snapshot.status.experts:
        nobody = f"nobody for {row.orphaned_rounds} rounds"
        holders = ", ".join(names.get(p, short_id(p)) for p in row.holders) or nobody
        rows.append(
            [
                str(row.expert), holders, str(row.version), f"{row.trained_tokens:.0f}",
                f"{row.load:.2f}", str(row.held_since) if row.holders else "-",
                ", ".join(row.served) or "-",
            ]
        )  # fmt: skip
        styles.append("" if row.holders else "yellow")
    return Sheet((), columns, rows, styles, "no commit yet")


def rounds(snapshot: Snapshot) -> Sheet:
    """Every round, the newest first: its outcome, who was missing and why."""
    columns = (
        Column("round", 7, right=True), Column("outcome", 8), Column("peers", 7, right=True),
        Column("seconds", 7, right=True), Column("loss", 7, right=True),
        Column("up", 8, right=True), Column("down", 8, right=True, from_width=100),
        Column("attempts", 8, right=True, from_width=100),
        Column("committed", 9, from_width=120), Column("commit", 8, from_width=140),
        Column("missing", 0),
    )  # fmt: skip
    names = names_of(snapshot)
    rows: list[list[str | Text]] = []
    before = None
    for summary in snapshot.rounds:
        sent, received = (
            _grown(getattr(before, field, 0), getattr(summary, field))
            for field in ("bytes_sent", "bytes_received")
        )
        outcome = summary.outcome.lower()
        rows.append(
            [
                str(summary.round), line((outcome, OUTCOME_STYLES.get(outcome, ""))),
                f"{len(summary.contributors)}/{summary.electorate}", f"{summary.seconds:.1f}",
                f"{summary.loss:.3f}", sent, received, str(summary.attempts),
                clock(summary.committed_at_ms), summary.commit_id[:8],
                "; ".join(with_names(text, names) for text in summary.missing),
            ]
        )  # fmt: skip
        before = summary
    return Sheet((), columns, rows[::-1], (), "no commit yet")


def _grown(before: int, after: int) -> str:
    """The bytes of one round; the counters begin again when a node is started again."""
    return human_bytes(after - before if after >= before else after)


def network(snapshot: Snapshot) -> Sheet:
    """How this node is reached and reaches the others."""
    status = snapshot.status
    facts = [
        ("reachable", f"{status.nat}: {status.nat_reason}" if status.nat else "not known yet"),
        ("seen as", ", ".join(status.observed) or "-"),
        ("relayed by", ", ".join(short_id(relay) for relay in status.relays) or "nobody"),
        ("company", status.company_reason or status.company or "-"),
        ("bandwidth", f"{_rate(status.upload_bps)} up, {_rate(status.download_bps)} down"),
        ("clocks", _clocks(snapshot)),
        ("refused", _counts(status.refused) or "nothing"),
        *(("address", address) for address in status.addresses),
    ]
    above = [line((f"{name:<11}", "dim"), text) for name, text in facts] + [line()]
    columns = (
        Column("peer", 16), Column("path", 8), Column("up", 9, right=True),
        Column("down", 9, right=True), Column("nat", 12), Column("id", 0),
    )  # fmt: skip
    others = [peer for peer in status.peers if peer.path != "self"]
    rows = [
        [
            peer.display_name or short_id(peer.peer_id), peer.path,
            human_bytes(peer.bytes_sent), human_bytes(peer.bytes_received), peer.nat or "-",
            peer.peer_id,
        ]
        for peer in others
    ]  # fmt: skip
    return Sheet(above, columns, rows, (), "no other peer is known")


def _rate(bits_per_second: float) -> str:
    return f"{human_bytes(bits_per_second / 8)}/s" if bits_per_second else "not measured"


def _clocks(snapshot: Snapshot) -> str:
    status = snapshot.status
    if not status.clock_peers:
        return "not compared"
    return f"{status.clock_offset_s:+.1f} s from this one, median of {status.clock_peers}"


def _counts(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{name} {counts[name]}" for name in sorted(counts))


def log(snapshot: Snapshot) -> Sheet:
    """What the node said, the newest line first."""
    names = names_of(snapshot)
    columns = (Column("time", 8), Column("line", 0))
    rows = [[clock(said.at_ms), with_names(said.text, names)] for said in reversed(snapshot.log)]
    return Sheet((), columns, rows, (), "the node has said nothing yet")


def contributions(snapshot: Snapshot) -> Sheet:
    """What each peer has given in committed rounds."""
    columns = (
        Column("peer", 24), Column("tokens", 12, right=True), Column("share", 5, right=True),
        Column("rounds", 7, right=True), Column("last round", 10, right=True),
        Column("served", 9, right=True), Column("relayed", 9, right=True), Column("", 0),
    )  # fmt: skip
    rows = [[*row, ""] for row in contribution_rows(snapshot.status)]
    return Sheet((), columns, rows, (), "no round has been committed with an update in it")


PAGES: Mapping[str, Callable[[Snapshot], Sheet]] = {
    "overview": overview,
    "peers": peers,
    "experts": experts,
    "rounds": rounds,
    "network": network,
    "log": log,
    "contributions": contributions,
}
