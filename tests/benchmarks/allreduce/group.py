"""All peers of one implementation: start them, let them average, watch, kill, end them.

with Group(GLOO, size=4, options=Options()) as group:
    outcome = group.average("fp32", mib=64, repeat=0)
"""

from __future__ import annotations

import contextlib
import json
import os
import queue
import re
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, TextIO

from links import Links

from allreduce.variants import Variant

BENCHMARKS = Path(__file__).parents[1]
ROOT = BENCHMARKS.parents[1]
TICKS_PER_S = os.sysconf("SC_CLK_TCK")
ADDRESS = re.compile(r" ?\[[^\]]*\](:\d+)?")  # of a source line or a peer, in gloo's messages
LARGEST_ERROR = {"fp32": 1e-5, "bf16": 0.05, "int8": 0.2, "uint8": 0.2, "int4": 2.0}


class PeerError(Exception):
    """A peer gave up, ended, or did not answer in time."""


@dataclass(frozen=True)
class Outcome:
    """One operation.

    Attributes:
        seconds: from the first peer's call to the last peer's return.
        cpu_s: of all its processes, in that time.
        max_error: largest distance from the true mean, of all peers.
        step_s: as `seconds`, with the matchmaking (hivemind only).
    """

    seconds: float
    cpu_s: float
    max_error: float
    step_s: float | None


