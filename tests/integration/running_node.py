"""A node of a test: the process of a verb that runs one, and what it says over its socket."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from node import exit_codes
from node.control_client import ControlClient
from node.testnet import free_port
from swarm.errors import SwarmError
from swarm.wire.node_pb2 import StatusReply

LIMIT_S = 60
POLL_S = 0.05


class RunningNode:
    """`node WORDS --dir DIRECTORY`, in a process group of its own with everything it starts.

    `inside` is a command that runs the rest of its line elsewhere, on another host say.
    """

    def __init__(
        self, directory: Path, output: Path, words: Sequence[str], inside: Sequence[str] = ()
    ) -> None:
        self.directory = directory
        self.output = output
        command = [*inside, sys.executable, "-m", "node", *words, "--dir", str(directory)]
        with open(output, "ab") as file:
            self.process = subprocess.Popen(
                command, stdout=file, stderr=file, start_new_session=True
            )

    def status(self) -> StatusReply | None:
        with contextlib.suppress(SwarmError), ControlClient(self.directory) as control:
            return control.status()
        return None

    def wait(
        self, condition: Callable[[StatusReply], bool], what: str, limit_s: float = LIMIT_S
    ) -> StatusReply:
        deadline = time.monotonic() + limit_s
        while True:
            status = self.status()
            if status is not None and condition(status):
                return status
            assert self.process.poll() is None, self.output.read_text()
            assert time.monotonic() < deadline, f"{what}: {status}\n{self.output.read_text()}"
            time.sleep(POLL_S)

    def address(self) -> str:
        """Where others join through it."""
        return self.wait(lambda s: bool(s.addresses), "its address").addresses[0]

    def signal(self, number: signal.Signals) -> None:
        os.killpg(self.process.pid, number)

    def interrupt(self) -> float:
        """Ctrl-C; returns the seconds until the process is gone."""
        started = time.monotonic()
        self.process.send_signal(signal.SIGINT)
        assert self.process.wait(LIMIT_S) == exit_codes.INTERRUPTED, self.output.read_text()
        return time.monotonic() - started

    def terminate(self) -> None:
        """SIGTERM, and wait for a clean end."""
        self.process.terminate()
        assert self.process.wait(LIMIT_S) == exit_codes.TERMINATED, self.output.read_text()

    def kill(self) -> None:
        """SIGKILL the daemon and all it started, as when the power fails."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            self.signal(signal.SIGKILL)
        self.process.wait()


class TinyNode(RunningNode):
    """`node start` in the run of `place`, with the text, name and directory of a number."""

    def __init__(self, place: Path, number: int, *options: str, host: str = "127.0.0.1") -> None:
        words = ["start", "--run", str(place / "RUN.toml"), "--name", f"node-{number}"]
        words += ["--data", str(place / f"text-{number}"), "--domain", f"domain-{number}"]
        words += ["--listen", f"{host}:{free_port()}", *options]
        super().__init__(place / f"node-{number}", place / f"output-{number}.txt", words)
