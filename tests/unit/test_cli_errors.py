"""What a user sees when something is wrong: one line, a hint, a documented exit code."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from node import exit_codes
from node.cli import run_command_line
from node.commands import run as run_command
from node.commands import status as status_command
from swarm.errors import Code, SwarmError


def outcome(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    code = run_command_line(words)
    captured = capsys.readouterr()
    return code, captured.out, captured.err


@pytest.mark.parametrize(
    ("words", "shown"),
    [
        (["statsu"], "did you mean status?"),
        (["frobnicate"], "known: run, start"),
        ([], "required: COMMAND"),
        (["start"], "which run?"),
        (["start", "--listen", "nowhere"], "is not HOST:PORT"),
        (["testnet", "--peers", "0"], "0 is not above zero"),
        (["expert", "train", "--cut-loss", "2"], "2 is not between 0 and 1"),
        (["expert", "train", "--learning-rate", "nan"], "nan is not a number above zero"),
        (["demo", "--second", "3"], "unrecognized arguments"),
        (["assemble", "--run", "R", "--out", "m", "--expert", "e"], "--expert goes with --base"),
        (["assemble", "--run", "R", "--out", "m", "--margin", "0"], "--margin goes with --base"),
        (["assemble", "--base", "b", "--out", "m", "--peer", "p"], "--peer goes with --run"),
    ],
)
def test_wrong_arguments_are_a_usage_error(
    words: list[str], shown: str, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, err = outcome(capsys, *words)
    assert code == exit_codes.USAGE
    assert out == ""
    assert err.startswith("error USAGE: ")
    assert shown in err
    assert len(err.splitlines()) == 2


def test_a_typed_error_is_one_line_and_its_hint(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    missing = tmp_path / "RUN.toml"
    code, out, err = outcome(capsys, "start", "--run", str(missing), "--data", "x", "--domain", "y")
    assert code == exit_codes.CONFIG
    assert out == ""
    assert err.splitlines()[0].startswith(f"error CONFIG_UNREADABLE: {missing}: ")
    assert err.splitlines()[1] == "  make one with: node run init RUN.toml"


def test_with_json_the_error_is_json_on_standard_output(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    code, out, err = outcome(capsys, "status", "--json", "--dir", str(tmp_path))
    assert code == exit_codes.NOT_RUNNING
    error = json.loads(out)["error"]
    assert error["code"] == "NODE_NOT_RUNNING"
    assert str(tmp_path) in error["message"]
    assert "node start" in error["hint"]
    assert err.startswith("error NODE_NOT_RUNNING: ")


def test_a_bug_is_reported_in_one_line_without_a_traceback(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(given: object) -> Path:
        raise ZeroDivisionError("over\nzero")

    monkeypatch.setattr(status_command, "find_directory", broken)
    code, _, err = outcome(capsys, "status")
    assert code == exit_codes.INTERNAL
    assert err.splitlines()[0] == "error INTERNAL: ZeroDivisionError: over zero"
    assert "Traceback" not in err


def test_with_the_variable_set_a_bug_shows_its_traceback(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(given: object) -> Path:
        raise ZeroDivisionError

    monkeypatch.setattr(status_command, "find_directory", broken)
    monkeypatch.setenv("EXPERTSWARM_TRACEBACK", "1")
    _, _, err = outcome(capsys, "status")
    assert "Traceback" in err


@pytest.mark.parametrize(
    ("number", "expected"),
    [(signal.SIGINT, exit_codes.INTERRUPTED), (signal.SIGTERM, exit_codes.TERMINATED)],
)
def test_a_signal_ends_a_command_with_its_code(
    number: signal.Signals,
    expected: int,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(
        status_command, "find_directory", lambda given: os.kill(os.getpid(), number)
    )
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = [signal.getsignal(n) for n in numbers]
    try:
        code, _, err = outcome(capsys, "status")
    finally:
        for n, handler in zip(numbers, before, strict=True):
            signal.signal(n, handler)
    assert code == expected
    assert "Traceback" not in err


def test_init_refuses_to_overwrite_either_file_without_force(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    manifest, key = tmp_path / "RUN.toml", tmp_path / "RUN.key"
    key.write_text("precious")
    code, _, err = outcome(capsys, "run", "init", str(manifest))
    assert code == exit_codes.USAGE
    assert "--force" in err
    assert not manifest.exists()
    assert key.read_text() == "precious"
    assert outcome(capsys, "run", "init", str(manifest), "--force")[0] == exit_codes.OK
    first = manifest.read_text()
    assert outcome(capsys, "run", "init", str(manifest))[0] == exit_codes.USAGE
    assert manifest.read_text() == first


def test_init_with_impossible_numbers_writes_nothing(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    words = ("run", "init", str(tmp_path / "RUN.toml"), "--experts", "2")
    code, _, err = outcome(capsys, *words, "--experts-per-peer", "3")
    assert code == exit_codes.CONFIG
    assert "sync.experts_per_peer" in err
    assert list(tmp_path.iterdir()) == []


def test_init_into_a_missing_or_locked_place_is_a_storage_error(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(manifest: object, path: Path, model: object, *, closed: bool) -> None:
        raise SwarmError(Code.DISK_FULL, f"{path}: full")

    monkeypatch.setattr(run_command, "found_run", refuse)
    code, _, err = outcome(capsys, "run", "init", str(tmp_path / "RUN.toml"))
    assert code == exit_codes.STORAGE
    assert "DISK_FULL" in err


def test_the_console_script_exits_with_the_code(tmp_path: Path) -> None:
    ended = subprocess.run(
        [sys.executable, "-m", "node", "status", "--dir", str(tmp_path)],
        capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert ended.returncode == exit_codes.NOT_RUNNING
    assert ended.stdout == ""
    assert ended.stderr.startswith("error NODE_NOT_RUNNING: ")


def test_help_needs_no_heavy_library() -> None:
    script = (
        "import sys\nfrom node.cli import build_parser\nbuild_parser()\n"
        "heavy = {'torch', 'swarm.network.p2p', 'transformers', 'rich', 'numpy'}\n"
        "heavy &= set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", script], check=True, timeout=60)
