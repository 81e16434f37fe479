"""`node testnet --chaos` with real nodes: what it reports, and that nothing is left behind."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from peer_process import processes_of_this_session

from node import exit_codes

pytestmark = [pytest.mark.heavy, pytest.mark.timeout(240)]

SPEC = "kill-every=10s,join-every=12s,partition=25s,seed=1"


def make_testnet(tmp_path: Path, *more: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "node", "testnet", "--peers", "4", "--chaos", SPEC, *more]
    for index in range(4):
        directory = tmp_path / f"text-{index}"
        directory.mkdir()
        for number in range(20):
            text = f"{number} peer {index} said that the fragment was not yet there.\n" * 20
            (directory / f"{number}.txt").write_text(text, encoding="utf-8")
        command += ["--data", str(directory)]
    return subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "TMPDIR": str(tmp_path)},
    )


def test_a_testnet_under_chaos_commits_rounds_with_equal_hashes(tmp_path: Path) -> None:
    testnet = make_testnet(tmp_path, "--seconds", "100", "--json")
    output, _ = testnet.communicate(timeout=200)
    assert testnet.returncode == exit_codes.OK
    told = json.loads(output)
    assert told["chaos"]["killed"] >= 2 and told["chaos"]["joined"] >= 2
    assert told["chaos"]["frozen"] >= 1
    assert len(told["rounds"]) >= 2
    assert not processes_of_this_session()


def test_ctrl_c_ends_a_testnet_whose_nodes_are_stopped(tmp_path: Path) -> None:
    testnet = make_testnet(tmp_path, "--plain")
    assert testnet.stdout is not None
    try:
        deadline = time.monotonic() + 150
        for line in testnet.stdout:
            assert time.monotonic() < deadline
            if "cut off (stopped)" in line:
                break
        testnet.send_signal(signal.SIGINT)
        assert testnet.wait(60) == exit_codes.INTERRUPTED
    finally:
        testnet.kill()
        testnet.wait()
        testnet.stdout.close()
    assert not processes_of_this_session()
    assert list(tmp_path.glob("testnet-*")) == []
