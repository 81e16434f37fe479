"""Network namespaces by name: threads and processes in them, and why there are none here."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import os
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Coroutine, Iterable, Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Any, TypeVar

NAMES = Path("/run/netns")
STATE = Path("/run/expertswarm-nat")  # of all labs of this machine; root's own
CLONE_NEWNET = 0x40000000
T = TypeVar("T")
_libc = ctypes.CDLL(None, use_errno=True)


def missing() -> str:
    """Why there can be no lab on this machine; empty if there can."""
    for program in ("ip", "nft", "tc", "cc"):
        if shutil.which(program) is None:
            return f"`{program}` is not installed"
    if not Path("/dev/net/tun").exists():
        return "there is no /dev/net/tun"
    name = f"natless-{os.getpid()}"
    made = subprocess.run(["ip", "netns", "add", name], capture_output=True, text=True)
    if made.returncode:
        return f"network namespaces can not be made: {made.stderr.strip()}"
    try:
        rules = "add table ip t\nadd chain ip t c { type nat hook postrouting priority 100; }\n"
        command = ["ip", "netns", "exec", name, "nft", "-f", "-"]
        nft = subprocess.run(command, input=rules, capture_output=True, text=True)
        return f"the kernel has no nft NAT: {nft.stderr.strip()}" if nft.returncode else ""
    finally:
        subprocess.run(["ip", "netns", "del", name], check=True)


@contextlib.contextmanager
def inside(name: str) -> Iterator[None]:
    """Put the calling thread, and what it starts, into a namespace; sockets stay where made."""
    back = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
    try:
        there = os.open(NAMES / name, os.O_RDONLY)
        try:
            _enter(there)
        finally:
            os.close(there)
        try:
            yield
        finally:
            _enter(back)
    finally:
        os.close(back)


def _enter(descriptor: int) -> None:
    # os.setns came with Python 3.12.
    if _libc.setns(descriptor, CLONE_NEWNET) != 0:
        raise OSError(ctypes.get_errno(), "setns")


class NamespaceLoop:
    """An asyncio event loop in a thread of its own inside a namespace.

    What runs in it, the processes and threads that it starts included, has its sockets there: so
    one test can hold peers behind many routers. Unix sockets cross namespaces.
    """

    def __init__(self, name: str) -> None:
        self.loop = asyncio.new_event_loop()
        self._name = name
        entered: Future[None] = Future()
        self._thread = threading.Thread(target=self._live, args=(entered,), name=name, daemon=True)
        self._thread.start()
        entered.result(10)

    def run(self, work: Coroutine[Any, Any, T], limit_s: float = 60.0) -> T:
        """Run a coroutine there and wait for its result."""
        return self.start(work).result(limit_s)

    def start(self, work: Coroutine[Any, Any, T]) -> Future[T]:
        """Run a coroutine there; does not wait."""
        return asyncio.run_coroutine_threadsafe(work, self.loop)

    def call(self, function: Callable[..., T], *arguments: Any, limit_s: float = 60.0) -> T:
        """Run a blocking function in a thread there and wait for its result."""
        return self.run(asyncio.to_thread(function, *arguments), limit_s)

    def cancel(self) -> None:
        """Cancel whatever runs in the loop."""
        self.run(_cancel_others(), 10)

    def close(self) -> None:
        """Cancel whatever runs in the loop, and end it."""
        self.cancel()
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join(10)
        self.loop.close()

    def _live(self, entered: Future[None]) -> None:
        asyncio.set_event_loop(self.loop)
        try:
            with inside(self._name):
                self.loop.call_soon(entered.set_result, None)
                self.loop.run_forever()
        except OSError as error:
            entered.set_exception(error)


async def _cancel_others() -> None:
    others = asyncio.all_tasks() - {asyncio.current_task()}
    for task in others:
        task.cancel()
    await asyncio.gather(*others, return_exceptions=True)


def processes_in(names: Iterable[str]) -> list[int]:
    """Processes with a thread that began in one of the namespaces, but for this process."""
    inodes = {(NAMES / name).stat().st_ino for name in names}
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if (entry / "ns/net").stat().st_ino in inodes and int(entry.name) != os.getpid():
                found.append(int(entry.name))
    return found


def end(pids: Iterable[int], grace_s: float = 2.0) -> None:
    """SIGTERM to processes, SIGKILL after `grace_s`; returns when they are gone."""
    left, killing_at_s = list(pids), time.monotonic() + grace_s
    sent = signal.SIGTERM
    while left:
        for pid in left:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, sent)
        time.sleep(0.02)
        left = [pid for pid in left if lives(pid)]
        sent = signal.SIGKILL if time.monotonic() > killing_at_s else signal.SIGTERM


def lives(pid: int) -> bool:
    """Whether a process runs; a dead one that nobody has waited for does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def batch(lines: Iterable[str], namespace: str = "") -> None:
    """Give lines to `ip -batch`, in a namespace or outside."""
    where = ["-n", namespace] if namespace else []
    checked(["ip", *where, "-batch", "-"], "\n".join(lines) + "\n")


def checked(command: list[str], stdin: str = "") -> str:
    """Run a command; its output. Raises `RuntimeError` with what it said if it fails."""
    done = subprocess.run(command, input=stdin, capture_output=True, text=True, timeout=30)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}: {done.stderr.strip()}\n{stdin}")
    return done.stdout
