"""The dashboard's pages are frozen; `python tests/unit/test_dashboard.py` writes them anew."""

from __future__ import annotations

import io
import json
import os
import time
from dataclasses import replace
from pathlib import Path

import pytest
from dashboard_looks import IDS, NOW_MS, look, status
from rich.cells import cell_len
from rich.console import Console, RenderableType

from node import exit_codes
from node.cli import run_command_line
from node.commands import dashboard
from node.dashboard.keys import decode, press
from node.dashboard.layout import chart
from node.dashboard.recording import Player, Recording, read_recording
from node.dashboard.snapshot import Folder, Snapshot
from node.dashboard.view import NAMES, Slider, View, plain, render
from swarm.errors import Code, SwarmError
from swarm.wire.node_pb2 import LogLine, Look, RoundSummary, StatusReply

GOLDEN = Path(__file__).parent / "golden" / "dashboard"
WIDTHS = (80, 120, 200)
HEIGHT = 24


@pytest.fixture(autouse=True)
def utc(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", "UTC")
    time.tzset()


def text_of(drawn: RenderableType, width: int, *, color: bool = False) -> str:
    output = io.StringIO()
    console = Console(
        file=output, width=width, force_terminal=color, color_system="standard" if color else None
    )
    console.print(drawn)
    return output.getvalue()


def screen(snapshot: Snapshot, view: View, width: int = 80, height: int = HEIGHT) -> list[str]:
    lines = text_of(render(snapshot, view, width, height), width).splitlines()
    return [line.rstrip() for line in lines]


def snapshot(dead: bool = False) -> Snapshot:
    return Folder().add(look(dead))


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("page", NAMES)
def test_a_page_is_as_recorded(page: str, width: int) -> None:
    drawn = "\n".join(screen(snapshot(), View(page=page), width)) + "\n"
    assert drawn == (GOLDEN / f"{page}-{width}.txt").read_text(encoding="utf-8")


@pytest.mark.parametrize("height", [5, 10, 24, 60])
@pytest.mark.parametrize("page", NAMES)
def test_a_screen_has_exactly_the_lines_of_the_terminal_and_none_too_wide(
    page: str, height: int
) -> None:
    for view in (View(page=page), View(page=page, scroll=1000), View(page=page, help=True)):
        lines = screen(snapshot(), view, 80, height)
        if not (view.help and height < 24):
            assert len(lines) == height
        assert max(cell_len(line) for line in lines) <= 80


def test_what_peers_call_themselves_can_not_control_the_terminal() -> None:
    drawn = text_of(plain(snapshot(), View(page="log"), 80), 80, color=True)
    assert "peer with \N{REPLACEMENT CHARACTER}[31m" in drawn


def test_color_is_used_on_a_terminal_alone() -> None:
    view = render(snapshot(), View(), 80, HEIGHT)
    assert "\x1b[" in text_of(view, 80, color=True)
    assert "\x1b[" not in text_of(view, 80)


def test_a_peer_that_is_gone_is_shown_silent_and_why() -> None:
    (row,) = (line for line in screen(snapshot(dead=True), View(page="peers")) if "cleo" in line)
    assert "silent" in row and row.endswith("does not answer")


def test_a_node_that_does_not_answer_keeps_its_last_words_and_is_said_to_be_silent() -> None:
    folder = Folder()
    folder.add(look())
    folder.add(Look(at_ms=NOW_MS + 1_000))
    gone = folder.add(Look(at_ms=NOW_MS + 6_000))
    assert screen(gone, View())[0] == (
        "anna in quickstart  NO ANSWER for 5 s; below is what it last said"
    )
    assert any("25 committed" in line for line in screen(gone, View()))
    back = folder.add(Look(at_ms=NOW_MS + 7_000, status=status()))
    assert "TRAINING" in screen(back, View())[0]


def test_scrolling_goes_to_the_oldest_round_and_no_further() -> None:
    lines = screen(snapshot(), View(page="rounds", scroll=10_000))
    assert lines[-2].split()[0] == "1"


def test_the_speed_of_the_run_is_that_between_commits() -> None:
    made = [
        RoundSummary(round=n, committed_tokens=tokens, committed_at_ms=1_000 * at)
        for n, tokens, at in ((1, 0, 10), (2, 500, 12), (3, 100, 14), (4, 1_300, 20))
    ]
    found = Folder().add(Look(at_ms=1, status=StatusReply(), rounds=made))
    assert found.speeds == [250.0, 200.0]  # the third is of a branch that had fewer tokens


def test_a_chart_goes_from_the_smallest_value_to_the_largest() -> None:
    assert chart([0, 1, 2, 3], 4, 2) == ["  ▃█", "▁▆██"]
    assert chart([5, 5], 4, 1) == ["▁▁"]
    assert chart([], 4, 2) == ["", ""]


def test_keys_of_a_terminal_are_told_apart() -> None:
    assert decode(b"2\x1b[A\x1b[6~\t q\x1bOC\xff") == [
        "2", "up", "page down", "tab", "space", "q", "right", "\N{REPLACEMENT CHARACTER}",
    ]  # fmt: skip


def pressed(view: View, *keys: str) -> View:
    for key in keys:
        after = press(view, key)
        assert after is not None
        view = after
    return view


def test_keys_change_what_is_shown() -> None:
    assert pressed(View(), "2").page == "peers"
    assert pressed(View(), "9", "x").page == "overview"
    assert pressed(View(), "back tab").page == NAMES[-1]
    assert pressed(View(page=NAMES[-1], scroll=3), "tab") == View()
    assert pressed(View(), "down", "page down", "up").scroll == 10
    assert pressed(View(), "up").scroll == 0
    assert pressed(View(), "space").held
    assert not pressed(View(), "?", "x").help
    assert press(View(), "q") is None


def test_the_slider_moves_in_a_recording_and_stops_at_its_ends() -> None:
    view = View(slider=Slider(0, 80_000, 40_000, playing=True))

    def at(*keys: str) -> Slider:
        moved = pressed(view, *keys).slider
        assert moved is not None
        return moved

    assert at("right").at_ms == 42_000
    assert at("left").at_ms == 38_000
    assert at("home", "left").at_ms == 0
    assert at("end") == Slider(0, 80_000, 80_000, playing=False)
    assert not at("space").playing
    line = screen(snapshot(), replace(view, slider=at("left", "left")))[-1]
    assert line.startswith("> 00:00:36  ━") and line.endswith("36 s of 1 min 20 s  ? keys")


def recorded(path: Path) -> list[Look]:
    looks = [look()]
    for second in range(1, 10):
        line = LogLine(number=30 + second, at_ms=NOW_MS + 1_000 * second, text=f"line {second}")
        reply = None if second == 9 else status(dead=second > 4)
        looks.append(Look(at_ms=NOW_MS + 1_000 * second, status=reply, log=[line]))
    with Recording(path) as recording:
        for item in looks:
            recording.add(item)
    return looks


def test_a_recording_is_read_back_and_can_be_looked_at_at_any_time(tmp_path: Path) -> None:
    looks = recorded(tmp_path / "looks")
    assert (tmp_path / "looks").stat().st_mode & 0o777 == 0o600
    assert read_recording(tmp_path / "looks") == looks
    player = Player(looks)
    last = player.at(player.end_ms)
    assert last.silent_since_ms == NOW_MS + 9_000
    before, after = player.at(NOW_MS + 4_999), player.at(NOW_MS + 5_000)
    assert [s.peer(IDS[2]).alive for s in (before, after)] == [True, False]  # type: ignore[union-attr]
    assert [len(s.log) for s in (player.at(0), before, after, last)] == [30, 34, 35, 39]


def test_a_recording_that_was_cut_off_is_played_up_to_there(tmp_path: Path) -> None:
    looks = recorded(tmp_path / "looks")
    text = (tmp_path / "looks").read_text()
    (tmp_path / "cut").write_text(text[:-10])
    assert read_recording(tmp_path / "cut") == looks[:-1]


@pytest.mark.parametrize("text", ["", "{}", "[1]", "no", '{"format": "expertswarm recording 1"}'])
def test_a_file_that_is_no_recording_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "other").write_text(text)
    with pytest.raises(SwarmError) as caught:
        read_recording(tmp_path / "other")
    assert caught.value.code is Code.USAGE


