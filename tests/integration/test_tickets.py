"""A closed run from the command line: a ticket lets in, the manifest alone does not."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from running_node import LIMIT_S, RunningNode
from tiny_run import tiny_manifest, tiny_peers

from node import exit_codes
from node.commands.run import found_run
from swarm.identity import Identity


def run_node(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "node", *words],
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
        check=False,
    )


class Swarm:
    """Nodes of a closed run on loopback, each with a directory of its own."""

    def __init__(self, place: Path) -> None:
        self.place = place
        self.manifest = place / "RUN.toml"
        found_run(tiny_manifest(self.manifest, peers=2), self.manifest, closed=True)
        tiny_peers(place, 3)
        self._nodes: dict[int, RunningNode] = {}

    def ticket(self, *words: str) -> str:
        done = run_node("run", "ticket", str(self.manifest), *words)
        assert done.returncode == exit_codes.OK, done.stderr
        return done.stdout.strip()

    def words(self, number: int) -> list[str]:
        words = ["--data", str(self.place / f"text-{number}"), "--domain", f"d{number}"]
        return [*words, "--listen", "127.0.0.1:0"]

    def directory(self, number: int) -> Path:
        return self.place / f"node-{number}"

    def start(self, number: int, *words: str) -> None:
        given = ["start", *self.words(number), *words]
        output = self.place / f"output-{number}.txt"
        self._nodes[number] = RunningNode(self.directory(number), output, given)

    def __getitem__(self, number: int) -> RunningNode:
        return self._nodes[number]

    def stop(self) -> None:
        for node in self._nodes.values():
            node.process.terminate()
        for node in self._nodes.values():
            node.process.wait(LIMIT_S)


@pytest.fixture
def swarm(tmp_path: Path) -> Iterator[Swarm]:
    made = Swarm(tmp_path)
    yield made
    made.stop()


def test_two_with_tickets_train_and_a_third_with_the_manifest_alone_does_not(swarm: Swarm) -> None:
    swarm.start(0, "--join", swarm.ticket())
    address = swarm[0].address()
    file = str(swarm.place / "second.ticket")
    swarm.ticket("--peer", address, "--out", file)
    swarm.start(1, "--join", file)  # the manifest is in the ticket
    swarm[1].wait(lambda s: s.last_counted_round >= 1, "a round with its update")
    assert (swarm.directory(1) / "ticket.txt").stat().st_mode & 0o077 == 0

    here = ["--dir", str(swarm.directory(2))]
    words = ["start", "--run", str(swarm.manifest), *swarm.words(2), *here, "--peer", address]
    without = run_node(*words)
    assert without.returncode == exit_codes.IDENTITY
    assert "NOT_ADMITTED" in without.stderr and "--join" in without.stderr

    used = (swarm.directory(1) / "ticket.txt").read_text()
    again = run_node(*words, "--join", used)  # somebody else's, good for one peer
    assert again.returncode == exit_codes.IDENTITY
    assert "NOT_ADMITTED" in again.stderr

    stranger = Identity.load_or_create(swarm.directory(2) / "identity.key").peer_id
    there = ["--dir", str(swarm.directory(0))]
    revoked = run_node("run", "revoke", str(swarm.manifest), stranger, *there)
    assert revoked.returncode == exit_codes.OK, revoked.stderr
    for number in (0, 1):
        swarm[number].wait(lambda s: list(s.revoked) == [stranger], "that it is revoked")


def test_a_ticket_of_another_run_or_a_cut_one_is_refused_before_anything_starts(
    swarm: Swarm, tmp_path: Path
) -> None:
    ticket = swarm.ticket()
    other = tmp_path / "other"
    other.mkdir()
    found_run(tiny_manifest(other / "RUN.toml", peers=1), other / "RUN.toml")
    words = ["start", *swarm.words(2), "--dir", str(swarm.directory(2))]
    wrong = run_node(*words, "--run", str(other / "RUN.toml"), "--join", ticket)
    assert wrong.returncode == exit_codes.CONFIG and "RUN_MISMATCH" in wrong.stderr
    cut = run_node(*words, "--join", ticket[:-20])
    assert cut.returncode == exit_codes.IDENTITY and "TICKET_INVALID" in cut.stderr
    nothing = run_node(*words)
    assert nothing.returncode == exit_codes.USAGE and "--join" in nothing.stderr
    assert not swarm.directory(2).exists()
