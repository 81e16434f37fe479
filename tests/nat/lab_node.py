"""Whole nodes on hosts of the lab: `node start` and `node relay`, each with all its processes.

nodes = LabNodes(lab, directory)
nodes.relay("pub3")
nodes.start("a", peers=nodes.entries())
nodes["a"].wait(lambda status: status.round >= 3, "three rounds", 30)
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from node.control_client import ControlClient
from swarm.errors import SwarmError
from swarm.wire.node_pb2 import RoundSummary, StatusReply
from tests.nat.netlab import Lab
from tests.nat.netns import processes_in

LISTEN = "0.0.0.0:443"  # also for those whose network lets only the web out
STOP_S = 30.0


class LabNode:
    """One node, in a process group of its own."""

    def __init__(self, lab: Lab, host: str, place: Path, words: list[str]) -> None:
        self.host = host
        self.directory = place / host
        self.output = place / f"{host}.txt"
        self.began_s = time.monotonic()
        # Eight of them use all the time that there is, and other tests of the lab run beside.
        command = ["nice", "-n", "5", sys.executable, "-m", "node", *words]
        command += ["--dir", str(self.directory)]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        with open(self.output, "ab") as output:
            self.process = lab.popen(
                host,
                command,
                stdout=output,
                stderr=output,
                start_new_session=True,
                env=environment,
            )

    def status(self) -> StatusReply | None:
        """What it says of itself, if it answers."""
        with contextlib.suppress(SwarmError), ControlClient(self.directory) as control:
            return control.status()
        return None

    def history(self) -> list[RoundSummary]:
        """Its own account of the rounds since it started."""
        with ControlClient(self.directory) as control:
            return control.history()

    def wait(self, condition: Callable[[StatusReply], bool], what: str, limit_s: float) -> float:
        """Wait until its status is so; returns the seconds since it was started."""
        deadline = time.monotonic() + limit_s
        while True:
            status = self.status()
            if status is not None and condition(status):
                return time.monotonic() - self.began_s
            assert self.runs, self.output.read_text()
            assert time.monotonic() < deadline, f"{self.host}: no {what}: {self._told(status)}"
            time.sleep(0.1)

    def peer_id(self) -> str:
        """Its peer id; waits until it answers."""
        self.wait(lambda status: bool(status.peer_id), "peer id", 20)
        status = self.status()
        assert status is not None, self.output.read_text()
        return str(status.peer_id)

    @property
    def runs(self) -> bool:
        """Whether it has not ended."""
        return self.process.poll() is None

    def interrupt(self) -> None:
        """Ctrl-C, and wait for its end."""
        self.process.send_signal(signal.SIGINT)
        self.process.wait(STOP_S)

    def kill(self) -> None:
        """SIGKILL it and all it started, as when the power fails."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()

    def _told(self, status: StatusReply | None) -> str:
        said = f"{status.state}: {status.reason}, round {status.round}" if status else "no answer"
        return f"{said}\n{self.output.read_text()}"


class LabNodes:
    """The nodes of one run, by the names of their hosts. `place` has RUN.toml and text-N."""

    def __init__(self, lab: Lab, place: Path) -> None:
        self._lab = lab
        self._place = place
        self.nodes: dict[str, LabNode] = {}

    def __getitem__(self, host: str) -> LabNode:
        return self.nodes[host]

    def relay(self, host: str, *peers: str) -> None:
        """`node relay`, which is a bootstrap node too."""
        self._run(host, ["relay"], peers)

    def start(self, host: str, *peers: str, options: tuple[str, ...] = ()) -> None:
        """`node start` with a text of its own."""
        text = sum(1 for node in self.nodes if node != host) % 4
        words = ["start", "--data", str(self._place / f"text-{text}"), "--domain", host]
        self._run(host, [*words, *options], peers)

    def _run(self, host: str, words: list[str], peers: tuple[str, ...]) -> None:
        words = [*words, "--run", str(self._place / "RUN.toml"), "--listen", LISTEN]
        words += [word for peer in peers for word in ("--peer", peer)]
        self.nodes[host] = LabNode(self._lab, host, self._place, words)

    def address(self, host: str) -> str:
        """What others pass to --peer; waits until the node has said it."""
        self[host].wait(lambda status: bool(status.addresses), "address", 20)
        status = self[host].status()
        assert status is not None
        return str(status.addresses[0])

    def stop(self) -> None:
        """Ctrl-C to all. Fails if a process is left on their hosts."""
        running = [node for node in self.nodes.values() if node.runs]
        for node in running:
            node.process.send_signal(signal.SIGINT)
        deadline = time.monotonic() + STOP_S
        try:
            for node in running:
                node.process.wait(max(0.1, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            for node in running:
                node.kill()
            raise
        assert not processes_in([self._lab.names[host] for host in self.nodes])
