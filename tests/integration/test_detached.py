"""A node in the background, begun with nothing but a ticket on a machine that knows nothing."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from tiny_run import tiny_manifest, tiny_peers

from node import exit_codes
from node.control_client import ControlClient
from node.processes import is_alive

LIMIT_S = 60.0


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the nodes of this test keep their files."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    return tmp_path / "state" / "expertswarm"


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}


def node(place: Path, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "node", *words],
        cwd=place, capture_output=True, text=True, timeout=LIMIT_S,
        env=environment(),
    )  # fmt: skip


def followed_log(place: Path, until: str) -> str:
    """What `node logs -f` prints up to a line with these words."""
    with subprocess.Popen(
        [sys.executable, "-m", "node", "logs", "-f"],
        cwd=place, env=environment(), stdout=subprocess.PIPE, text=True,
    ) as process:  # fmt: skip
        assert process.stdout is not None
        shown = ""
        while until not in shown and (line := process.stdout.readline()):
            shown += line
        process.terminate()
    return shown


def test_a_ticket_alone_starts_a_node_that_outlives_its_terminal(
    tmp_path: Path, home: Path
) -> None:
    tiny_manifest(tmp_path / "RUN.toml", peers=1)
    tiny_peers(tmp_path, 1)
    made = node(tmp_path, "run", "ticket", "RUN.toml", "--data", "demo:maths")
    assert made.returncode == 0 and "no address is in it" in made.stderr
    started = node(
        tmp_path, "start", "--join", made.stdout.strip(), "--data", "text-0", "--domain", "law",
        "--listen", "127.0.0.1:0", "--detach", "--json",
    )  # fmt: skip
    assert started.returncode == 0, started.stderr
    facts = json.loads(started.stdout)
    try:
        assert Path(facts["directory"]) == home / "tiny"
        assert os.getsid(facts["pid"]) == facts["pid"]
        assert os.readlink(f"/proc/{facts['pid']}/cwd") == str(home / "tiny")
        with ControlClient(home / "tiny") as control:
            deadline_s = time.monotonic() + LIMIT_S
            while (status := control.status()).round < 2:
                assert time.monotonic() < deadline_s
                time.sleep(0.05)
        assert status.domain == "law" and len(status.display_name.split("-")) == 3
        assert "round 1 full" in node(tmp_path, "logs").stdout
        assert "round 3 full" in followed_log(tmp_path, until="round 3 full")
        assert Path(facts["log"]).stat().st_mode & 0o077 == 0
        second = node(tmp_path, "start", "--dir", str(home / "tiny"), "--detach")
        assert second.returncode == exit_codes.WORKER
        assert "NODE_ALREADY_RUNNING" in second.stderr
    finally:
        stopped = node(tmp_path, "stop")
    assert stopped.returncode == 0, stopped.stderr
    assert not is_alive(facts["pid"])


def test_a_start_in_the_background_that_fails_says_why_in_the_foreground(
    tmp_path: Path, home: Path
) -> None:
    tiny_manifest(tmp_path / "RUN.toml", peers=1)
    failed = node(
        tmp_path, "start", "--run", "RUN.toml", "--data", "nowhere", "--listen", "127.0.0.1:0",
        "--detach",
    )  # fmt: skip
    assert failed.returncode == exit_codes.DATA
    assert failed.stderr.startswith("error DATA_MISSING: ")
    assert not (home / "tiny" / "node.sock").exists()
