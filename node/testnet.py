"""Real node processes on loopback, each with its own directory, key and port.

    with LocalTestnet(manifest_path, peers, root) as testnet:
        testnet.start()
        testnet.wait_until(lambda all: min(s.round for s in all if s) >= 3, "round 3", limit)
        testnet.kill(2)
        testnet.restart(2)
        testnet.nodes[1].freeze()
        testnet.nodes[1].thaw()

Nothing outlives it: each node is the leader of its own session and is ended with all its children;
should this process be killed outright, the nodes see their standard input close and stop.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import TypeVar

from node.control_client import ControlClient
from node.paths import SOCKET_NAME, make_directory
from swarm.errors import Code, SwarmError
from swarm.wire.node_pb2 import RoundSummary, StatusReply

START_LIMIT = timedelta(seconds=120)
STOP_LIMIT = timedelta(seconds=20)
POLL_S = 0.25
LOOPBACK = "127.0.0.1"
ERROR_LINE = re.compile(r"^error ([A-Z0-9_]+): (.*)$", re.MULTILINE)

T = TypeVar("T")
Statuses = Sequence[StatusReply | None]


@dataclass(frozen=True)
class PeerPlan:
    """One node of a testnet."""

    name: str
    domain: str
    data: str
    """Path or built-in corpus, as for `node start --data`."""


class NodeProcess:
    """One daemon as a child process; its output goes to node.log in its directory.

    Attributes:
        program: what the interpreter runs; a test may put something around the node.
    """

    def __init__(self, plan: PeerPlan, directory: Path, manifest_path: Path, threads: int) -> None:
        self.plan = plan
        self.program: Sequence[str] = ("-m", "node")
        self.directory = directory
        self.log_path = directory / "node.log"
        self._manifest_path = manifest_path
        self._threads = threads
        self._port = free_port()
        self.frozen = False
        self._process: subprocess.Popen[bytes] | None = None
        self._control: ControlClient | None = None

    @property
    def ended(self) -> bool:
        """True when the daemon was started and ended by itself."""
        return self._process is not None and self._process.poll() is not None

    @property
    def running(self) -> bool:
        """True while the daemon's process is there."""
        return self._process is not None and self._process.poll() is None

    def start(self, addresses: Sequence[str]) -> None:
        """Start the daemon, joining through `addresses`."""
        make_directory(self.directory)
        command = [sys.executable, *self.program, "start", "--stop-on-eof"]
        command += ["--run", str(self._manifest_path), "--dir", str(self.directory)]
        command += ["--data", self.plan.data, "--domain", self.plan.domain]
        command += ["--name", self.plan.name, "--listen", f"{LOOPBACK}:{self._port}"]
        command += ["--threads", str(self._threads), "--device", "cpu"]
        for address in addresses:
            command += ["--peer", address]
        with open(self.log_path, "ab") as log:
            self._process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=log, stderr=log, start_new_session=True
            )

    def status(self) -> StatusReply | None:
        """What the node says of itself, None when it does not answer."""
        return self._ask(ControlClient.status) if self.running and not self.frozen else None

    def history(self, after_round: int) -> list[RoundSummary]:
        """Rounds that the node knows of, none when it does not answer."""
        return self._ask(lambda control: control.history(after_round)) or []

    def kill(self) -> None:
        """SIGKILL the daemon and everything it started, as when the machine loses power."""
        if self._process is not None:
            self._signal_session(signal.SIGKILL)
            self._process.wait()
            self._forget()

    def freeze(self) -> None:
        """Stop the daemon and its worker, as when the machine hangs; p2pd keeps its connections."""
        if self.running:
            self._signal_session(signal.SIGSTOP)
            self.frozen = True

    def thaw(self) -> None:
        """Let a frozen node go on."""
        if self.frozen:
            self.frozen = False
            self._signal_session(signal.SIGCONT)

    def terminate(self) -> None:
        """Ask the daemon to end."""
        self.thaw()
        if self._process is not None and self.running:
            self._process.terminate()

    def wait_and_clean(self, deadline: float) -> None:
        """Wait for the end until `deadline` (monotonic), then end by force whatever is left."""
        if self._process is None:
            return
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(max(0.0, deadline - time.monotonic()))
        self._signal_session(signal.SIGKILL)
        self._process.wait()
        self._forget()

    def failure(self) -> SwarmError:
        """Why the daemon ended."""
        return last_error(self.plan.name, self.log_path)

    def _ask(self, question: Callable[[ControlClient], T]) -> T | None:
        if self._control is None:
            if not (self.directory / SOCKET_NAME).exists():
                return None
            self._control = ControlClient(self.directory)
        try:
            return question(self._control)
        except SwarmError:  # a new connection next time: this one would wait ever longer
            self._control.close()
            self._control = None
            return None

    def _signal_session(self, number: signal.Signals) -> None:
        assert self._process is not None
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, number)

    def _forget(self) -> None:
        if self._control is not None:
            self._control.close()
            self._control = None
        if self._process is not None and self._process.stdin is not None:
            self._process.stdin.close()
        self._process = None
        self.frozen = False


