"""Shared by all tests: one torch thread, and no test may leave a process behind."""

from __future__ import annotations

import os
import signal
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

GRACE_S = 5.0
HELPERS = (b"multiprocessing.resource_tracker", b"multiprocessing.forkserver")
MARK = f"EXPERTSWARM_TEST_MARK={uuid.uuid4().hex}"
os.environ.update([MARK.split("=")])
torch.set_num_threads(1)
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # inherited where tests run detached
    signal.signal(signal.SIGINT, signal.default_int_handler)


def marked_processes() -> dict[int, str]:
    """Processes that descend from this one, orphans included: pid -> command line.

    They are known by a variable in their environment; needs /proc, finds none where it is missing.
    """
    found = {}
    for entry in Path("/proc").glob("[0-9]*"):
        if int(entry.name) == os.getpid():
            continue
        try:
            if MARK.encode() not in (entry / "environ").read_bytes():
                continue
            command = (entry / "cmdline").read_bytes().replace(b"\0", b" ").strip()
        except OSError:
            continue
        if command and not any(helper in command for helper in HELPERS):
            found[int(entry.name)] = command.decode(errors="replace")
    return found


@pytest.fixture(autouse=True)
def no_process_is_left_behind() -> Iterator[None]:
    """Fail the test that leaves a process running, and end that process."""
    before = set(marked_processes())
    yield
    deadline = time.monotonic() + GRACE_S
    while (left := {p: c for p, c in marked_processes().items() if p not in before}) and (
        time.monotonic() < deadline
    ):
        time.sleep(0.05)
    for pid in left:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue
    if left:
        pytest.fail(f"processes left behind: {left}")
