"""What the two programs set up in their own process before anything heavy is imported."""

from __future__ import annotations

import os
import platform
import subprocess
import sys

import pytest

LIMIT_S = 60

FAILED_HANDSHAKE = """
import sys, types

def run_command_line(arguments):
    import contextlib, socket, time
    from swarm.identity import Identity
    from swarm.network.data_plane import DataPlane
    plane = DataPlane(Identity.generate(), bytes(32))
    host, _, port = plane.start("127.0.0.1", 0).rpartition(":")
    with socket.create_connection((host, int(port))) as connection:
        connection.sendall(b"this is not TLS" * 10)
        with contextlib.suppress(ConnectionError):
            while connection.recv(4096):  # until the server hangs up
                pass
    time.sleep(0.2)
    plane.stop()
    return 0

sys.modules["node.cli"] = types.SimpleNamespace(run_command_line=run_command_line)
from node.__main__ import main
main()
"""

PAGE_FAULTS = """
import resource, sys
from node.worker import keep_freed_memory
if sys.argv[1] == "tuned":
    keep_freed_memory()
import numpy as np

def step():
    arrays = [np.ones(2**20, np.float32) for _ in range(8)]
    return sum(float(a[0]) for a in arrays)

step()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(10):
    step()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""

THREADS = """
import os, sys, types

def run_command_line(arguments):
    import numpy as np
    np.ones(10**6) @ np.ones(10**6)
    print(len(os.listdir("/proc/self/task")))
    return 0

if sys.argv[1] == "plain":
    run_command_line([])
else:
    sys.modules["node.cli"] = types.SimpleNamespace(run_command_line=run_command_line)
    from node.__main__ import main
    main()
"""
QUIETING = ("GRPC_VERBOSITY", "OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS")


def python(code: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {k: v for k, v in os.environ.items() if k not in QUIETING}
    return subprocess.run(
        [sys.executable, "-c", code, *arguments],
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
        env=environment,
    )


def test_a_failed_handshake_is_not_printed_by_the_node_program() -> None:
    ended = python(FAILED_HANDSHAKE)
    assert (ended.returncode, ended.stderr) == (0, "")


@pytest.mark.skipif(
    not os.path.isdir("/proc/self/task") or len(os.sched_getaffinity(0)) == 1,
    reason="no threads to be seen",
)
def test_numpy_starts_no_threads_in_the_node_program() -> None:
    threads = {name: int(python(THREADS, name).stdout) for name in ("plain", "node")}
    assert threads["node"] == 1 < threads["plain"], threads


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="mallopt is glibc's")
def test_the_worker_does_not_fault_in_its_memory_again_in_each_step() -> None:
    faults = {name: int(python(PAGE_FAULTS, name).stdout) for name in ("plain", "tuned")}
    assert faults["tuned"] < 200 < faults["plain"], faults