class LocalTestnet:
    """Several nodes of one run on this machine; the first is the one the others join through."""

    def __init__(
        self, manifest_path: Path, peers: Sequence[PeerPlan], root: Path, threads: int = 1
    ) -> None:
        self.nodes = [
            NodeProcess(plan, root / plan.name, manifest_path.absolute(), threads) for plan in peers
        ]

    def __enter__(self) -> LocalTestnet:
        atexit.register(self.stop)
        return self

    def __exit__(self, *exception: object) -> None:
        self.stop()
        atexit.unregister(self.stop)

    def start(
        self, limit: timedelta = START_LIMIT, on_poll: Callable[[], None] = lambda: None
    ) -> None:
        """Start all nodes and return when each answers on its control socket.

        `on_poll` is called while waiting.

        Raises the error that a node ended with, or `STAGE_TIMEOUT`.
        """
        self.nodes[0].start([])
        self.wait_until(_first_has_addresses, "the first node's address", limit, on_poll)
        for index in range(1, len(self.nodes)):
            self.restart(index)
        self.wait_until(lambda statuses: all(statuses), "every node to answer", limit, on_poll)

    def restart(self, index: int) -> None:
        """Start one node again, joining through all others that answer."""
        others = [node.status() for node in self.nodes if node is not self.nodes[index]]
        addresses = [address for status in others if status for address in status.addresses]
        self.nodes[index].start(addresses)

    def kill(self, index: int) -> None:
        """SIGKILL one node with all its children."""
        self.nodes[index].kill()

    def statuses(self) -> list[StatusReply | None]:
        """Status of every node, None for those that do not answer."""
        return [node.status() for node in self.nodes]

    def wait_until(
        self,
        condition: Callable[[Statuses], bool],
        what: str,
        limit: timedelta,
        on_poll: Callable[[], None] = lambda: None,
    ) -> list[StatusReply | None]:
        """Poll until `condition(statuses)` holds; return the statuses it held for.

        Raises `STAGE_TIMEOUT` naming `what`, or the error of a started node that ended.
        """
        deadline = time.monotonic() + limit.total_seconds()
        while True:
            statuses = self.statuses()
            if condition(statuses):
                return statuses
            self.raise_if_ended()
            if time.monotonic() > deadline:
                states = ", ".join(s.state if s else "no answer" for s in statuses)
                raise SwarmError(
                    Code.STAGE_TIMEOUT,
                    f"waited {limit.total_seconds():g} s for {what}; nodes: {states}",
                    f"logs: {self.nodes[0].log_path.parent.parent}/*/node.log",
                )
            on_poll()
            time.sleep(POLL_S)

    def raise_if_ended(self) -> None:
        """Raise the error of a node that was started and ended by itself."""
        for node in self.nodes:
            if node.ended:
                raise node.failure()

    def stop(self) -> None:
        """End all nodes, gracefully first, by force after `STOP_LIMIT`."""
        for node in self.nodes:
            node.terminate()
        deadline = time.monotonic() + STOP_LIMIT.total_seconds()
        for node in self.nodes:
            node.wait_and_clean(deadline)


def free_port() -> int:
    """A TCP port of the loopback interface that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind((LOOPBACK, 0))
        port: int = probe.getsockname()[1]
        return port


def last_error(who: str, log_path: Path) -> SwarmError:
    """The error that a child process ended with, from the last error line of its log."""
    text = log_path.read_text(errors="replace")
    found = ERROR_LINE.findall(text)
    if found and found[-1][0] in Code.__members__:
        return SwarmError(Code[found[-1][0]], f"{who}: {found[-1][1]}", f"log: {log_path}")
    last = " ".join(text.strip().splitlines()[-1:])
    return SwarmError(Code.INTERNAL, f"{who} ended: {last}", f"log: {log_path}")


def _first_has_addresses(statuses: Statuses) -> bool:
    first = statuses[0]
    return first is not None and len(first.addresses) > 0
