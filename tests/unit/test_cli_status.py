"""`node status` and `node stop` against a control API that answers from a fixture."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path
from typing import Any

import grpc
import pytest

from node import exit_codes
from node.cli import run_command_line
from node.control_client import ControlClient
from node.dashboard.app import Watched
from node.paths import SOCKET_PATH_LIMIT, default_directory, find_directory, socket_path
from swarm.config import RunManifest
from swarm.errors import Code, SwarmError
from swarm.identity import Identity
from swarm.wire import node_pb2, node_pb2_grpc

STATUS = node_pb2.StatusReply(
    run_id="ab" * 32, run_name="law", peer_id="12D3KooWPeer", display_name="anna", domain="law",
    state="TRAINING", reason="step 3 of 30", since_ms=1_000, round=7, last_outcome="PARTIAL",
    tokens_per_second=1234.5, loss=2.5, step=3, steps_per_round=30, held_experts=[0, 5],
    bytes_sent=1_500_000, bytes_received=20, tokens_trained=9, committed_tokens=99,
    refused={"MESSAGE_UNSIGNED": 2}, pid=os.getpid(), addresses=["/ip4/127.0.0.1/tcp/1/p2p/X"],
    last_counted_round=6, data_report={"documents": 12, "skipped_not_utf8": 1},
    peers=[
        node_pb2.PeerStatus(
            peer_id="12D3KooWOther", display_name="bert", domain="maths", path="lan",
            held_experts=[1], tokens_per_second=10, in_roster=True, alive=False, round=6, steps=15,
        )
    ],
    experts=[
        node_pb2.ExpertStatus(
            expert=1, holders=["12D3KooWOther"], held_since=4, trained_tokens=512.4,
            served=["maths 90%", "law 10%"],
        ),
        node_pb2.ExpertStatus(expert=2, orphaned_rounds=3),
    ],
    contributions=[
        node_pb2.ContributionStatus(
            peer_id="12D3KooWOther", display_name="bert", tokens=300, rounds=3, last_round=7,
            served_bytes=1_500_000, relayed_bytes=20,
        ),
        node_pb2.ContributionStatus(peer_id="12D3KooWGone", tokens=100, rounds=1, last_round=1),
    ],
)  # fmt: skip


class FakeDaemon(node_pb2_grpc.NodeControlServicer):
    def __init__(self, process: subprocess.Popen[bytes] | None = None) -> None:
        self.process = process

    def Status(self, request: Any, context: Any) -> node_pb2.StatusReply:
        reply = node_pb2.StatusReply()
        reply.CopyFrom(STATUS)
        if self.process is not None:
            reply.pid = self.process.pid
        return reply

    def Stop(self, request: Any, context: Any) -> node_pb2.StopReply:
        assert self.process is not None
        self.process.kill()
        self.process.wait()
        return node_pb2.StopReply(stopping=True)

    def GetHistory(self, request: Any, context: Any) -> node_pb2.HistoryReply:
        rounds = [
            node_pb2.RoundSummary(round=n, outcome="FULL", seconds=1.5, contributors=["a", "b"])
            for n in range(1, 8)
        ]
        return node_pb2.HistoryReply(rounds=[r for r in rounds if r.round > request.after_round])

    def GetLog(self, request: Any, context: Any) -> node_pb2.LogReply:
        lines = [node_pb2.LogLine(number=n, at_ms=1000 * n, text=f"line {n}") for n in (1, 2)]
        return node_pb2.LogReply(lines=[line for line in lines if line.number > request.after])

    def ChangeRun(self, request: Any, context: Any) -> node_pb2.ChangeReply:
        return node_pb2.ChangeReply(code="SIGNATURE_INVALID", message="not signed")


@contextlib.contextmanager
def serving(directory: Path, daemon: FakeDaemon) -> Iterator[None]:
    server = grpc.server(ThreadPoolExecutor(2))
    node_pb2_grpc.add_NodeControlServicer_to_server(daemon, server)
    server.add_insecure_port(f"unix:{socket_path(directory)}")
    server.start()
    try:
        yield
    finally:
        server.stop(None).wait()


def test_status_tells_state_reason_and_since_when(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with serving(tmp_path, FakeDaemon()):
        assert run_command_line(["status", "--dir", str(tmp_path)]) == exit_codes.OK
    shown = capsys.readouterr().out
    lines = [line.split() for line in shown.splitlines()]
    assert ["1", "bert", "4", "512", "maths", "90%,", "law", "10%"] in lines
    assert ["2", "nobody", "for", "3", "rounds", "-", "0", "-"] in lines
    for part in (
        "TRAINING for ", ": step 3 of 30", "7 committed (partial), own update last counted in: 6",
        "1234 tokens/s, loss 2.500", "1.5 MB up, 20 B down", "skipped_not_utf8 1",
        "MESSAGE_UNSIGNED 2", "/ip4/127.0.0.1/tcp/1/p2p/X", "bert", "yes, silent",
    ):  # fmt: skip
        assert part in shown, part


def test_status_as_json_has_every_field_and_numbers_are_numbers(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with serving(tmp_path, FakeDaemon()):
        run_command_line(["status", "--json", "--dir", str(tmp_path), "--rounds", "2"])
    fields = json.loads(capsys.readouterr().out)
    expected = {f.name for f in node_pb2.StatusReply.DESCRIPTOR.fields}
    assert set(fields) == expected | {"rounds"}
    assert fields["since_ms"] == 1000
    assert fields["held_experts"] == [0, 5]
    assert fields["data_report"] == {"documents": 12, "skipped_not_utf8": 1}
    assert fields["peers"][0]["alive"] is False
    assert [r["round"] for r in fields["rounds"]] == [6, 7]


def test_the_dashboard_prints_a_page_once_without_a_terminal(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["dashboard", "--dir", str(tmp_path)]
    assert run_command_line(words) == exit_codes.NOT_RUNNING
    capsys.readouterr()
    with serving(tmp_path, FakeDaemon()):
        assert run_command_line([*words, "--page", "log"]) == exit_codes.OK
    shown = capsys.readouterr().out
    assert "anna in law  TRAINING for" in shown and "line 2" in shown and "\x1b" not in shown


def test_the_dashboard_tells_a_node_that_is_gone_and_finds_it_again(tmp_path: Path) -> None:
    with serving(tmp_path, FakeDaemon()):
        node = Watched(tmp_path, 0.0, None)
    with node:
        node.refresh()
        assert node.snapshot.silent_since_ms > 0
        assert node.snapshot.status == STATUS and len(node.snapshot.rounds) == 7
        with serving(tmp_path, FakeDaemon()):
            node.refresh()
        assert node.snapshot.silent_since_ms == 0
        assert [line.number for line in node.snapshot.log] == [1, 2]


def test_a_change_that_a_node_refuses_is_an_error_with_its_reason(tmp_path: Path) -> None:
    with serving(tmp_path, FakeDaemon()), ControlClient(tmp_path) as control:
        with pytest.raises(SwarmError) as caught:
            control.change_run(b"")
    assert (caught.value.code, caught.value.message) == (Code.SIGNATURE_INVALID, "not signed")


def test_contributions_are_told_as_a_table_and_as_json(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with serving(tmp_path, FakeDaemon()):
        assert run_command_line(["contributions", "--dir", str(tmp_path)]) == exit_codes.OK
        rows = [line.split() for line in capsys.readouterr().out.splitlines()]
        assert ["bert", "300", "75%", "3", "7", "1.5", "MB", "20", "B"] in rows
        run_command_line(["contributions", "--json", "--dir", str(tmp_path)])
    facts = json.loads(capsys.readouterr().out)
    assert [row["tokens"] for row in facts["contributions"]] == [300, 100]


def test_stop_waits_until_the_process_is_gone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    with serving(tmp_path, FakeDaemon(process)):
        assert run_command_line(["stop", "--json", "--dir", str(tmp_path)]) == exit_codes.OK
    assert json.loads(capsys.readouterr().out) == {"stopped": True, "pid": process.pid}
    assert process.poll() is not None


def test_a_stale_socket_file_is_a_node_that_does_not_run(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as left_over:
        left_over.bind(str(socket_path(tmp_path)))
    with ControlClient(tmp_path) as control, pytest.raises(SwarmError) as caught:
        control.status()
    assert caught.value.code is Code.NODE_NOT_RUNNING


def test_a_node_that_does_not_answer_is_told_from_one_that_is_not_there(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as silent:
        silent.bind(str(socket_path(tmp_path)))
        silent.listen()
        client = ControlClient(tmp_path, timeout=timedelta(seconds=0.3))
        with client as control, pytest.raises(SwarmError) as caught:
            control.status()
    assert caught.value.code is Code.STAGE_TIMEOUT
    assert "did not answer" in caught.value.message


@pytest.mark.parametrize(
    "words",
    [["run", "ticket", "RUN"], ["run", "pause", "RUN"], ["assemble", "--out", "m", "--run", "RUN"]],
)
def test_a_node_of_another_run_is_not_taken_for_one_of_this_run(
    words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "RUN.toml"
    path.write_text(RunManifest().to_toml())
    Identity.generate().save(path.with_suffix(".key"))
    words = [str(path) if word == "RUN" else word for word in words]
    with serving(tmp_path, FakeDaemon()):
        assert run_command_line([*words, "--dir", str(tmp_path)]) == exit_codes.CONFIG
    error = capsys.readouterr().err
    assert error.startswith("error RUN_MISMATCH: ") and STATUS.run_id[:16] in error


def test_the_only_running_node_is_found_and_several_must_be_told_apart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    with pytest.raises(SwarmError) as nothing:
        find_directory(None)
    assert nothing.value.code is Code.NODE_NOT_RUNNING
    first = default_directory("law")
    assert first == tmp_path / "expertswarm" / "law"
    for directory in (first, default_directory("a/../b c")):
        directory.mkdir(parents=True)
        assert directory.parent == first.parent
    (first / "node.sock").touch()
    assert find_directory(None) == first
    (first.parent / "a-..-b-c" / "node.sock").touch()
    with pytest.raises(SwarmError) as several:
        find_directory(None)
    assert several.value.code is Code.USAGE
    assert str(first) in several.value.hint
    assert find_directory(tmp_path) == tmp_path


def test_a_node_that_was_killed_is_not_taken_for_one_that_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    killed, running = default_directory("a"), default_directory("b")
    for directory in (killed, running):
        directory.mkdir(parents=True)
    with socket.socket(socket.AF_UNIX) as left_over, socket.socket(socket.AF_UNIX) as served:
        left_over.bind(str(socket_path(killed)))
        served.bind(str(socket_path(running)))
        served.listen()
        assert find_directory(None) == running


def test_a_directory_too_long_for_a_socket_is_refused_with_a_hint(tmp_path: Path) -> None:
    with pytest.raises(SwarmError) as caught:
        socket_path(tmp_path / ("x" * SOCKET_PATH_LIMIT))
    assert caught.value.code is Code.CONFIG_INVALID
    assert "--dir" in caught.value.hint
