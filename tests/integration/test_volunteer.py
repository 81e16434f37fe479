"""What a volunteer may ask of his node, in a swarm of real processes: each acts within 2 s."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta

import psutil
import pytest
from tiny_run import tiny_manifest, tiny_peers

from node.control_client import ControlClient
from node.testnet import LocalTestnet
from swarm.wire.node_pb2 import StatusReply

ACT_S = 2.0
LIMIT = timedelta(seconds=60)
POLL_S = 0.05
VOLUNTEER = 2


@pytest.fixture
def no_process_is_left_behind() -> None:
    """The nodes serve all tests of this file; `LocalTestnet` ends them."""


@pytest.fixture(scope="module")
def swarm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalTestnet]:
    """Three nodes that have averaged once; the last one is the volunteer's."""
    root = tmp_path_factory.mktemp("swarm")
    tiny_manifest(root / "RUN.toml", peers=3, inner_steps=30)
    with LocalTestnet(root / "RUN.toml", tiny_peers(root, 3), root / "nodes") as testnet:
        testnet.start()
        testnet.wait_until(lambda all: all_counted(all, 1), "a round of all", LIMIT)
        yield testnet


def all_counted(statuses: list[StatusReply | None], round_index: int) -> bool:
    return all(s is not None and s.last_counted_round >= round_index for s in statuses)


def node(testnet: LocalTestnet, *words: str) -> dict[str, object]:
    """What a command says of the volunteer's node, as JSON."""
    command = [sys.executable, "-m", "node", *words, "--json"]
    directory = str(testnet.nodes[VOLUNTEER].directory)
    done = subprocess.run(
        [*command, "--dir", directory], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    reply: dict[str, object] = json.loads(done.stdout)
    return reply


def control(testnet: LocalTestnet) -> ControlClient:
    return ControlClient(testnet.nodes[VOLUNTEER].directory)


def seconds_until(condition: Callable[[], bool], what: str, limit_s: float = 20.0) -> float:
    started = time.monotonic()
    while not condition():
        assert time.monotonic() < started + limit_s, what
        time.sleep(POLL_S)
    return time.monotonic() - started


def trains(testnet: LocalTestnet) -> None:
    """Wait until an update of the volunteer counts again."""
    first = testnet.nodes[0].status()
    assert first is not None
    testnet.wait_until(
        lambda all: all[VOLUNTEER] is not None and all[VOLUNTEER].last_counted_round > first.round,
        "an update of the volunteer",
        LIMIT,
    )


def is_paused(daemon: ControlClient, reason: str) -> bool:
    status = daemon.status()
    return status.state == "PAUSED" and reason in status.reason and not status.worker_pid


def test_a_pause_frees_the_memory_and_the_others_go_on_within_a_round(
    swarm: LocalTestnet,
) -> None:
    with control(swarm) as daemon:
        before = daemon.status()
        worker = psutil.Process(before.worker_pid)
        assert worker.memory_info().rss > 50e6
        daemon.pause()
        assert seconds_until(lambda: is_paused(daemon, "you asked"), "it paused") < ACT_S
        assert not worker.is_running()
        paused_round = daemon.status().round

        def two_rounds_on(statuses: list[StatusReply | None]) -> bool:
            return all(s is not None and s.round >= paused_round + 3 for s in statuses[:VOLUNTEER])

        swarm.wait_until(two_rounds_on, "three rounds of the others", LIMIT)
        history = swarm.nodes[0].history(paused_round)
        late = [r for r in history if r.round >= paused_round + 2]
        assert all(before.peer_id not in r.contributors for r in late)
        assert max(r.seconds for r in late) < 10
        assert daemon.status().state == "PAUSED"
        daemon.resume()
        assert seconds_until(lambda: daemon.status().state != "PAUSED", "it went on") < ACT_S
    trains(swarm)


def test_a_pause_of_some_seconds_ends_by_itself(swarm: LocalTestnet) -> None:
    said = node(swarm, "pause", "3s")
    assert "until" in str(said["reason"])
    with control(swarm) as daemon:
        took_s = seconds_until(lambda: daemon.status().state != "PAUSED", "the end of the pause")
    assert took_s < 3 + ACT_S
    trains(swarm)


def test_out_of_hours_a_node_pauses(swarm: LocalTestnet) -> None:
    now = datetime.now()
    begin, end = now + timedelta(hours=2), now + timedelta(hours=3)
    hours = f"{begin:%H:%M}-{end:%H:%M}"
    with control(swarm) as daemon:
        reply = daemon.limit({"hours": hours})
        assert reply.limits["hours"] == hours and not reply.verdict.may_train
        took_s = seconds_until(lambda: is_paused(daemon, "out of hours until"), "it paused")
        assert took_s < ACT_S
        assert daemon.limit({"hours": "off"}).verdict.may_train
    trains(swarm)


def test_a_node_that_finishes_hands_its_last_round_in(swarm: LocalTestnet) -> None:
    with control(swarm) as daemon:
        seconds_until(lambda: daemon.status().state == "TRAINING", "training")
        me = daemon.status().peer_id
    assert node(swarm, "finish")["finished"] is True
    log = swarm.nodes[VOLUNTEER].log_path.read_text()
    last = int(log.rpartition(" is the last one before it stops")[0].rpartition("round ")[2])
    rounds = {r.round: r for r in swarm.nodes[0].history(last - 1)}
    assert me in rounds[last].contributors
    assert log.rstrip().endswith("STOPPED:")
