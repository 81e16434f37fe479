"""Shared by all tests: one torch thread, and no test may leave a process behind."""

from __future__ import annotations

import os
import signal
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import hypothesis
import pytest
import torch

GRACE_S = 5.0
HELPERS = (b"multiprocessing.resource_tracker", b"multiprocessing.forkserver")
MARK = f"EXPERTSWARM_TEST_MARK={uuid.uuid4().hex}"
PROC = Path("/proc")
os.environ.update([MARK.split("=")])
torch.set_num_threads(1)
hypothesis.settings.register_profile("project", deadline=None)  # a busy machine is no failure
hypothesis.settings.load_profile("project")
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # inherited where tests run detached
    signal.signal(signal.SIGINT, signal.default_int_handler)


def process_ids() -> set[int]:
    """Of all processes; needs /proc, finds none where it is missing."""
    return {int(name) for name in os.listdir(PROC) if name.isdigit()} if PROC.exists() else set()


FOREIGN = process_ids()  # those that are here before any test are not read again after each


def marked_processes() -> dict[int, str]:
    """Processes that descend from this one, orphans included: pid -> command line.

    They are known by a variable in their environment.
    """
    found = {}
    for pid in process_ids() - FOREIGN:
        try:
            if MARK.encode() not in (PROC / str(pid) / "environ").read_bytes():
                continue
            command = (PROC / str(pid) / "cmdline").read_bytes().replace(b"\0", b" ").strip()
        except OSError:
            continue
        if command and not any(helper in command for helper in HELPERS):
            found[pid] = command.decode(errors="replace")
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