class Peer:
    """One process and its answers."""

    def __init__(self, command: Sequence[str], environment: Mapping[str, str], log: TextIO) -> None:
        self.process = subprocess.Popen(
            command,
            cwd=BENCHMARKS,
            env=dict(environment),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
            start_new_session=True,
        )
        self._answers: queue.SimpleQueue[str] = queue.SimpleQueue()
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self._answers.put(line)
        self._answers.put("")

    def tell(self, **command: Any) -> None:
        """Send a command. A dead peer shows when it is heard."""
        assert self.process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.write(json.dumps(command) + "\n")
            self.process.stdin.flush()

    def hear(self, deadline: float) -> dict[str, Any]:
        """The next answer. Raises PeerError."""
        try:
            line = self._answers.get(timeout=max(0.0, deadline - time.monotonic()))
        except queue.Empty:
            raise PeerError("no answer within the limit") from None
        answer = json.loads(line) if line else {"failed": "the process ended"}
        if "failed" in answer:
            raise PeerError(answer["failed"])
        return dict(answer)

    def kill(self) -> None:
        """SIGKILL to it and all that it started."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)


class Group:
    """A context manager. `limit_s` is for each command; links are loopback unless given."""

    def __init__(
        self,
        variant: Variant,
        size: int,
        *,
        log: TextIO,
        limit_s: float,
        links: Links | None = None,
        pccl: Path | None = None,
    ) -> None:
        self.variant, self.size = variant, size
        self.peers: list[Peer] = []
        self._log, self._limit_s, self._links, self._pccl = log, limit_s, links, pccl

    def __enter__(self) -> Group:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def start(self) -> None:
        """Start all peers and let them meet. Raises PeerError; then nothing is left running."""
        try:
            self._start()
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """End all processes."""
        for peer in self.peers:
            peer.kill()
        for peer in self.peers:
            peer.process.wait()
        self.peers.clear()

    def average(self, codec: str, mib: int, repeat: int) -> Outcome:
        """One all-reduce of everybody's input, checked. Raises PeerError, also on wrong values."""
        self._ask("prepare", mib=mib, repeat=repeat)
        cpu_s = self.cpu_s()
        answers = self._ask("reduce", codec=codec)
        cpu_s = self.cpu_s() - cpu_s
        checks = self._ask("check", members=[list(range(self.size))])
        error = max(check["errors"][0] for check in checks)
        if error > LARGEST_ERROR[codec]:
            raise PeerError(f"wrong values: {error:.2g} from the mean")
        if self.variant.same_bits and len({check["digest"] for check in checks}) > 1:
            raise PeerError("the peers' results differ")
        begin = max if self.variant.impl == "hivemind" else min  # see hivemind_peer.py
        step_s = None
        if "step_begin" in answers[0]:
            step_s = max(a["step_end"] for a in answers) - min(a["step_begin"] for a in answers)
        seconds = max(a["end"] for a in answers) - begin(a["begin"] for a in answers)
        return Outcome(seconds, cpu_s, error, step_s)

    def average_with_a_death(
        self, codec: str, mib: int, repeat: int, victim: int, after_s: float
    ) -> dict[str, Any]:
        """SIGKILL one peer `after_s` into an all-reduce; what became of the others.

        `seconds`: from the kill until every survivor returned, None if one did not; `outcome`: what
        the survivors hold.
        """
        self._ask("prepare", mib=mib, repeat=repeat)
        for peer in self.peers:
            peer.tell(do="reduce", codec=codec)
        time.sleep(after_s)
        killed = time.monotonic()
        self.peers[victim].kill()
        everyone = list(range(self.size))
        left = [rank for rank in everyone if rank != victim]
        ends, failures, returned = [], [], []
        for peer in (self.peers[rank] for rank in left):
            try:
                ends.append(peer.hear(killed + self._limit_s)["end"])
                returned.append(peer)
            except PeerError as failure:
                failures.append(ADDRESS.sub("", str(failure))[:80])
        for peer in returned:
            peer.tell(do="check", members=[everyone, left])
        deadline = time.monotonic() + self._limit_s
        checks = [peer.hear(deadline) for peer in returned]
        kinds = [f"{count} of {len(left)}: {why}" for why, count in Counter(failures).items()]
        if checks:
            held = _meaning(checks, LARGEST_ERROR[codec])
            kinds.append(f"{len(checks)} of {len(left)}: {held}" if failures else held)
        seconds = None if failures else max(ends) - killed
        return {"seconds": seconds, "outcome": "; ".join(kinds)}

    def cpu_s(self) -> float:
        """User and system seconds of all processes so far, the peers' children included."""
        parents, used = {}, {}
        for entry in Path("/proc").glob("[0-9]*"):
            try:
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue
            pid = int(entry.name)
            parents[pid] = int(fields[1])
            used[pid] = (int(fields[11]) + int(fields[12])) / TICKS_PER_S
        roots = {peer.process.pid for peer in self.peers}

        def belongs(pid: int) -> bool:
            while pid and pid not in roots:
                pid = parents.get(pid, 0)
            return pid in roots

        return sum(seconds for pid, seconds in used.items() if belongs(pid))

    def _start(self) -> None:
        addresses: list[Any] = []
        for rank in range(self.size):
            self.peers.append(self._spawn(rank))
        for rank, peer in enumerate(self.peers):
            host = self._links.address(rank) if self._links else "127.0.0.1"
            peer.tell(
                do="start",
                first=addresses[0] if addresses else None,
                rank=rank,
                size=self.size,
                host=host,
                options={"timeout_s": self._limit_s, **self.variant.options},
            )
            if rank == 0:
                addresses.append(peer.hear(time.monotonic() + self._limit_s)["address"])
        deadline = time.monotonic() + self._limit_s
        addresses += [peer.hear(deadline)["address"] for peer in self.peers[1:]]
        self._ask("connect", addresses=addresses)

    def _spawn(self, rank: int) -> Peer:
        environment = os.environ | {"PYTHONPATH": str(ROOT)}
        python = sys.executable
        if self.variant.impl == "pccl":
            python = str(self._pccl)
            environment["PCCL_PYTHON"] = python
        prefix = self._links.prefix(rank) if self._links else []
        return Peer([*prefix, python, "-m", self.variant.module], environment, self._log)

    def _ask(self, what: str, **arguments: Any) -> list[dict[str, Any]]:
        """Tell all, hear all."""
        for peer in self.peers:
            peer.tell(do=what, **arguments)
        deadline = time.monotonic() + self._limit_s
        return [peer.hear(deadline) for peer in self.peers]


def _meaning(checks: Sequence[Mapping[str, Any]], tolerance: float) -> str:
    """What survivors of a kill hold, in words."""
    bits = "the same bits" if len({check["digest"] for check in checks}) == 1 else "different bits"
    same = f", {bits}" if len(checks) > 1 else ""
    of_all, of_left = ([check["errors"][i] <= tolerance for check in checks] for i in (0, 1))
    if all(of_left):
        return f"mean of the survivors{same}"
    if all(of_all):
        return f"mean of all{same}"
    return f"success reported, but no mean{same}"
