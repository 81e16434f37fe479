"""The first page of the dashboard: where the run is, how it goes, what comes next. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from rich.text import Text

from node.dashboard.layout import Sheet, chart, line
from node.dashboard.snapshot import Snapshot
from node.dashboard.words import names_of, with_names
from node.status_view import change_facts, human_bytes, human_seconds, numbers

CHART_WIDTH = 60
CHART_HEIGHT = 3
LINES = 5


def overview(snapshot: Snapshot) -> Sheet:
    """Round, curves of loss and speed, next event, and the last lines of the log."""
    status = snapshot.status
    if status.role == "relay":
        return Sheet(
            [*_facts([("relaying", f"{len(status.peers)} peers known")]), *_last(snapshot)]
        )
    alive = [peer for peer in status.peers if peer.alive]
    swarm_speed = sum(peer.tokens_per_second for peer in alive)
    facts = [
        ("round", _round(snapshot)),
        *_missing(snapshot),
        *change_facts(status),
        ("next", _next(snapshot)),
        ("peers", f"{len(alive)} here, {sum(p.in_roster for p in status.peers)} members"),
        ("tokens", f"{status.committed_tokens} committed in the run, {swarm_speed:.0f} a second"),
        ("this node", _own(snapshot)),
        ("counted", _counted(snapshot)),
    ]
    return Sheet(
        [
            *_facts(facts), line(),
            *_curve("loss", snapshot.losses, "{:.3f}"), line(),
            *_curve("tokens/s", snapshot.speeds, "{:.0f}"), line(),
            *_last(snapshot),
        ]
    )  # fmt: skip


def _facts(facts: Sequence[tuple[str, str]]) -> list[Text]:
    return [line((f"{name:<11}", "dim"), text) for name, text in facts]


def _round(snapshot: Snapshot) -> str:
    status = snapshot.status
    if not status.last_outcome:
        return "none committed yet"
    text = f"{status.round} committed, {status.last_outcome.lower()}"
    if not snapshot.rounds:
        return text
    last = snapshot.rounds[-1]
    return f"{text}, {len(last.contributors)} of {last.electorate} contributed"


def _missing(snapshot: Snapshot) -> list[tuple[str, str]]:
    names = names_of(snapshot)
    missing = [with_names(why, names) for last in snapshot.rounds[-1:] for why in last.missing]
    return [("missing", "; ".join(missing))] if missing else []


def _next(snapshot: Snapshot) -> str:
    status = snapshot.status
    if not status.next_event:
        return "-"
    about = f" in about {human_seconds(status.next_event_s)}" if status.next_event_s else ""
    return status.next_event + about


def _own(snapshot: Snapshot) -> str:
    status = snapshot.status
    return (
        f"step {status.step} of {status.steps_per_round}, {status.tokens_per_second:.0f} tokens/s, "
        f"experts {numbers(status.held_experts)}"
    )


def _counted(snapshot: Snapshot) -> str:
    status = snapshot.status
    last = f"last in round {status.last_counted_round}" if status.last_counted_round else "not yet"
    moved = f"{human_bytes(status.bytes_sent)} up, {human_bytes(status.bytes_received)} down"
    return f"{last}; {status.tokens_trained} tokens trained, {moved}"


def _curve(name: str, values: Sequence[float], form: str) -> list[Text]:
    """A chart with its largest and smallest value; the newest value beside the name."""
    if not values:
        return [line((f"{name:<11}", "dim"), "no round yet")]
    bars = chart(values, CHART_WIDTH, CHART_HEIGHT)
    ends = [f"{form.format(max(values)):>8} "] + [" " * 9] * (CHART_HEIGHT - 2)
    ends.append(f"{form.format(min(values)):>8} ")
    head = line((f"{name:<11}", "dim"), f"{form.format(values[-1])} in the last round")
    return [head, *(line(end, (row, "cyan")) for end, row in zip(ends, bars, strict=True))]


def _last(snapshot: Snapshot) -> list[Text]:
    names = names_of(snapshot)
    return [line((with_names(said.text, names), "dim")) for said in snapshot.log[-LINES:]]
