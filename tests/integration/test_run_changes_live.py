"""Real nodes whose run is changed, paused, resumed and ended, through one of them."""

from __future__ import annotations

import json
import time
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from tiny_run import tiny_manifest, tiny_peers

from node import exit_codes
from node.cli import run_command_line
from node.testnet import LocalTestnet, Statuses
from swarm.config import SyncConfig
from swarm.errors import Code

LIMIT = timedelta(seconds=60)
SYNC = SyncConfig(experts_per_peer=1, step_counts="equal")

pytestmark = pytest.mark.heavy


def test_a_run_is_changed_paused_resumed_and_ended(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "RUN.toml"
    tiny_manifest(path, peers=2, sync=SYNC)
    with LocalTestnet(path, tiny_peers(tmp_path, 2), tmp_path / "nodes") as testnet:
        testnet.start(LIMIT)
        testnet.wait_until(lambda s: all(x and x.round >= 1 for x in s), "a round", LIMIT)
        first, second = (node.directory for node in testnet.nodes)

        def change(*words: str, directory: Path = first) -> dict[str, Any]:
            told = ["run", *words, "--dir", str(directory), "--json"]
            assert run_command_line(told) == exit_codes.OK, capsys.readouterr().err
            facts: dict[str, Any] = json.loads(capsys.readouterr().out)
            return facts

        change("set", str(path), "training.inner_steps=7", "training.learning_rate=1e-3")

        def changed(statuses: Statuses) -> bool:
            return all(s and s.change_number == 1 and s.steps_per_round == 7 for s in statuses)

        both = testnet.wait_until(changed, "the change at both", LIMIT)
        for status in both:
            assert status is not None
            assert list(status.changed) == [
                "training.inner_steps = 7", "training.learning_rate = 0.001",
            ]  # fmt: skip
        begins = {_line_with(node.log_path, "begins with change 1") for node in testnet.nodes}
        assert len(begins) == 1, "the same round for both"

        paused = change("pause", str(path), directory=second)
        assert paused["settings"]["training.inner_steps"] == 7
        before = testnet.wait_until(
            lambda s: all(x and "paused" in x.reason for x in s), "both to pause", LIMIT
        )
        tokens = [s.committed_tokens for s in before if s]
        testnet.wait_until(lambda s: all(x and x.round > _round(before) for x in s), "idle", LIMIT)
        assert [s.committed_tokens for s in testnet.statuses() if s] == tokens

        change("resume", str(path))
        testnet.wait_until(
            lambda s: all(x and x.committed_tokens > tokens[0] for x in s), "training", LIMIT
        )

        stranger = tmp_path / "other" / "RUN.toml"
        stranger.parent.mkdir()
        tiny_manifest(stranger, peers=2)
        words = ["run", "end", str(stranger), "--dir", str(first)]
        assert run_command_line(words) == exit_codes.CONFIG
        stranger.write_bytes(path.read_bytes())
        assert run_command_line(words) == exit_codes.CONFIG, "the key of another run"

        change("end", str(path))
        _wait_for_the_end_of(testnet)
        assert all("the run has ended" in node.log_path.read_text() for node in testnet.nodes)
        testnet.nodes[0].start([])
        _wait_for_the_end_of(testnet)
        assert testnet.nodes[0].failure().code is Code.RUN_ENDED


def _wait_for_the_end_of(testnet: LocalTestnet) -> None:
    deadline = time.monotonic() + LIMIT.total_seconds()
    while any(node.running for node in testnet.nodes):
        assert time.monotonic() < deadline
        time.sleep(0.1)


def _round(statuses: Statuses) -> int:
    return max(status.round for status in statuses if status is not None)


def _line_with(log: Path, words: str) -> str:
    (line,) = (line for line in log.read_text().splitlines() if words in line)
    return line.partition(" ")[2]
