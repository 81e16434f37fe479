"""Runs `node` commands as processes of their own, each with a log; none is left behind."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from node.testnet import last_error
from swarm.errors import Code, SwarmError

POLL_S = 0.5


class Programs:
    """A context manager; at its end all that it started are ended."""

    def __init__(self, logs: Path) -> None:
        self._logs = logs
        self._running: dict[str, subprocess.Popen[bytes]] = {}

    def __enter__(self) -> Programs:
        self._logs.mkdir(parents=True, exist_ok=True)
        return self

    def __exit__(self, *exception: object) -> None:
        for process in self._running.values():
            assert process.stdin is not None
            process.stdin.close()  # those that serve stop by it
        for process in self._running.values():
            try:
                process.wait(timeout=10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    def start(self, name: str, words: Sequence[str]) -> None:
        """Start `node WORDS`."""
        with open(self._log(name), "wb") as log:
            self._running[name] = subprocess.Popen(
                [sys.executable, "-m", "node", *words],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
            )

    def end(self) -> None:
        """Kill all at once, when what they do has become senseless."""
        for process in self._running.values():
            process.kill()

    def wait(self, progress: Callable[[Mapping[str, str]], None]) -> None:
        """Wait until all have ended well; `progress` gets their last lines.

        Raises the error of one that failed.
        """
        while True:
            codes = [process.poll() for process in self._running.values()]
            progress({name: self._last_line(name) for name in self._running})
            for name, process in self._running.items():
                if process.poll():
                    self.end()
                    raise last_error(name, self._log(name))
            if all(code == 0 for code in codes):
                return
            time.sleep(POLL_S)

    def wait_for_line(self, name: str, mark: str, limit_s: float) -> str:
        """What follows `mark` in the program's log. Raises its error, or `STAGE_TIMEOUT`."""
        deadline = time.monotonic() + limit_s
        while time.monotonic() < deadline:
            for line in self._log(name).read_text(errors="replace").splitlines():
                if mark in line:
                    return line.partition(mark)[2].strip()
            if self._running[name].poll() is not None:
                raise last_error(name, self._log(name))
            time.sleep(POLL_S)
        raise SwarmError(Code.STAGE_TIMEOUT, f"{name} did not say {mark!r} in {limit_s:.0f} s")

    def _log(self, name: str) -> Path:
        return self._logs / f"{name}.log"

    def _last_line(self, name: str) -> str:
        lines = self._log(name).read_text(errors="replace").splitlines()
        return lines[-1] if lines else ""
