"""`node run validate`, and what the verbs that change a run refuse before they ask a node."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from node import exit_codes
from node.cli import run_command_line
from swarm.config import RunManifest


@pytest.fixture
def run_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Path:
    path = tmp_path / "RUN.toml"
    assert run_command_line(["run", "init", str(path), "--experts", "2"]) == exit_codes.OK
    capsys.readouterr()
    return path


def test_a_manifest_that_is_in_order_is_said_to_be(
    run_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_command_line(["run", "validate", str(run_file), "--json"]) == exit_codes.OK
    facts = json.loads(capsys.readouterr().out)
    assert facts["run_id"] == RunManifest.load(run_file).run_id.hex()
    assert facts["fragments"] == 4 and facts["parameters"] > 0 and facts["key"]
    run_file.with_suffix(".key").unlink()
    assert run_command_line(["run", "validate", str(run_file)]) == exit_codes.OK
    assert "its key is not here" in capsys.readouterr().out


def test_a_manifest_with_other_weights_or_another_key_is_refused(
    run_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = tmp_path / "OTHER.toml"
    assert run_command_line(["run", "init", str(other), "--experts", "2"]) == exit_codes.OK
    shutil.copy(other.with_suffix(".key"), run_file.with_suffix(".key"))
    assert run_command_line(["run", "validate", str(run_file)]) == exit_codes.CONFIG
    assert "is not the key of" in capsys.readouterr().err
    text = other.read_text().replace("seed = 0", "seed = 1")
    other.write_text(text)
    assert run_command_line(["run", "validate", str(other)]) == exit_codes.CONFIG
    assert "genesis.state_root" in capsys.readouterr().err


def test_only_with_the_key_of_a_run_can_it_be_changed(
    run_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run_file.with_suffix(".key").unlink()
    assert run_command_line(["run", "pause", str(run_file)]) == exit_codes.CONFIG
    assert "RUN.key is not there" in capsys.readouterr().err


@pytest.mark.parametrize("words", [["revoke", "RUN", "12D3KooW"], ["ticket", "RUN", "--only", "x"]])
def test_nobody_can_be_kept_out_of_an_open_run(
    words: list[str], run_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["run", *(str(run_file) if word == "RUN" else word for word in words)]
    assert run_command_line(words) == exit_codes.CONFIG
    assert "the run is open" in capsys.readouterr().err


def test_a_node_must_be_there_to_be_told(run_file: Path, tmp_path: Path) -> None:
    words = ["run", "end", str(run_file), "--dir", str(tmp_path)]
    assert run_command_line(words) == exit_codes.NOT_RUNNING
