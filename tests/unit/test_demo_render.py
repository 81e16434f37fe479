"""The live view is a pure function of a snapshot; its text is frozen at two widths.

`python tests/unit/test_demo_render.py` writes the golden files anew.
"""

from __future__ import annotations

import dataclasses
import io
from pathlib import Path

import pytest
from rich.console import Console

from node.demo.results import Scores
from node.demo.tables import routing_table, score_table
from node.screen import Screen
from node.status_view import human_bytes, human_seconds
from node.swarm_view import PeerView, RoundView, Snapshot, plain_lines, render, sparkline

GOLDEN = Path(__file__).parent / "golden" / "demo"

SNAPSHOT = Snapshot(
    title="expertswarm demo",
    phase="training",
    elapsed_s=61.0,
    total_s=120.0,
    peers=(
        PeerView("python", "python", "TRAINING", 3.2, 9, (0, 1), 7012.0,
                 (5.5, 4.1, 3.6, 3.0, 2.8), 12_345_678, 23_456_789),
        PeerView("cpp", "cpp", "AVERAGING", 0.4, 9, (2, 3), 6100.0, (5.4, 3.2), 9_000, 800),
        PeerView("maths", "maths", "dead", 0.0, 8, (4, 5), 0.0, (5.5, 3.3), 1_000_000, 999),
        PeerView("english", "english", "starting", 0.0, 0, (), 0.0, (), 0, 0),
    ),
    rounds=(
        RoundView(8, "FULL", 5.1, 4, 4, True, 3.214, ()),
        RoundView(9, "PARTIAL", 9.7, 3, 4, False, 3.101, ("maths: no heartbeat for 3.0 s",)),
    ),
    events=("maths is killed (SIGKILL)",),
)  # fmt: skip

PEERS = ("python", "cpp", "maths", "english")
SCORES = Scores(
    initial=dict.fromkeys(PEERS, 8.02),
    assembled={"python": 2.9, "cpp": 2.5, "maths": 3.1, "english": 3.0},
    solo={peer: {domain: 2.75 if domain == peer else 4.125 for domain in PEERS} for peer in PEERS},
)
ROUTING = {
    "python": [0.3, 0.2, 0.1, 0.1, 0.1, 0.1, 0.1, 0.0],
    "english": [0.0, 0.1, 0.1, 0.1, 0.1, 0.1, 0.1, 0.4],
}
HOLDERS = {
    e: name for e, name in enumerate("python python cpp cpp maths maths english english".split())
}


def text_of(*renderables: object, width: int) -> str:
    console = Console(width=width, file=io.StringIO(), color_system=None, legacy_windows=False)
    for renderable in renderables:
        console.print(renderable)
    assert isinstance(console.file, io.StringIO)
    return "\n".join(line.rstrip() for line in console.file.getvalue().splitlines()) + "\n"


def pictures() -> dict[str, str]:
    drawn = {}
    for width in (80, 120):
        drawn[f"view-{width}.txt"] = text_of(render(SNAPSHOT), width=width)
        drawn[f"tables-{width}.txt"] = text_of(
            score_table(SCORES), routing_table(ROUTING, HOLDERS), width=width
        )
    return drawn


@pytest.mark.parametrize("name", pictures())
def test_the_view_is_as_recorded(name: str) -> None:
    assert pictures()[name] == (GOLDEN / name).read_text(encoding="utf-8")


@pytest.mark.parametrize("name", pictures())
def test_nothing_is_cut_off_at_the_right(name: str) -> None:
    text = pictures()[name]
    width = int(name.split("-")[1].split(".")[0])
    assert max(len(line) for line in text.splitlines()) <= width
    if name.startswith("view"):
        for needed in ("7012", "12.3 MB", "23.5 MB", "DIFFER", "equal", "SIGKILL", "dead"):
            assert needed in text


def test_rendering_twice_gives_the_same_and_changes_nothing() -> None:
    before = dataclasses.replace(SNAPSHOT)
    assert text_of(render(SNAPSHOT), width=80) == text_of(render(SNAPSHOT), width=80)
    assert before == SNAPSHOT


def test_without_a_terminal_only_what_is_new_is_printed() -> None:
    first = dataclasses.replace(SNAPSHOT, rounds=SNAPSHOT.rounds[:1], events=())
    assert plain_lines(None, first) == [
        "phase: training",
        "python: TRAINING",
        "cpp: AVERAGING",
        "maths: dead",
        "english: starting",
        "round 8: full, 4/4 updates, 5.1 s, loss 3.214, hashes equal",
    ]
    assert plain_lines(first, first) == []
    assert plain_lines(first, SNAPSHOT) == [
        "maths is killed (SIGKILL)",
        "round 9: partial: maths: no heartbeat for 3.0 s, 3/4 updates, 9.7 s, loss 3.101, "
        "HASHES DIFFER",
    ]


def test_a_screen_that_is_no_terminal_prints_lines_without_control_characters() -> None:
    output = io.StringIO()
    with Screen(stream=output) as screen:
        screen.show(SNAPSHOT)
        screen.say("done [not a tag]")
    assert "\x1b" not in output.getvalue()
    assert "round 9: partial" in output.getvalue()
    assert "done [not a tag]" in output.getvalue()


@pytest.mark.parametrize(
    ("values", "expected"),
    [([], ""), ([1.0], "▁"), ([2.0, 2.0], "▁▁"), ([0.0, 7.0], "▁█"), ([3, 2, 1, 0], "█▆▃▁")],
)
def test_sparkline(values: list[float], expected: str) -> None:
    assert sparkline(values) == expected


def test_a_long_history_keeps_its_first_and_last_value() -> None:
    bars = sparkline([float(100 - n) for n in range(101)], width=10)
    assert len(bars) == 10
    assert (bars[0], bars[-1]) == ("█", "▁")


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(-3, "0 s"), (59.9, "59 s"), (61, "1 min 1 s"), (7261, "2 h 1 min"), (90061, "1 d 1 h")],
)
def test_human_seconds(seconds: float, text: str) -> None:
    assert human_seconds(seconds) == text


@pytest.mark.parametrize(
    ("count", "text"), [(0, "0 B"), (999, "999 B"), (1500, "1.5 kB"), (2.5e12, "2.5 TB")]
)
def test_human_bytes(count: float, text: str) -> None:
    assert human_bytes(count) == text


if __name__ == "__main__":
    GOLDEN.mkdir(parents=True, exist_ok=True)
    for name, text in pictures().items():
        (GOLDEN / name).write_text(text, encoding="utf-8")
