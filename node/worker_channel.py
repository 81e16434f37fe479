"""The worker's end of the socket to its daemon."""

from __future__ import annotations

import contextlib
import os
import queue
import random
import socket
import threading
from pathlib import Path
from typing import Any

from node.worker_protocol import HEADER, Message, body_bytes, decode, encode
from swarm.errors import SwarmError


def keep_to_cpus(count: int) -> None:
    """Let all threads of this process run on `count` CPUs only; 0 is all of the daemon's.

    Nothing happens where the system can not do that.
    """
    if not hasattr(os, "sched_setaffinity"):
        return
    cpus = list(os.sched_getaffinity(os.getppid()))
    if 0 < count < len(cpus):  # not the same ones for every node of a machine
        cpus = random.sample(cpus, count)
    for thread in Path("/proc/self/task").iterdir():
        with contextlib.suppress(OSError):  # it has just ended
            os.sched_setaffinity(int(thread.name), cpus)


class Channel:
    """Blocking messages over a socket; a thread reads them and ends the process on EOF."""

    def __init__(self, connection: socket.socket) -> None:
        self.connection = connection
        self.requests: queue.SimpleQueue[Message] = queue.SimpleQueue()
        self.request_id: Any = None
        self._finish_id: Any = None
        self._arrivals: queue.SimpleQueue[Message] = queue.SimpleQueue()
        self._adjustment: Message | None = None
        self._stopping = False
        threading.Thread(target=self._read, name="requests", daemon=True).start()

    def next_request(self) -> Message:
        """Wait for the next request and make it the one that `send` answers."""
        request = self.requests.get()
        self.request_id = request.get("id")
        return request

    def told_to_finish(self) -> bool:
        """True when the daemon wants the current request to end early."""
        return self._stopping or (
            self.request_id is not None and self._finish_id == self.request_id
        )

    def arrival(self, round_number: int, wait_s: float) -> Message | None:
        """What the daemon said of the commit that `round_number` follows, if it came in time."""
        try:
            while True:
                message = (
                    self._arrivals.get(timeout=wait_s) if wait_s else self._arrivals.get(False)
                )
                if message["round"] == round_number:
                    return message
        except queue.Empty:
            return None

    def adjustment(self) -> Message | None:
        """What the worker may take from now on, if the daemon said something new."""
        message, self._adjustment = self._adjustment, None
        return message

    def send(self, message: Message) -> None:
        """Answer the current request."""
        try:
            self.connection.sendall(encode({"id": self.request_id, **message}))
        except OSError:
            os._exit(0)  # the daemon is gone

    def _read(self) -> None:
        try:
            while True:
                message = decode(self._exactly(body_bytes(self._exactly(HEADER.size))))
                if message["type"] == "finish":
                    self._finish_id = message.get("id")
                    continue
                if message["type"] == "arrive":
                    self._arrivals.put(message)
                    continue
                if message["type"] == "adjust":
                    keep_to_cpus(message["cpus"])  # also in the middle of a long step
                    self._adjustment = message
                    continue
                self._stopping = self._stopping or message["type"] == "stop"
                self.requests.put(message)
        except (OSError, EOFError, SwarmError):
            os._exit(0)  # not sys.exit: the main thread may be deep inside a step

    def _exactly(self, count: int) -> bytes:
        data = b""
        while len(data) < count:
            piece = self.connection.recv(count - len(data))
            if not piece:
                raise EOFError
            data += piece
        return data
