"""The accepting half of the data plane: listens, admits within limits, serves lanes in threads.

    server = LaneServer(handshake, service, idle_limit)
    address = server.start("0.0.0.0", 0)
    server.accept_tunnel(peer, sock)
    server.stop()

Everything that a stranger can hold is bounded: connections that have not authenticated (a new one
pushes out the oldest, so a flood of silent ones does not shut out a peer, whose handshake takes
milliseconds), lanes of one peer and of all. A new lane pushes out the longest idle one, or, where
all are at work, one of the peer that has the most, if that is more than any needs.
"""

from __future__ import annotations

import logging
import selectors
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta

from swarm.errors import Code, SwarmError
from swarm.network.calls import CallService
from swarm.network.framing import SocketLane
from swarm.network.handshake import Admit, Handshake
from swarm.network.sockets import tune

logger = logging.getLogger(__name__)

HANDSHAKE_LIMIT = timedelta(seconds=5)
MAX_HALF_OPEN = 64
MAX_LANES = 256
MAX_LANES_PER_PEER = 32
ENOUGH_LANES = 8  # for what a peer does at once; lanes beyond it have no right to stay
BACKLOG = 128
STOP_WAIT = timedelta(seconds=1)
Accept = Callable[[socket.socket, Admit, float], SocketLane]


