"""Real nodes on loopback: they train, tell the truth, survive a kill, and leave nothing behind."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest
from tiny_run import tiny_manifest, tiny_peers

from node import exit_codes
from node.cli import run_command_line
from node.recorder import Recorder
from node.testnet import LocalTestnet, Statuses

LIMIT = timedelta(seconds=120)


def all_reached(round_number: int) -> Callable[[Statuses], bool]:
    return lambda statuses: all(s is not None and s.round >= round_number for s in statuses)


def observe(testnet: LocalTestnet, recorder: Recorder) -> None:
    statuses = testnet.statuses()
    histories = [node.history(recorder.next_round(i)) for i, node in enumerate(testnet.nodes)]
    recorder.observe(time.monotonic(), statuses, histories)


def test_four_nodes_train_with_equal_hashes_and_one_that_is_killed_comes_back(
    tmp_path: Path,
) -> None:
    tiny_manifest(tmp_path / "RUN.toml", peers=4)
    plans = tiny_peers(tmp_path, 4)
    recorder = Recorder([(plan.name, plan.domain) for plan in plans])
    with LocalTestnet(tmp_path / "RUN.toml", plans, tmp_path / "nodes") as testnet:

        def look() -> None:
            observe(testnet, recorder)

        testnet.start(LIMIT)
        testnet.wait_until(all_reached(2), "two rounds of all", LIMIT, on_poll=look)
        testnet.kill(2)
        # The open round may still have the killed node's slices; the one after it can not.
        open_round = 1 + max(s.round for s in testnet.statuses() if s is not None)
        testnet.wait_until(
            lambda s: s[0] is not None and s[0].round > open_round, "survivors", LIMIT, look
        )
        testnet.restart(2)
        restarted_ms = int(time.time() * 1000)

        def voted_again(statuses: Statuses) -> bool:
            return any(
                "p2" in r.voters and r.committed_at_ms > restarted_ms for r in recorder.rounds()
            )

        testnet.wait_until(voted_again, "the vote of the killed node", LIMIT, on_poll=look)
        known = max(r.round for r in recorder.rounds())
        testnet.wait_until(all_reached(known + 1), "one more round", LIMIT, on_poll=look)
        look()
        pids = [s.pid for s in testnet.statuses() if s] + [
            s.worker_pid for s in testnet.statuses() if s
        ]
    rounds = recorder.rounds()
    assert [r.round for r in rounds if not r.hashes_equal] == []
    assert sum(r.compared == 4 for r in rounds) >= 3
    assert any("p2" not in r.contributors for r in rounds)
    assert not any(_is_alive(pid) for pid in pids)
    assert list((tmp_path / "nodes").glob("*/node.sock")) == []


def test_status_assemble_eval_generate_and_stop_work_on_a_running_swarm(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    manifest = tiny_manifest(tmp_path / "RUN.toml", peers=2)
    with LocalTestnet(
        tmp_path / "RUN.toml", tiny_peers(tmp_path, 2), tmp_path / "nodes"
    ) as testnet:
        testnet.start(LIMIT)
        testnet.wait_until(all_reached(1), "a round", LIMIT)
        directory = testnet.nodes[0].directory
        status = _json_of(capsys, "status", "--dir", str(directory))
        assert status["run_id"] == manifest.run_id.hex()
        assert status["state"] in ("TRAINING", "AVERAGING", "SYNCING")
        assert status["held_experts"] != []
        assert status["data_report"]["documents"] == 40
        assert {peer["display_name"] for peer in status["peers"]} == {"p0", "p1"}
        assert all(peer["alive"] and peer["in_roster"] for peer in status["peers"])

        out = str(tmp_path / "model")
        facts = _json_of(
            capsys, "assemble", "--run", str(tmp_path / "RUN.toml"), "--out", out,
            "--dir", str(directory),
        )  # fmt: skip
        assert facts["run_id"] == manifest.run_id.hex()
        assert facts["provenance"]["round"] >= 1
        assert _json_of(capsys, "stop", "--dir", str(testnet.nodes[1].directory))["stopped"]
        assert not testnet.nodes[1].running
        code = run_command_line(["status", "--dir", str(testnet.nodes[1].directory)])
        assert code == exit_codes.NOT_RUNNING
    capsys.readouterr()
    scores = _json_of(capsys, "eval", out, "--data", f"own={tmp_path / 'text-0'}")
    assert 0 < scores["domains"]["own"]["bits_per_byte"] < 8.2
    assert sum(scores["domains"]["own"]["routing"]) == pytest.approx(1.0)
    first = _json_of(capsys, "generate", out, "--prompt", "a", "--tokens", "5", "--seed", "1")
    again = _json_of(capsys, "generate", out, "--prompt", "a", "--tokens", "5", "--seed", "1")
    assert first["text"] == again["text"]


def test_a_testnet_whose_starter_is_killed_stops_by_itself(tmp_path: Path) -> None:
    tiny_manifest(tmp_path / "RUN.toml", peers=2)
    plans = tiny_peers(tmp_path, 2)
    command = [sys.executable, "-m", "node", "testnet", "--plain", "--peers", "2"]
    command += ["--run", str(tmp_path / "RUN.toml"), "--dir", str(tmp_path / "nodes")]
    for plan in plans:
        command += ["--data", plan.data]
    starter = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    try:
        sockets = [tmp_path / "nodes" / f"peer-{n}" / "node.sock" for n in (1, 2)]
        _wait(lambda: all(socket.exists() for socket in sockets), "the nodes")
    finally:
        starter.kill()
        starter.wait()
    _wait(lambda: not any(socket.exists() for socket in sockets), "their end")


def test_ctrl_c_ends_a_testnet_with_all_its_nodes(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "node", "testnet", "--plain", "--peers", "2"]
    for plan in tiny_peers(tmp_path, 2):
        command += ["--data", plan.data]
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    starter = subprocess.Popen(command, stdout=subprocess.DEVNULL, env=environment)
    try:
        _wait(lambda: any(tmp_path.glob("testnet-*/*/node.sock")), "a node")
        starter.send_signal(signal.SIGINT)
        assert starter.wait(60) == exit_codes.INTERRUPTED
    finally:
        starter.kill()
        starter.wait()
    assert list(tmp_path.glob("testnet-*")) == []


def _json_of(capsys: pytest.CaptureFixture[str], *words: str) -> dict:
    assert run_command_line([*words, "--json"]) == exit_codes.OK
    return json.loads(capsys.readouterr().out)


def _wait(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + LIMIT.total_seconds()
    while not condition():
        assert time.monotonic() < deadline, f"waited in vain for {what}"
        time.sleep(0.1)


def _is_alive(pid: int) -> bool:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, 0)
        return True
    return False
