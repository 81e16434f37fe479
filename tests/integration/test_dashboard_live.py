"""The dashboard in a real terminal against real nodes; a recorded kill is seen again."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from tiny_run import tiny_manifest, tiny_peers

from node.cli import run_command_line
from node.dashboard.recording import Player, read_recording
from node.testnet import LocalTestnet

LIMIT = timedelta(seconds=120)
SCREEN_LIMIT_S = 30
PROGRAM = [sys.executable, "-m", "node"]

needs_tmux = pytest.mark.skipif(shutil.which("tmux") is None, reason="tmux is not installed")


class Terminal:
    """A terminal of 120 by 40 characters in a tmux server of its own."""

    def __init__(self, command: list[str], place: Path) -> None:
        self._tmux = ["tmux", "-S", str(place / f"tmux-{uuid.uuid4().hex[:8]}")]
        words = f"unset COLUMNS LINES; TERM=screen exec {shlex.join(command)}"
        self._run("-f", "/dev/null", "new-session", "-d", "-x", "120", "-y", "40", words)
        self._run("set-option", "-g", "remain-on-exit", "on")

    def _run(self, *words: str) -> str:
        done = subprocess.run([*self._tmux, *words], capture_output=True, text=True, check=True)
        return done.stdout

    def keys(self, *names: str) -> None:
        self._run("send-keys", *names)

    def wait_for(self, seen: Callable[[str], bool]) -> str:
        deadline = time.monotonic() + SCREEN_LIMIT_S
        while not seen(shown := self._run("capture-pane", "-p")):
            assert time.monotonic() < deadline, shown
            time.sleep(0.1)
        return shown

    def ended(self) -> bool:
        return self._run("display-message", "-p", "#{pane_dead}").strip() == "1"

    def close(self) -> None:
        self._run("kill-server")


@pytest.fixture
def terminal(tmp_path: Path) -> Iterator[Callable[[list[str]], Terminal]]:
    opened: list[Terminal] = []

    def start(command: list[str]) -> Terminal:
        opened.append(Terminal(command, tmp_path))
        return opened[-1]

    yield start
    for one in opened:
        one.close()


def status_of(directory: Path, capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    assert run_command_line(["status", "--json", "--dir", str(directory)]) == 0
    facts: dict[str, Any] = json.loads(capsys.readouterr().out)
    return facts


@needs_tmux
def test_the_screen_says_what_status_says_and_a_recorded_kill_is_seen_again(
    tmp_path: Path,
    terminal: Callable[[list[str]], Terminal],
    capsys: pytest.CaptureFixture[str],
) -> None:
    tiny_manifest(tmp_path / "RUN.toml", peers=3)
    looks = tmp_path / "looks"
    with LocalTestnet(
        tmp_path / "RUN.toml", tiny_peers(tmp_path, 3), tmp_path / "nodes"
    ) as testnet:
        testnet.start(LIMIT)
        testnet.wait_until(lambda s: all(x and x.round >= 1 for x in s), "a round", LIMIT)
        directory = testnet.nodes[0].directory
        command = [*PROGRAM, "dashboard", "--dir", str(directory), "--record", str(looks)]
        shown = terminal(command)

        before = status_of(directory, capsys)
        shown.wait_for(lambda text: _round_on(text) >= before["round"])
        after = status_of(directory, capsys)
        screen = shown.wait_for(lambda text: _round_on(text) >= after["round"])
        assert f"p0 in {after['run_name']}" in screen
        assert "3 here, 3 members" in screen

        shown.keys("2")
        deadline = time.monotonic() + SCREEN_LIMIT_S
        peers = after["peers"]
        while not all(peer["device"] for peer in peers):
            assert time.monotonic() < deadline
            time.sleep(0.2)
            peers = status_of(directory, capsys)["peers"]
        shown.wait_for(lambda text: all(_row_says(text, peer) for peer in peers))

        killed_ms = round(1000 * time.time())
        testnet.kill(2)
        shown.wait_for(lambda text: _line_of(text, "p2 ").split()[1:2] in ([], ["silent"]))
        testnet.wait_until(
            lambda s: s[0] is not None and s[0].round > after["round"] + 1, "survivors", LIMIT
        )
        shown.keys("6")
        shown.wait_for(lambda text: "2 of 2 contributed" in text)
        shown.keys("q")
        deadline = time.monotonic() + SCREEN_LIMIT_S
        while not shown.ended():
            assert time.monotonic() < deadline
            time.sleep(0.05)

    player = Player(read_recording(looks))
    alive_then = player.at(killed_ms).status.peers
    assert sorted(p.display_name for p in alive_then if p.alive) == ["p0", "p1", "p2"]
    end = player.at(player.end_ms)
    assert "p2" not in [p.display_name for p in end.status.peers if p.alive]
    (gone,) = (p.peer_id for p in alive_then if p.display_name == "p2")
    assert any(gone in summary.contributors for summary in end.rounds)
    assert gone not in end.rounds[-1].contributors

    replay = terminal([*PROGRAM, "dashboard", "--replay", str(looks), "--page", "peers"])
    replay.keys("Space", "Home")
    replay.wait_for(
        lambda text: "TRAINING" in _line_of(text, "p2 ") or "AVER" in _line_of(text, "p2 ")
    )
    replay.keys("End")
    replay.wait_for(lambda text: _line_of(text, "p2 ").split()[1:2] in ([], ["silent"]))
    assert os.path.getsize(looks) < 1 << 20


def _row_says(screen: str, peer: dict[str, Any]) -> bool:
    words = _line_of(screen, f"{peer['display_name']} ").split()
    told = {peer["path"], peer["domain"], peer["device"]}
    return len(words) > 2 and told <= set(words) and words[2] == str(peer["held_experts"][0])


def _round_on(screen: str) -> int:
    words = _line_of(screen, "round ").split()
    return int(words[1]) if len(words) > 1 and words[1].isdecimal() else 0


def _line_of(screen: str, name: str) -> str:
    """The row of a table, or the fact, that begins with `name`; the first line is no such."""
    return next((line for line in screen.splitlines()[1:] if line.startswith(name)), "")
