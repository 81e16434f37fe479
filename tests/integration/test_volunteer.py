"""What a volunteer may ask of his node, in a swarm of real processes: each acts within 2 s."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime, timedelta
from pathlib import Path

import psutil
import pytest
from tiny_run import tiny_manifest, tiny_peers
from volunteer_node import FILE_NAME

from node.control_client import ControlClient
from node.testnet import LocalTestnet
from swarm.wire.node_pb2 import StatusReply

ACT_S = 2.0
LIMIT = timedelta(seconds=60)
POLL_S = 0.05
PROGRAM = Path(__file__).with_name("volunteer_node.py")


@pytest.fixture
def no_process_is_left_behind() -> None:
    """The nodes serve all tests of this file; `LocalTestnet` ends them."""


class Volunteer:
    """The last of three nodes, on a machine whose conditions the test decides."""

    def __init__(self, testnet: LocalTestnet) -> None:
        self.testnet = testnet
        self.process = testnet.nodes[-1]
        self.directory = self.process.directory
        self.control = ControlClient(self.directory)

    def command(self, *words: str) -> dict[str, object]:
        """What a command says of this node, as JSON."""
        command = [sys.executable, "-m", "node", *words, "--json", "--dir", str(self.directory)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stderr
        reply: dict[str, object] = json.loads(done.stdout)
        return reply

    def conditions(self, **values: object) -> None:
        path = self.directory / FILE_NAME
        path.with_suffix(".new").write_text(json.dumps(values))
        path.with_suffix(".new").rename(path)

    def is_paused(self, reason: str) -> bool:
        status = self.control.status()
        return status.state == "PAUSED" and reason in status.reason and not status.worker_pid

    def pauses_in_time(self, reason: str) -> None:
        assert seconds_until(lambda: self.is_paused(reason), f"a pause: {reason}") < ACT_S

    def goes_on_in_time(self) -> None:
        took_s = seconds_until(lambda: self.control.status().state != "PAUSED", "it goes on")
        assert took_s < ACT_S

    def counts_again(self) -> None:
        """Wait until an update of this node is in a commit."""
        now = self.testnet.nodes[0].status()
        assert now is not None

        def counted(statuses: Sequence[StatusReply | None]) -> bool:
            mine = statuses[-1]
            return mine is not None and mine.last_counted_round > now.round

        self.testnet.wait_until(counted, "an update of the volunteer", LIMIT)


def seconds_until(condition: Callable[[], bool], what: str, limit_s: float = 20.0) -> float:
    started = time.monotonic()
    while not condition():
        assert time.monotonic() < started + limit_s, what
        time.sleep(POLL_S)
    return time.monotonic() - started


@pytest.fixture(scope="module")
def volunteer(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Volunteer]:
    root = tmp_path_factory.mktemp("swarm")
    tiny_manifest(root / "RUN.toml", peers=3, inner_steps=30)
    with LocalTestnet(root / "RUN.toml", tiny_peers(root, 3), root / "nodes") as testnet:
        testnet.nodes[-1].program = (str(PROGRAM),)
        testnet.start()
        volunteer = Volunteer(testnet)
        volunteer.counts_again()
        yield volunteer
        volunteer.control.close()


def test_a_pause_frees_the_memory_and_the_others_go_on_within_a_round(
    volunteer: Volunteer,
) -> None:
    before = volunteer.control.status()
    worker = psutil.Process(before.worker_pid)
    assert worker.memory_info().rss > 50e6
    volunteer.control.pause()
    volunteer.pauses_in_time("you asked it to pause; node resume ends that")
    assert not worker.is_running()

    first = volunteer.testnet.nodes[0].status()
    assert first is not None
    goal = first.round + 3
    volunteer.testnet.wait_until(
        lambda statuses: all(s is not None and s.round >= goal for s in statuses[:-1]),
        "three rounds of the others",
        LIMIT,
    )
    later = volunteer.testnet.nodes[0].history(first.round + 1)
    assert later and all(before.peer_id not in r.contributors for r in later)
    assert max(r.seconds for r in later) < 5.0  # nobody waits for a deadline
    seconds_until(lambda: volunteer.control.status().round >= goal, "still follows the others")
    assert volunteer.control.status().state == "PAUSED"

    volunteer.control.resume()
    volunteer.goes_on_in_time()
    volunteer.counts_again()


def test_a_limit_of_the_threads_holds_for_the_worker_at_once(volunteer: Volunteer) -> None:
    seconds_until(lambda: bool(volunteer.control.status().worker_pid), "its worker")
    worker = psutil.Process(volunteer.control.status().worker_pid)
    all_cpus = worker.cpu_affinity()
    volunteer.command("limits", "set", "cpu-threads=1")
    assert seconds_until(lambda: len(worker.cpu_affinity()) == 1, "one CPU") < ACT_S
    volunteer.control.limit({"cpu-threads": "off"})
    assert seconds_until(lambda: worker.cpu_affinity() == all_cpus, "all CPUs") < ACT_S


@pytest.mark.parametrize(
    ("limit", "bad", "good", "reason"),
    [
        ("mains=yes", {"on_mains": False}, {"on_mains": True}, "on battery"),
        ("temperature=80", {"temperature_c": 81}, {"temperature_c": 70}, "too hot"),
        ("idle=10min", {"idle_s": 3}, {"idle_s": 700}, "in use; it must be idle for 10min"),
    ],
)
def test_a_change_of_the_machine_s_conditions_pauses_the_node_and_lets_it_go_on(
    volunteer: Volunteer, limit: str, bad: dict[str, object], good: dict[str, object], reason: str
) -> None:
    volunteer.conditions(**good)
    name, _, value = limit.partition("=")
    assert volunteer.control.limit({name: value}).verdict.may_train
    volunteer.conditions(**bad)
    volunteer.pauses_in_time(reason)
    volunteer.conditions(**good)
    volunteer.goes_on_in_time()
    volunteer.control.limit({name: "off"})


@pytest.mark.parametrize(
    ("name", "value", "reason"),
    [
        ("memory", "100mb", "MB of memory, the limit is 100mb"),
        ("daily-traffic", "1kb", "today's 1kb of traffic are used"),
        ("hours", None, "out of hours until"),
    ],
)
def test_a_limit_that_is_passed_already_pauses_the_node_and_its_end_lets_it_go_on(
    volunteer: Volunteer, name: str, value: str | None, reason: str
) -> None:
    if value is None:
        begin, end = (datetime.now() + timedelta(hours=n) for n in (2, 3))
        value = f"{begin:%H:%M}-{end:%H:%M}"
    reply = volunteer.control.limit({name: value})
    assert dict(reply.limits) == {name: value} and not reply.verdict.may_train
    volunteer.pauses_in_time(reason)
    assert volunteer.control.limit({name: "off"}).verdict.may_train
    volunteer.goes_on_in_time()


def test_a_pause_of_a_second_ends_by_itself(volunteer: Volunteer) -> None:
    said = volunteer.command("pause", "1s")
    assert str(said["reason"]).startswith("you asked it to pause until")
    volunteer.goes_on_in_time()


def test_a_pause_outlives_a_kill_and_the_next_start(volunteer: Volunteer) -> None:
    reason = volunteer.command("pause", "2h")["reason"]
    volunteer.control.close()
    volunteer.testnet.kill(2)
    volunteer.testnet.restart(2)
    *_, status = volunteer.testnet.wait_until(
        lambda statuses: statuses[-1] is not None and statuses[-1].state == "PAUSED",
        "the pause of the one that was killed",
        LIMIT,
    )
    assert status is not None and status.reason == reason and not status.worker_pid
    volunteer.control = ControlClient(volunteer.directory)
    assert volunteer.control.resume().may_train
    volunteer.counts_again()


def test_a_node_that_finishes_hands_its_last_round_in(volunteer: Volunteer) -> None:
    volunteer.counts_again()
    seconds_until(lambda: volunteer.control.status().state == "TRAINING", "training")
    me = volunteer.control.status().peer_id
    assert volunteer.command("finish")["finished"] is True
    log = volunteer.process.log_path.read_text()
    last = int(log.rpartition(" is the last one before it stops")[0].rpartition("round ")[2])
    rounds = {r.round: r for r in volunteer.testnet.nodes[0].history(last - 1)}
    assert me in rounds[last].contributors
    assert log.rstrip().endswith("STOPPED:")
