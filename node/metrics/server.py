"""HTTP for monitoring: `/metrics` and `/healthz`, read-only, for as long as a block lasts.

A thread of its own answers, so that a slow scraper never holds up the daemon; it asks the daemon's
loop for the status, so that what it says is consistent.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import TimeoutError as FutureTimeoutError
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from node.control_server import StatusSource
from node.daemon_status import State
from node.metrics.families import CONTENT_TYPE, openmetrics
from swarm.errors import Code, SwarmError
from swarm.wire.node_pb2 import StatusReply

ANSWER_LIMIT_S = 5.0
MOST_CLIENTS = 16
POLL_S = 0.05  # longest that the end of the server holds up the daemon
UNHEALTHY = (State.FINISHING.value, State.STOPPED.value)


class Source:
    """Asks the daemon, from any thread."""

    def __init__(self, snapshot: StatusSource) -> None:
        self._snapshot = snapshot
        self._loop = asyncio.get_running_loop()

    def status(self) -> StatusReply | None:
        """The node's status; None when it does not answer in `ANSWER_LIMIT_S`."""

        async def ask() -> StatusReply:
            return await self._snapshot()

        asked = asyncio.run_coroutine_threadsafe(ask(), self._loop)
        try:
            return asked.result(ANSWER_LIMIT_S)
        except FutureTimeoutError:
            asked.cancel()
            return None


def health(status: StatusReply | None) -> tuple[HTTPStatus, dict[str, object]]:
    """Whether the node runs as it should. One that waits for others is healthy; it says so."""
    if status is None:
        return HTTPStatus.SERVICE_UNAVAILABLE, {"healthy": False, "reason": "no answer"}
    healthy = status.state not in UNHEALTHY
    facts = {"healthy": healthy, "state": status.state, "reason": status.reason}
    code = HTTPStatus.OK if healthy else HTTPStatus.SERVICE_UNAVAILABLE
    return code, {**facts, "round": status.round, "company": status.company}


class Handler(BaseHTTPRequestHandler):
    """Answers GET; `server` is a `_Server`."""

    server: _Server
    timeout = ANSWER_LIMIT_S  # of a client that sends nothing

    def do_GET(self) -> None:
        """Called by the server for each request."""
        path = self.path.partition("?")[0]
        if path not in ("/metrics", "/healthz"):
            self._answer(HTTPStatus.NOT_FOUND, "text/plain", b"/metrics or /healthz\n")
            return
        status = self.server.source.status()
        if path == "/healthz":
            code, facts = health(status)
            self._answer(code, "application/json", json.dumps(facts).encode() + b"\n")
        elif status is None:
            self._answer(HTTPStatus.SERVICE_UNAVAILABLE, "text/plain", b"no answer\n")
        else:
            self._answer(HTTPStatus.OK, CONTENT_TYPE, openmetrics(status))

    def _answer(self, code: HTTPStatus, kind: str, body: bytes) -> None:
        self.send_response(code)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Requests are not worth a line."""


class _Server(ThreadingHTTPServer):
    """Closes at once what comes while `MOST_CLIENTS` are being answered: each costs a thread."""

    daemon_threads = True

    def __init__(self, address: tuple[str, int], source: Source) -> None:
        self.source = source
        self._free = threading.Semaphore(MOST_CLIENTS)
        super().__init__(address, Handler)

    def process_request(self, request: Any, client_address: Any) -> None:
        """Called by the server for each connection."""
        if self._free.acquire(blocking=False):
            super().process_request(request, client_address)
        else:
            self.shutdown_request(request)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        """Called in the connection's thread."""
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._free.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that hangs up is no news; all else goes to standard error."""
        if not isinstance(sys.exc_info()[1], OSError):
            super().handle_error(request, client_address)


@contextlib.contextmanager
def metrics_server(
    address: tuple[str, int] | None, snapshot: StatusSource, report: Callable[[str], None]
) -> Iterator[None]:
    """Serve on `address` (host, port; 0 is any free one) and report where; None: serve nothing.

    To be entered in the loop that `snapshot` belongs to. Raises `PORT_IN_USE`.
    """
    if address is None:
        yield
        return
    try:
        server = _Server(address, Source(snapshot))
    except OSError as error:
        raise SwarmError(
            Code.PORT_IN_USE,
            f"--metrics-port: {address[0]}:{address[1]}: {error.strerror or error}",
            "choose another port, or 0 for any free one",
        ) from error
    thread = threading.Thread(
        target=server.serve_forever, args=(POLL_S,), name="metrics", daemon=True
    )
    thread.start()
    report(f"metrics: http://{address[0]}:{server.server_address[1]}/metrics")
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()