class LaneServer:
    """See the module docstring."""

    def __init__(self, handshake: Handshake, service: CallService, idle_limit: timedelta) -> None:
        self._handshake = handshake
        self._service = service
        self._idle_limit = idle_limit
        self._lock = threading.Lock()
        self._half_open: dict[socket.socket, None] = {}  # oldest first
        self._admitted: dict[str, int] = {}  # lanes of each peer, those being opened included
        self._lanes: set[SocketLane] = set()
        self._threads: set[threading.Thread] = set()
        self._wake: socket.socket | None = None  # closing it ends the accepting thread
        self._stopped = False

    def start(self, host: str, port: int) -> str:
        """Listen; returns "host:port". Raises `PORT_IN_USE`."""
        shown = f"[{host}]" if ":" in host else host
        listener = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((host, port))
            listener.listen(BACKLOG)
        except OSError as error:
            listener.close()
            raise SwarmError(
                Code.PORT_IN_USE,
                f"data plane can not listen on {shown}:{port}: {error.strerror or error}",
                "choose another port, or 0 for any free one",
            ) from error
        listener.setblocking(False)
        self._wake, woken = socket.socketpair()
        self._spawn("lanes-accept", lambda: self._accept_all(listener, woken))
        return f"{shown}:{listener.getsockname()[1]}"

    def accept_tunnel(self, peer: str, sock: socket.socket) -> None:
        """Serve a libp2p stream that `peer`, whom libp2p has authenticated, has opened."""

        def accept(sock: socket.socket, admit: Admit, deadline_s: float) -> SocketLane:
            return self._handshake.accept_tunnel(sock, peer, admit, deadline_s)

        self._welcome(sock, accept)

    def tunnelled(self) -> set[str]:
        """Peers whose calls are being served through a tunnel."""
        with self._lock:
            return {
                lane.peer
                for lane in self._lanes
                if lane.path == "tunnel" and lane.idle_since_s is None
            }

    def stop(self) -> None:
        """Stop listening, end all lanes, and wait a moment for their threads."""
        with self._lock:
            self._stopped = True
            half_open, lanes, threads = (
                list(self._half_open),
                list(self._lanes),
                list(self._threads),
            )
            wake, self._wake = self._wake, None
        if wake is not None:
            wake.close()
        for sock in half_open:
            _shut(sock)
        for lane in lanes:
            lane.cancel()
        deadline_s = time.monotonic() + STOP_WAIT.total_seconds()
        for thread in threads:
            thread.join(max(0.0, deadline_s - time.monotonic()))

    # ---- accepting ------------------------------------------------------------------------

    def _accept_all(self, listener: socket.socket, woken: socket.socket) -> None:
        with listener, woken, selectors.DefaultSelector() as selector:
            selector.register(listener, selectors.EVENT_READ)
            selector.register(woken, selectors.EVENT_READ)
            while all(key.fileobj is listener for key, _ in selector.select()):
                try:
                    sock, _ = listener.accept()
                except (BlockingIOError, ConnectionError):
                    continue
                except OSError as error:  # out of file descriptors: let some go first
                    logger.warning("can not accept a lane: %s", error)
                    self._make_room()
                    time.sleep(0.1)
                    continue
                tune(sock)
                with suppress(OSError):  # it may be gone already
                    tls = self._handshake.server_tls.wrap_socket(
                        sock, server_side=True, do_handshake_on_connect=False
                    )
                    self._welcome(tls, self._handshake.accept_direct)

    def _welcome(self, sock: socket.socket, accept: Accept) -> None:
        with self._lock:
            if self._stopped:
                sock.close()
                return
            while len(self._half_open) >= MAX_HALF_OPEN:
                oldest = next(iter(self._half_open))
                del self._half_open[oldest]
                _shut(oldest)
            self._half_open[sock] = None
        try:
            self._spawn("lane", lambda: self._serve(sock, accept))
        except RuntimeError as error:  # the system gives no more threads
            logger.warning("can not serve a lane: %s", error)
            with self._lock:
                self._half_open.pop(sock, None)
            sock.close()

    def _make_room(self) -> None:
        with self._lock:
            if self._half_open:
                _shut(next(iter(self._half_open)))
            else:
                _end_longest_idle(self._lanes)

    def _spawn(self, name: str, work: Callable[[], None]) -> None:
        def run() -> None:
            try:
                work()
            finally:
                with self._lock:
                    self._threads.discard(thread)

        thread = threading.Thread(target=run, name=name, daemon=True)
        with self._lock:
            thread.start()
            self._threads.add(thread)

    # ---- serving --------------------------------------------------------------------------

    def _serve(self, sock: socket.socket, accept: Accept) -> None:
        admitted: list[str] = []

        def admit(peer: str) -> None:
            self._admit(peer)
            admitted.append(peer)

        try:
            try:
                deadline_s = time.monotonic() + HANDSHAKE_LIMIT.total_seconds()
                lane = accept(sock, admit, deadline_s)
            except SwarmError as error:
                if error.code is not Code.PEER_UNREACHABLE:
                    self._service.refuse(error)
                logger.info("refused a lane: %s", error)
                return
            finally:
                with self._lock:
                    self._half_open.pop(sock, None)
            self._serve_lane(lane)
        finally:
            with self._lock:
                for peer in admitted:
                    self._admitted[peer] -= 1
                    if not self._admitted[peer]:
                        del self._admitted[peer]

    def _serve_lane(self, lane: SocketLane) -> None:
        with self._lock:
            self._lanes.add(lane)
            if self._stopped:
                lane.cancel()
        try:
            self._service.serve(lane, self._idle_limit)
        finally:
            with self._lock:
                self._lanes.discard(lane)

    def _admit(self, peer: str) -> None:
        """Make room for one more lane of `peer`. Raises `PEER_REFUSED` when all are at work."""
        with self._lock:
            if self._admitted.get(peer, 0) >= MAX_LANES_PER_PEER:
                room = _end_longest_idle({lane for lane in self._lanes if lane.peer == peer})
            elif sum(self._admitted.values()) >= MAX_LANES:
                room = _end_longest_idle(self._lanes) or self._end_one_of_the_greediest()
            else:
                room = True
            if not room:
                raise SwarmError(Code.PEER_REFUSED, "no room for another lane")
            self._admitted[peer] = self._admitted.get(peer, 0) + 1

    def _end_one_of_the_greediest(self) -> bool:
        """Many lanes that are busy for ever, but slow, must not keep everybody else out."""
        lanes = Counter(lane.peer for lane in self._lanes)
        greediest, count = max(lanes.items(), key=lambda item: (item[1], item[0]), default=("", 0))
        if count <= ENOUGH_LANES:
            return False
        lane = next(lane for lane in self._lanes if lane.peer == greediest)
        self._lanes.discard(lane)  # its thread may take a while: the next one takes another lane
        lane.cancel()
        return True


def _end_longest_idle(lanes: set[SocketLane]) -> bool:
    """End the lane that has waited longest for a call; whether there was one."""
    idle = [lane for lane in lanes if lane.idle_since_s is not None]
    if not idle:
        return False
    longest = min(idle, key=lambda lane: lane.idle_since_s or 0.0)
    longest.idle_since_s = None
    longest.cancel()
    return True


def _shut(sock: socket.socket) -> None:
    with suppress(OSError):  # not SSLSocket.shutdown: that one goes on without TLS
        socket.socket.shutdown(sock, socket.SHUT_RDWR)
