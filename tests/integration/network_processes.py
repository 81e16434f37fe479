"""Helpers of the network tests: peers as child processes, and what they leave behind."""

from __future__ import annotations

import json
import os
import selectors
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from swarm.identity import Identity

PROGRAM = Path(__file__).with_name("network_peer.py")
ROOT = Path(__file__).resolve().parents[2]


class Peer:
    """One child process that owns a PeerNetwork."""

    def __init__(self, **options: Any) -> None:
        self.process = subprocess.Popen(
            [sys.executable, str(PROGRAM), json.dumps(options)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )
        self.info: dict[str, Any] = {}

    def read(self, timeout_s: float = 60) -> dict[str, Any]:
        """The next line that the process says."""
        assert self.process.stdout is not None
        with selectors.DefaultSelector() as selector:
            selector.register(self.process.stdout, selectors.EVENT_READ)
            assert selector.select(timeout_s), "the peer process says nothing"
        line = self.process.stdout.readline()
        assert line, f"the peer process ended with {self.process.wait(10)}"
        return dict(json.loads(line))

    def wait_ready(self) -> dict[str, Any]:
        """Wait for the end of its start."""
        self.info = self.read()
        assert "ready" in self.info, self.info
        return self.info

    def ask(self, **command: Any) -> dict[str, Any]:
        """Send a command and return its answer."""
        self.send(**command)
        return self.read()

    def send(self, **command: Any) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(command).encode() + b"\n")
        self.process.stdin.flush()

    def kill(self) -> None:
        """SIGKILL."""
        self.process.kill()
        self.process.wait(10)
        self._close_pipes()

    def stop(self) -> int:
        """Ask it to leave; returns its exit code."""
        if self.process.poll() is None and self.process.stdin and not self.process.stdin.closed:
            self.send(do="stop")
        try:
            return self.process.wait(15)
        except subprocess.TimeoutExpired:
            self.kill()
            raise
        finally:
            self._close_pipes()

    def p2pd_pids(self) -> list[int]:
        """Running p2pd children of the process."""
        return [pid for pid in children(self.process.pid) if is_p2pd(pid)]

    def _close_pipes(self) -> None:
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe is not None:
                pipe.close()


def children(pid: int) -> list[int]:
    """Process ids of the living children of `pid` (from /proc)."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and parent_of(int(entry.name)) == pid:
            found.append(int(entry.name))
    return found


def parent_of(pid: int) -> int | None:
    fields = _stat(pid)
    return int(fields[1]) if fields and fields[0] != "Z" else None


def is_p2pd(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")[0].endswith(b"/p2pd")
    except OSError:
        return False


def _stat(pid: int) -> list[str]:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    except (OSError, IndexError):
        return []


def socket_dirs(pid: int) -> list[Path]:
    """Directories with p2pd sockets that belong to process `pid`."""
    return list(Path("/tmp").glob(f"expertswarm-{os.getuid()}-{pid}-*"))


def wait_until(condition: Callable[[], bool], timeout_s: float, what: str) -> float:
    """Poll until `condition()`; returns the seconds it took."""
    began = time.monotonic()
    while not condition():
        assert time.monotonic() - began < timeout_s, f"not in {timeout_s} s: {what}"
        time.sleep(0.02)
    return time.monotonic() - began


def make_address(key: Path, port: int) -> str:
    """Make a key file and return the address that its peer will have on `port`."""
    identity = Identity.load_or_create(key)
    return f"/ip4/127.0.0.1/tcp/{port}/p2p/{identity.peer_id}"
