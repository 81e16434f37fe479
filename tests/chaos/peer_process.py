"""The test's handle of a `ChaosPeer` process: its commands, what it says, its life and death."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from chaos_peer import Setup, peer_main
from faults import children_of, thaw

LIMIT_S = 60.0  # for one answer of a process; a hang is an error, not a wait
processes = multiprocessing.get_context("forkserver")
processes.set_forkserver_preload(
    [
        "swarm.collective.join",
        "swarm.network.data_plane",
        "swarm.network.p2p",
        "swarm.simulation.swarm",
    ]
)


class PeerProcess:
    """The test's handle of one process.

    Attributes:
        inbox: what it said and nobody has taken yet.
    """

    def __init__(self, setup: Setup) -> None:
        self.setup = setup
        self.inbox: list[dict[str, Any]] = []
        self.connection, theirs = processes.Pipe()
        self.process = processes.Process(target=peer_main, args=(theirs, setup), daemon=True)
        self.process.start()
        theirs.close()
        self.started_at = time.monotonic()
        self.me = ""
        self.address = ""
        self.pause_s = 0.0  # between the rounds when it runs freely
        self.pending = 0  # number of the reply that a fault interrupted
        self.joining = False  # it is that to "join", else to "round"
        self._number = 0

    # ---- messages -------------------------------------------------------------------------

    def pump(self, timeout_s: float = 0.0) -> None:
        """Take in what it says within `timeout_s`, and whatever more is there then."""
        with contextlib.suppress(EOFError, OSError):
            while self.connection.poll(timeout_s):
                self.inbox.append(self.connection.recv())
                timeout_s = 0.0

    def wait_for(
        self, wanted: Callable[[dict[str, Any]], bool], what: str, limit_s: float = LIMIT_S
    ) -> dict[str, Any]:
        """The first message that is `wanted`; it is taken out of the inbox."""
        deadline = time.monotonic() + limit_s
        while True:
            for message in self.inbox:
                if wanted(message):
                    self.inbox.remove(message)
                    return message
            left = deadline - time.monotonic()
            assert left > 0, f"{self.name} did not say in {limit_s:g} s: {what}"
            self.pump(min(left, 0.2))

    def wait_started(self) -> None:
        started = self.wait_for(lambda m: m["kind"] == "started", "started")
        self.me, self.address = started["me"], started["address"]

    def wait_started_and_live(self) -> None:
        """Let it run freely from its start on."""
        self.wait_started()
        self.send("live", self.pause_s)

    def send(self, command: str, *arguments: Any) -> int:
        """Give a command; returns the number of its reply."""
        self._number += 1
        self.connection.send((self._number, command, arguments))
        return self._number

    def reply(self, number: int, limit_s: float = LIMIT_S) -> dict[str, Any]:
        """The reply to a command: "code" is OK with "result", or an error's."""
        return self.wait_for(
            lambda m: m["kind"] == "reply" and m["number"] == number, f"reply {number}", limit_s
        )

    def ask(self, command: str, *arguments: Any, limit_s: float = LIMIT_S) -> Any:
        """Give a command and return its result."""
        reply = self.reply(self.send(command, *arguments), limit_s)
        assert reply["code"] == "OK", (self.name, command, reply)
        return reply["result"]

    def adopted_at(self, round_index: int) -> float | None:
        """When it adopted the commit of a round (monotonic), as far as it has said so."""
        self.pump()
        for message in self.inbox:
            if message["kind"] == "adopted" and message["round"] == round_index:
                return float(message["at"])
        return None

    @property
    def name(self) -> str:
        return f"{self.setup.directory.name} {self.me[-6:]}"

    # ---- life and death -------------------------------------------------------------------

    @property
    def alive(self) -> bool:
        return self.process.is_alive()

    def kill(self) -> None:
        """SIGKILL from outside, frozen or not."""
        self.process.kill()
        self.process.join(10)

    def stop(self, frozen: bool = False) -> None:
        """SIGSTOP from outside, with its p2pd when `frozen`."""
        for child in children_of(self.process.pid or 0) if frozen else []:
            os.kill(child, signal.SIGSTOP)
        os.kill(self.process.pid or 0, signal.SIGSTOP)

    def thaw(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            thaw(self.process.pid or 0)

    def close(self, deadline: float) -> None:
        """End it in good order until `deadline` (monotonic), then by force."""
        self.thaw()
        with contextlib.suppress(OSError):
            self.send("stop")
        self.process.join(max(0.0, deadline - time.monotonic()))
        if self.alive:
            self.kill()
        self.connection.close()


def stories_of(peers: Iterable[PeerProcess], began: float, last_s: float = 60.0) -> str:
    """What each living peer said and noticed in the last seconds, for the account of a failure."""
    lines = []
    for peer in peers:
        peer.thaw()
        lines.append(f"-- {peer.name}")
        with contextlib.suppress(AssertionError, OSError):
            story = peer.ask("trouble", limit_s=5.0)
            recent = time.monotonic() - last_s
            lines += [f"{at - began:8.2f} {text}" for at, text in story if at > recent]
    return "\n".join(lines)


def processes_of_this_session(grace_s: float = 5.0) -> dict[int, str]:
    """p2pd and peer processes that descend from this test session and are still there.

    They are known by the variable that tests/conftest.py puts into their environment.
    """
    mark = f"EXPERTSWARM_TEST_MARK={os.environ.get('EXPERTSWARM_TEST_MARK', '')}".encode()
    deadline = time.monotonic() + grace_s
    while True:
        found = {}
        for entry in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                command = (entry / "cmdline").read_bytes().replace(b"\0", b" ")
                if b"p2pd" in command and mark in (entry / "environ").read_bytes():
                    found[int(entry.name)] = command.decode(errors="replace")
        if not found or time.monotonic() > deadline:
            return found
        time.sleep(0.05)
