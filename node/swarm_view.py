"""A whole testnet as text: a snapshot of plain values and a pure function that draws it.

`node testnet` and `node demo` take snapshots; `render` turns one into a `rich` renderable and
`plain_lines` tells what is new in one against the one before, for logs and pipes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from node.status_view import STATE_STYLES, human_bytes, human_seconds, numbers

BARS = "▁▂▃▄▅▆▇█"
SPARK_WIDTH = 10
ROUNDS_SHOWN = 6


@dataclass(frozen=True)
class PeerView:
    """One node at one moment; a dead one keeps its last numbers."""

    name: str
    domain: str
    state: str
    """State of the daemon, or `dead`."""

    since_s: float
    round: int
    held: tuple[int, ...]
    tokens_per_second: float
    losses: tuple[float, ...]
    """Training loss over time in nats per token, newest last."""

    sent: int
    received: int


@dataclass(frozen=True)
class RoundView:
    """One committed round."""

    round: int
    outcome: str
    seconds: float
    contributors: int
    members: int
    hashes_equal: bool
    loss: float
    missing: tuple[str, ...]


@dataclass(frozen=True)
class Snapshot:
    """All that is shown at one moment."""

    title: str
    phase: str
    elapsed_s: float
    total_s: float
    """Planned length; 0 for no end."""

    peers: tuple[PeerView, ...]
    rounds: tuple[RoundView, ...]
    events: tuple[str, ...]


def sparkline(values: Sequence[float], width: int = SPARK_WIDTH) -> str:
    """The last values as bars, scaled between their smallest and largest."""
    shown = resample(values, width)
    if not shown:
        return ""
    low, high = min(shown), max(shown)
    span = high - low
    top = len(BARS) - 1
    return "".join(BARS[round((v - low) / span * top) if span > 0 else 0] for v in shown)


def resample(values: Sequence[float], width: int) -> list[float]:
    """At most `width` values, evenly spread over all, the newest included."""
    if len(values) <= width:
        return list(values)
    step = (len(values) - 1) / (width - 1)
    return [values[round(index * step)] for index in range(width)]


def render(snapshot: Snapshot) -> RenderableType:
    """The whole view; fits 80 columns."""
    clock = human_seconds(snapshot.elapsed_s)
    if snapshot.total_s > 0:
        clock += f" of {human_seconds(snapshot.total_s)}"
    head = Text.assemble((snapshot.title, "bold"), f"  {snapshot.phase}  ", (clock, "dim"))
    parts: list[RenderableType] = [head, Text(""), _peer_table(snapshot.peers)]
    if snapshot.rounds:
        parts += [Text(""), _round_table(snapshot.rounds[-ROUNDS_SHOWN:])]
    if snapshot.events:
        parts.append(Text(""))
        parts += [Text(event, overflow="ellipsis", no_wrap=True) for event in snapshot.events[-4:]]
    return Group(*parts)


def _peer_table(peers: Sequence[PeerView]) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0), header_style="bold")
    table.add_column("peer", no_wrap=True, min_width=8)
    table.add_column("state", no_wrap=True, min_width=9)
    for column, width in (("for", 4), ("round", 5), ("experts", 7), ("tok/s", 6)):
        table.add_column(column, no_wrap=True, justify="right", min_width=width)
    table.add_column("loss", no_wrap=True, min_width=5 + SPARK_WIDTH)
    table.add_column("up", no_wrap=True, justify="right", min_width=8)
    table.add_column("down", no_wrap=True, justify="right", min_width=8)
    for peer in peers:
        loss = f"{peer.losses[-1]:.2f} {sparkline(peer.losses)}" if peer.losses else "-"
        style = "red" if peer.state == "dead" else STATE_STYLES.get(peer.state, "")
        table.add_row(
            peer.name, Text(peer.state, style=style), f"{peer.since_s:.0f}s", str(peer.round),
            numbers(peer.held), f"{peer.tokens_per_second:.0f}", loss, human_bytes(peer.sent),
            human_bytes(peer.received),
        )  # fmt: skip
    return table


def _round_table(rounds: Sequence[RoundView]) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for column in ("round", "seconds", "updates", "loss"):
        table.add_column(column, no_wrap=True, justify="right")
    table.add_column("hashes", no_wrap=True)
    table.add_column("outcome", no_wrap=True, overflow="ellipsis")
    for item in rounds:
        table.add_row(
            str(item.round), f"{item.seconds:.1f}", f"{item.contributors}/{item.members}",
            f"{item.loss:.3f}",
            Text("equal", style="green") if item.hashes_equal else Text("DIFFER", style="red"),
            describe_outcome(item),
        )  # fmt: skip
    return table


def describe_outcome(item: RoundView) -> str:
    """`full`, or `partial: maths: silent`."""
    outcome = item.outcome.lower()
    return f"{outcome}: {'; '.join(item.missing)}" if item.missing else outcome


def plain_lines(before: Snapshot | None, now: Snapshot) -> list[str]:
    """What changed between two snapshots, one line each."""
    lines = []
    if before is None or before.phase != now.phase:
        lines.append(f"phase: {now.phase}")
    known_events = len(before.events) if before else 0
    lines += now.events[known_events:]
    old_states = {peer.name: peer.state for peer in before.peers} if before else {}
    for peer in now.peers:
        was = old_states.get(peer.name)
        if was != peer.state and {was, peer.state} != {"TRAINING", "AVERAGING"}:
            lines.append(f"{peer.name}: {peer.state}")
    known_rounds = {item.round for item in before.rounds} if before else set()
    for item in now.rounds:
        if item.round not in known_rounds:
            equal = "hashes equal" if item.hashes_equal else "HASHES DIFFER"
            lines.append(
                f"round {item.round}: {describe_outcome(item)}, "
                f"{item.contributors}/{item.members} updates, {item.seconds:.1f} s, "
                f"loss {item.loss:.3f}, {equal}"
            )
    return lines
