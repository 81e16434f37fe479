"""docs/quickstart.md, typed as a reader would type it.

Blocks marked `sh run` are run to their end, in order; those marked `sh terminal` go on in a
terminal of their own. Other blocks need a machine or a text that is not here; that their commands
are understood is checked by tests/unit/test_docs.py.
"""

from __future__ import annotations

import os
import re
import shlex
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from node.control_client import ControlClient
from swarm.errors import SwarmError

ROOT = Path(__file__).resolve().parents[2]
BLOCK = re.compile(r"^```sh (run|terminal)\n(.*?)^```", re.MULTILINE | re.DOTALL)
START_LIMIT_S, ROUND_LIMIT_S, RUN_LIMIT_S, END_LIMIT_S = 60.0, 120.0, 60.0, 20.0

pytestmark = pytest.mark.heavy


class Reader:
    """Types in a directory of its own, where `node` is the one of this repository."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.terminals: dict[Path, subprocess.Popen[bytes]] = {}
        program = directory / "bin" / "node"
        program.parent.mkdir()
        program.write_text(f'#!/bin/sh\nexec {sys.executable} -m node "$@"\n')
        program.chmod(0o755)
        self.environment = {
            **os.environ,
            "PATH": f"{program.parent}:{os.environ['PATH']}",
            "PYTHONPATH": str(ROOT),
            "XDG_STATE_HOME": str(directory / "state"),
            "OMP_NUM_THREADS": "1",
        }

    def type(self, text: str) -> str:
        """Run the lines to their end; the first that fails fails the test."""
        done = subprocess.run(
            ["bash", "-e", "-u", "-o", "pipefail", "-c", text],
            cwd=self.directory, env=self.environment, timeout=RUN_LIMIT_S,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip
        assert done.returncode == 0, f"{text}\n{done.stdout}"
        return done.stdout

    def open_terminal(self, text: str) -> None:
        """Start a node and return when it answers."""
        words = shlex.split(text)
        node = self.directory / words[words.index("--dir") + 1]
        self.terminals[node] = subprocess.Popen(
            ["bash", "-c", f"exec {text}"],
            cwd=self.directory, env=self.environment, start_new_session=True,
        )  # fmt: skip
        self.wait_for_round(0, START_LIMIT_S)

    def wait_for_round(self, number: int, limit_s: float) -> None:
        deadline = time.monotonic() + limit_s
        while not all(round_of(node) >= number for node in self.terminals):
            assert time.monotonic() < deadline, f"no round {number} in {limit_s:g} s"
            time.sleep(0.3)

    def close(self) -> None:
        """End what still runs, as Ctrl-C does, by force if it does not end."""
        for terminal in self.terminals.values():
            terminal.send_signal(signal.SIGINT)
        for terminal in self.terminals.values():
            try:
                terminal.wait(END_LIMIT_S)
            finally:
                if terminal.poll() is None:
                    os.killpg(terminal.pid, signal.SIGKILL)
                    terminal.wait()


def round_of(node: Path) -> int:
    """The last committed round of a node with an address to join through, -1 of any other."""
    try:
        with ControlClient(node) as control:
            status = control.status()
    except SwarmError:
        return -1
    return status.round if status.addresses else -1


@pytest.fixture
def reader() -> Iterator[Reader]:
    with tempfile.TemporaryDirectory() as directory:  # tmp_path is too long for sockets below it
        reader = Reader(Path(directory))
        yield reader
        reader.close()


def test_the_quickstart_leads_to_a_model_that_answers(reader: Reader) -> None:
    page = (ROOT / "docs" / "quickstart.md").read_text(encoding="utf-8")
    blocks = BLOCK.findall(page)
    last_start = max(at for at, (kind, _) in enumerate(blocks) if kind == "terminal")
    printed = []
    for at, (kind, text) in enumerate(blocks):
        if kind == "run":
            printed.append(reader.type(text))
            continue
        reader.open_terminal(text)
        if at == last_start:
            reader.wait_for_round(1, ROUND_LIMIT_S)
    shown = "\n".join(printed)
    assert "own update last counted in" in shown
    assert (reader.directory / "model" / "model.safetensors").exists()
    assert "def main(" in shown
