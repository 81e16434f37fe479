"""The worker process: serves its daemon; what it is asked for is in `worker_training`.

    python -m node.worker --fd SOCKET --memory-fd MEMORY      # started by `worker_link`

It ends at once when the socket closes, even in the middle of a step, so that it never outlives its
daemon. It ignores SIGINT: on Ctrl-C the daemon decides how to stop. Library imports that load
torch come after the thread that watches the socket has started, as they take seconds.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import os
import signal
import socket
import traceback
from pathlib import Path
from typing import TYPE_CHECKING

from node.paths import PRIVATE_MASK
from node.worker_channel import Channel
from node.worker_protocol import Message
from swarm.errors import Code, SwarmError

if TYPE_CHECKING:
    from node.worker_training import WorkerTraining

M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_THRESHOLD = -1, -2, -3  # of malloc.h; arguments are bytes


class Worker:
    """Answers requests one by one; a failed request is answered by an error, the worker lives."""

    def __init__(self, channel: Channel, memory_fd: int) -> None:
        self._channel = channel
        self._memory_fd = memory_fd
        self._training: WorkerTraining | None = None

    def run(self) -> None:
        """Serve until `stop`."""
        handlers = {"init": self._init, "train": self._train, "save": self._save}
        while (request := self._channel.next_request())["type"] != "stop":
            try:
                handlers[request["type"]](request)
            except SwarmError as error:
                self._send_error(error.code, error.message, error.hint)
            except Exception as error:
                # A defect or an exhausted machine: tell the daemon, keep the trace in the log.
                with contextlib.suppress(OSError):  # the disk may be what is exhausted
                    traceback.print_exc()
                self._send_error(
                    Code.INTERNAL, f"{type(error).__name__}: {error}", "see worker.log"
                )

    def _send_error(self, code: Code, message: str, hint: str) -> None:
        self._channel.send({"type": "error", "code": code.value, "message": message, "hint": hint})

    def _init(self, request: Message) -> None:
        from node.worker_training import WorkerTraining

        self._training = WorkerTraining(request, self._channel, self._memory_fd)
        self._channel.send(self._training.ready())

    def _train(self, request: Message) -> None:
        if self._training is None:
            raise SwarmError(Code.INTERNAL, "the worker was asked to train before init")
        self._training.train(request)

    def _save(self, request: Message) -> None:
        if self._training is not None:
            self._training.save()
        self._channel.send({"type": "saved"})


def _volunteer_for_the_oom_killer() -> None:
    """When memory runs out, losing the worker costs a restart; losing the daemon, the peer."""
    try:
        Path("/proc/self/oom_score_adj").write_text("300")
    except OSError:
        pass


def keep_freed_memory() -> None:
    """Let malloc reuse the memory that it has, instead of asking the system for it in each step.

    glibc gives large tensors back to the system when they are freed and faults them in again page
    by page in the next step; with these limits a step has next to no page faults and is 3 to 7 %
    faster (measured on CPU). It must come before torch allocates; other C libraries are left alone.
    """
    libc = ctypes.CDLL(None)
    if hasattr(libc, "gnu_get_libc_version"):
        libc.mallopt(M_MMAP_THRESHOLD, 1 << 25)
        libc.mallopt(M_TRIM_THRESHOLD, 1 << 30)
        libc.mallopt(M_TOP_PAD, 1 << 28)


def main(arguments: list[str] | None = None) -> int:
    """Serve the daemon at the other end of `--fd` until it says stop or is gone."""
    parser = argparse.ArgumentParser(prog="node.worker", description=__doc__)
    parser.add_argument("--fd", type=int, required=True, help="inherited socket of the daemon")
    parser.add_argument("--memory-fd", type=int, required=True, help="inherited shared memory")
    options = parser.parse_args(arguments)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.umask(PRIVATE_MASK)
    keep_freed_memory()
    _volunteer_for_the_oom_killer()
    Worker(Channel(socket.socket(fileno=options.fd)), options.memory_fd).run()
    return 0


if __name__ == "__main__":
    code = main()
    # All is saved that is to be saved, and taking down torch's modules takes most of a second.
    os._exit(code)