def test_a_recording_replaces_no_file(tmp_path: Path) -> None:
    (tmp_path / "looks").touch()
    with pytest.raises(SwarmError) as caught:
        Recording(tmp_path / "looks")
    assert caught.value.code is Code.USAGE


def test_without_a_terminal_the_command_prints_a_moment_of_a_recording(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recorded(tmp_path / "looks")
    words = ["dashboard", "--replay", str(tmp_path / "looks")]
    assert run_command_line([*words, "--page", "peers", "--at", "4"]) == exit_codes.OK
    shown = capsys.readouterr().out
    assert "silent" not in shown and "\x1b" not in shown
    assert run_command_line([*words, "--page", "peers", "--at", "5"]) == exit_codes.OK
    assert "silent" in capsys.readouterr().out
    assert run_command_line([*words, "--json"]) == exit_codes.OK
    facts = json.loads(capsys.readouterr().out)
    assert facts["silent_since_ms"] == NOW_MS + 9_000
    assert facts["status"]["peers"][2]["alive"] is False
    assert len(facts["rounds"]) == 25


@pytest.mark.parametrize("words", [["--at", "3"], ["--replay", "f", "--record", "g"]])
def test_arguments_that_do_not_fit_together_are_refused(words: list[str]) -> None:
    assert run_command_line(["dashboard", *words]) == exit_codes.USAGE


def test_the_command_names_the_pages_that_there_are() -> None:
    assert dashboard.PAGES == NAMES


if __name__ == "__main__":
    os.environ["TZ"] = "UTC"
    time.tzset()
    GOLDEN.mkdir(parents=True, exist_ok=True)
    for page in NAMES:
        for width in WIDTHS:
            drawn = "\n".join(screen(snapshot(), View(page=page), width)) + "\n"
            (GOLDEN / f"{page}-{width}.txt").write_text(drawn, encoding="utf-8")
