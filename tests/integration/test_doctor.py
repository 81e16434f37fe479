"""`node doctor` as a user runs it: before the first start, and beside a running node."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from running_node import LIMIT_S, RunningNode
from tiny_run import tiny_manifest

from node import exit_codes
from node.testnet import free_port


def doctor(*words: str) -> tuple[int, dict[str, tuple[str, str]]]:
    """Exit code, and level and message of each line."""
    done = subprocess.run(
        [sys.executable, "-m", "node", "doctor", *words, "--json"],
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
        check=False,
    )
    lines = json.loads(done.stdout)["lines"]
    return done.returncode, {line["name"]: (line["level"], line["message"]) for line in lines}


@pytest.fixture
def relay(tmp_path: Path) -> Iterator[tuple[Path, str]]:
    """A relay node: its directory and its address."""
    tiny_manifest(tmp_path / "RUN.toml", peers=2)
    directory = tmp_path / "relay"
    words = ["relay", "--run", str(tmp_path / "RUN.toml"), "--listen", "127.0.0.1:0"]
    node = RunningNode(directory, tmp_path / "output.txt", words)
    try:
        yield directory, node.address()
        node.terminate()
    finally:
        node.kill()


def test_before_the_first_start_it_visits_the_run(tmp_path: Path, relay: tuple[Path, str]) -> None:
    _, address = relay
    words = ["--run", str(tmp_path / "RUN.toml"), "--dir", str(tmp_path / "new")]
    code, lines = doctor(*words, "--peer", address)
    assert code == exit_codes.OK
    assert lines["peers"] == ("ok", "1 of 1 answer")
    assert lines["clock"][0] == "ok"
    assert "Mbit/s" in lines["upload"][1] and "Mbit/s" in lines["download"][1]
    assert not (tmp_path / "new").exists()  # it looks, and leaves nothing


def test_a_port_that_is_taken_and_a_peer_that_is_not_there_are_failures(
    tmp_path: Path, relay: tuple[Path, str]
) -> None:
    _, address = relay
    run = str(tmp_path / "RUN.toml")
    taken = address.split("/tcp/")[1].split("/")[0]
    code, lines = doctor("--run", run, "--dir", str(tmp_path), "--listen", f"127.0.0.1:{taken}")
    assert code == exit_codes.FAILED
    assert lines["port"][0] == "failure" and taken in lines["port"][1]

    gone = address.replace(f"/tcp/{taken}/", f"/tcp/{free_port()}/")
    code, lines = doctor("--run", run, "--dir", str(tmp_path), "--peer", gone)
    assert code == exit_codes.FAILED
    assert lines["peers"][0] == "failure" and "refused" in lines["peers"][1]


def test_beside_a_running_node_it_asks_that_node(relay: tuple[Path, str]) -> None:
    directory, address = relay
    code, lines = doctor("--dir", str(directory))
    assert code == exit_codes.OK
    port = address.split("/tcp/")[1].split("/")[0]
    assert lines["port"] == ("ok", f"the node listens on TCP port {port}")
    assert lines["peers"] == ("ok", "no other peer is known")
