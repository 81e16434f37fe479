"""Nodes that are killed or stopped, one or all, train on as if nothing had happened: to the bit.

Each test runs the same nodes twice, with the same keys and texts: once undisturbed, once not, and
compares what the rounds committed: losses, tokens, and the hash of every fragment.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from node_disk import Committed, committed
from running_node import LIMIT_S, TinyNode
from tiny_run import tiny_manifest, tiny_peers

from swarm.config import SyncConfig

# What a peer does must not depend on how fast it was: neither its steps, nor who takes over what.
SYNC = SyncConfig(experts_per_peer=2, step_counts="equal")
ROUNDS = 6
Run = Callable[[str, int], "Swarm"]


class Swarm:
    """The nodes of one run, each in its directory under `place`."""

    def __init__(self, place: Path, count: int) -> None:
        self.place = place
        self.count = count
        self.nodes: dict[int, TinyNode] = {}
        self.ended: list[TinyNode] = []

    def start(self, *numbers: int) -> None:
        """Start these nodes, or all; the first that runs is whom the others join through."""
        for number in numbers or range(self.count):
            running = next((n for i, n in self.nodes.items() if i != number), None)
            options = []
            if running is not None:
                options = ["--peer", running.address()]
            self.nodes[number] = TinyNode(self.place, number, *options)

    def wait_for_round(self, round_index: int) -> None:
        for index in range(round_index + 1):  # each has its own time limit: the machine may be busy
            for node in self.nodes.values():
                node.wait(lambda s, i=index: s.round >= i, f"round {index}")  # type: ignore[misc]

    def kill(self, *numbers: int) -> None:
        """SIGKILL to these nodes, or all, at once, with all that they started."""
        dying = [self.nodes.pop(n) for n in numbers or list(self.nodes)]
        for node in dying:
            with contextlib.suppress(ProcessLookupError):
                node.signal(signal.SIGKILL)
        for node in dying:
            node.process.wait()
        self.ended += dying

    def stop(self) -> None:
        """Ctrl-C to all nodes at once."""
        for node in self.nodes.values():
            node.process.send_signal(signal.SIGINT)
        for node in self.nodes.values():
            node.process.wait(LIMIT_S)
        self.ended += self.nodes.values()
        self.nodes.clear()

    def committed(self) -> dict[int, Committed]:
        """The first rounds, on which all nodes must agree."""
        found = [committed(self.place / f"node-{n}") for n in range(self.count)]
        for other in found[1:]:
            assert all(other[r] == found[0][r] for r in range(ROUNDS) if r in other)
        return {r: found[0][r] for r in range(ROUNDS)}


@pytest.fixture
def run(tmp_path: Path) -> Iterator[Run]:
    """Makes the runs of a test, all with the same manifest, texts and keys."""
    made: list[Swarm] = []

    def make(name: str, count: int) -> Swarm:
        place = tmp_path / name
        if not made:
            place.mkdir()
            tiny_manifest(
                place / "RUN.toml", count, inner_steps=40, sync=SYNC, on_majority_lost="wait"
            )
            tiny_peers(place, count)
        else:
            first = made[0].place
            shutil.copytree(first, place, ignore=shutil.ignore_patterns("node-*", "output-*"))
            for number in range(count):
                (place / f"node-{number}").mkdir(mode=0o700)
                key = f"node-{number}/identity.key"
                shutil.copy(first / key, place / key)
        made.append(Swarm(place, count))
        return made[-1]

    yield make
    for swarm in made:
        for node in [*swarm.nodes.values(), *swarm.ended]:
            node.kill()


def undisturbed(run: Run, count: int) -> dict[int, Committed]:
    swarm = run("undisturbed", count)
    swarm.start()
    swarm.wait_for_round(ROUNDS)
    swarm.kill()
    expected = swarm.committed()
    assert all(missing == () for _, _, _, missing in expected.values())
    return expected


def test_a_peer_that_is_killed_and_stopped_trains_on_with_the_same_losses_to_the_bit(
    run: Run,
) -> None:
    expected = undisturbed(run, 1)
    swarm = run("disturbed", 1)
    swarm.start()
    swarm.wait_for_round(1)
    for moment_s in (0.0, 0.15, 0.3):  # somewhere in a round
        time.sleep(moment_s)
        swarm.kill()
        swarm.start()
        done = max(committed(swarm.place / "node-0"))
        swarm.wait_for_round(done + 1)
    swarm.stop()
    swarm.start()
    status = swarm.nodes[0].wait(lambda s: s.worker_pid > 0 and s.state == "TRAINING", "training")
    os.kill(status.worker_pid, signal.SIGKILL)
    swarm.wait_for_round(max(ROUNDS, status.round + 2))
    assert swarm.committed() == expected


@pytest.mark.heavy
def test_one_of_two_peers_is_killed_and_comes_back_and_nothing_is_lost(
    run: Run,
) -> None:
    expected = undisturbed(run, 2)
    swarm = run("disturbed", 2)
    swarm.start()
    swarm.wait_for_round(2)
    for victim in (1, 0):
        swarm.kill(victim)
        waiting = next(iter(swarm.nodes.values()))
        waiting.wait(lambda s: s.state == "AVERAGING", "waiting for the other")
        swarm.start(victim)
        swarm.wait_for_round(max(committed(swarm.place / "node-0")) + 1)
    swarm.wait_for_round(ROUNDS)
    assert swarm.committed() == expected


@pytest.mark.heavy
@pytest.mark.parametrize("ending", ["killed", "stopped"])
def test_a_swarm_of_which_everybody_was_gone_goes_on_from_its_disks_alone(
    ending: str, run: Run
) -> None:
    expected = undisturbed(run, 2)
    swarm = run("disturbed", 2)
    swarm.start()
    for round_index in (2, 4):
        swarm.wait_for_round(round_index)
        if ending == "killed":
            swarm.kill()
        else:
            swarm.stop()
        swarm.start()
    swarm.wait_for_round(ROUNDS)
    assert swarm.committed() == expected
