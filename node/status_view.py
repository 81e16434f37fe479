"""A node's status as text: pure functions from control API messages to `rich` renderables."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from node.text import printable
from swarm.wire.node_pb2 import PeerStatus, RoundSummary, StatusReply

STATE_STYLES = {
    "TRAINING": "green",
    "AVERAGING": "cyan",
    "STOPPED": "red",
    "PAUSED": "yellow",
}


def human_bytes(count: float) -> str:
    """`1.5 MB`; steps of 1000."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"


def human_seconds(seconds: float) -> str:
    """`12 s`, `3 min 5 s`, `2 h 10 min`, `4 d 3 h`."""
    whole = max(0, int(seconds))
    for limit, big, big_unit, small, small_unit in (
        (3600, 60, "min", 1, "s"),
        (86400, 3600, "h", 60, "min"),
    ):
        if whole < 60:
            return f"{whole} s"
        if whole < limit:
            return f"{whole // big} {big_unit} {whole % big // small} {small_unit}"
    return f"{whole // 86400} d {whole % 86400 // 3600} h"


def numbers(values: Sequence[int]) -> str:
    """`0 1 5`, or a dash for none."""
    return " ".join(str(value) for value in values) or "-"


def short_id(peer_id: str) -> str:
    """The end of a peer id, which differs between peers."""
    return peer_id[-8:]


def render_status(status: StatusReply, now_ms: int) -> RenderableType:
    """State with reason and since when, then facts, then one line per peer."""
    age = human_seconds((now_ms - status.since_ms) / 1000)
    state = Text.assemble((status.state, STATE_STYLES.get(status.state, "bold")), f" for {age}")
    if status.reason:
        state.append(f": {status.reason}")
    facts = Table.grid(padding=(0, 2))
    facts.add_column(style="dim")
    facts.add_column(overflow="fold")
    for name, value in _facts(status):
        facts.add_row(name, value)
    parts: list[RenderableType] = [state, facts]
    if status.peers:
        parts += [Text(""), _peer_table(status.peers)]
    if status.experts:
        parts += [Text(""), _expert_table(status)]
    return Group(*parts)


def _facts(status: StatusReply) -> list[tuple[str, str]]:
    committed = "no commit yet"
    if status.last_outcome:
        counted = f"{status.last_counted_round}" if status.last_counted_round else "none yet"
        committed = f"{status.round} committed ({status.last_outcome.lower()})"
        committed += f", own update last counted in: {counted}"
    facts = [
        ("node", f"{status.display_name} {status.peer_id}, process {status.pid}"),
        ("run", f"{status.run_name} {status.run_id[:16]}"),
    ]
    if status.role == "relay":
        return [*facts, *_network_facts(status)]
    facts += [
        ("domain", status.domain),
        ("round", committed),
        *change_facts(status),
        ("step", f"{status.step} of {status.steps_per_round} in this round"),
        ("training", f"{status.tokens_per_second:.0f} tokens/s, loss {status.loss:.3f}"),
        ("device", status.device or "not known yet"),
        ("tokens", f"{status.tokens_trained} here, {status.committed_tokens} in the run"),
        ("experts", numbers(status.held_experts)),
        (
            "traffic",
            f"{human_bytes(status.bytes_sent)} up, {human_bytes(status.bytes_received)} down",
        ),
    ]
    if status.data_report:
        report = ", ".join(f"{name} {status.data_report[name]}" for name in status.data_report)
        facts.append(("data", report))
    return facts + _network_facts(status)


def change_facts(status: StatusReply) -> list[tuple[str, str]]:
    """What the run's coordinator wants different from the manifest."""
    halted = "ended" if status.run_ended else "paused" if status.run_paused else ""
    parts = [halted] * bool(halted) + list(status.changed)
    parts += [f"revoked {short_id(name)}" for name in status.revoked]
    return [("changed", f"{', '.join(parts)} (change {status.change_number})")] if parts else []


def _network_facts(status: StatusReply) -> list[tuple[str, str]]:
    facts = []
    if status.refused:
        refused = ", ".join(f"{code} {status.refused[code]}" for code in sorted(status.refused))
        facts.append(("refused", refused))
    if status.company:
        facts.append(("company", status.company_reason))
    if status.nat:
        facts.append(("reachable", f"{status.nat}: {status.nat_reason}"))
    facts += [("relayed by", relay) for relay in status.relays]
    facts += [("address", address) for address in status.addresses]
    return facts


def _peer_table(peers: Sequence[PeerStatus]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("peer", "id", "domain", "path", "experts"):
        table.add_column(column, no_wrap=True)
    for column in ("round", "tokens/s", "up", "down"):
        table.add_column(column, justify="right", no_wrap=True)
    table.add_column("member", no_wrap=True)
    for peer in peers:
        member = "yes" if peer.in_roster else "no"
        table.add_row(
            peer.display_name, short_id(peer.peer_id), peer.domain, peer.path,
            numbers(peer.held_experts), str(peer.round), f"{peer.tokens_per_second:.0f}",
            human_bytes(peer.bytes_sent), human_bytes(peer.bytes_received),
            member if peer.alive else f"{member}, silent",
            style="" if peer.alive else "dim",
        )  # fmt: skip
    return table


def _expert_table(status: StatusReply) -> Table:
    """Who holds which expert, what it was trained on, and which has nobody."""
    names = {peer.peer_id: peer.display_name or short_id(peer.peer_id) for peer in status.peers}
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("expert", justify="right")
    table.add_column("holders", overflow="fold")
    table.add_column("since round", justify="right")
    table.add_column("tokens/round", justify="right")
    table.add_column("trained on", overflow="fold")
    for row in status.experts:
        nobody = f"nobody for {row.orphaned_rounds} rounds"
        holders = ", ".join(names.get(p, short_id(p)) for p in row.holders) or nobody
        table.add_row(
            str(row.expert), holders, str(row.held_since) if row.holders else "-",
            f"{row.trained_tokens:.0f}", ", ".join(row.served) or "-",
            style="" if row.holders else "yellow",
        )  # fmt: skip
    return table


def render_contributions(status: StatusReply) -> RenderableType:
    """What each peer has given in committed rounds, most tokens first."""
    if not status.contributions:
        return Text("no round has been committed with an update in it")
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("peer", no_wrap=True)
    for column in ("tokens", "share", "rounds", "last round", "served", "relayed"):
        table.add_column(column, justify="right", no_wrap=True)
    for row in contribution_rows(status):
        table.add_row(*row)
    return table


def contribution_rows(status: StatusReply) -> list[list[str]]:
    """Cells: peer, tokens, share of all tokens, rounds, last round, bytes served and relayed."""
    total = sum(row.tokens for row in status.contributions)
    return [
        [
            printable(row.display_name) or short_id(row.peer_id), str(row.tokens),
            f"{row.tokens / max(1, total):.0%}", str(row.rounds), str(row.last_round),
            human_bytes(row.served_bytes), human_bytes(row.relayed_bytes),
        ]
        for row in status.contributions
    ]  # fmt: skip


def render_rounds(rounds: Sequence[RoundSummary]) -> Table:
    """One line per round, who was missing and why included."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("round", "outcome", "seconds", "attempts", "members", "loss"):
        table.add_column(column, justify="left" if column == "outcome" else "right")
    table.add_column("missing", overflow="fold")
    for summary in rounds:
        table.add_row(
            str(summary.round), summary.outcome.lower(), f"{summary.seconds:.1f}",
            str(summary.attempts), str(len(summary.contributors)), f"{summary.loss:.3f}",
            "; ".join(summary.missing),
        )  # fmt: skip
    return table
