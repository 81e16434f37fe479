"""The worker's end of the socket to its daemon."""

from __future__ import annotations

import os
import queue
import socket
import threading
from typing import Any

from node.worker_protocol import HEADER, Message, body_bytes, decode, encode
from swarm.errors import SwarmError


class Channel:
    """Blocking messages over a socket; a thread reads them and ends the process on EOF."""

    def __init__(self, connection: socket.socket) -> None:
        self.connection = connection
        self.requests: queue.SimpleQueue[Message] = queue.SimpleQueue()
        self.request_id: Any = None
        self._finish_id: Any = None
        self._arrivals: queue.SimpleQueue[Message] = queue.SimpleQueue()
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
