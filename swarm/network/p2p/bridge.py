"""Lets p2pd talk over connections that it did not make itself.

    bridges = Bridges()
    bridges.to_listener(sock, ("127.0.0.1", 4700))      # the other side's p2pd dials this one's
    async with bridges.offer(sock) as address:          # p2pd is to dial this multiaddr
        ...
    bridges.far_address("/ip4/127.0.0.1/tcp/40123")     # whom p2pd really talks to there

p2pd sees a connection on loopback; authentication and encryption are its own as anywhere.
"""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

from swarm.network.addresses import to_multiaddr
from swarm.network.punching import end
from swarm.network.sockets import tune

BUFFER_BYTES = 2**18
DIAL_WAIT_S = 2.0
LOOPBACK = "127.0.0.1"


class Bridges:
    """The bridges of one p2pd; to be used in the event loop."""

    def __init__(self) -> None:
        self._far: dict[int, str] = {}  # by the local port that p2pd sees
        self._sockets: set[socket.socket] = set()
        self._lock = threading.Lock()
        self._closed = False

    def far_address(self, address: str) -> str:
        """The multiaddr behind one that p2pd names, or the same if it is no bridge's."""
        parts = address.split("/")
        if len(parts) < 5 or parts[2] != LOOPBACK or not parts[4].isdecimal():
            return address
        return self._far.get(int(parts[4]), address)

    def to_listener(self, sock: socket.socket, listener: tuple[str, int]) -> None:
        """Connect a far peer to where p2pd listens; takes over `sock`. Raises `OSError`."""
        near = socket.socket(socket.AF_INET6 if ":" in listener[0] else socket.AF_INET)
        try:
            near.settimeout(DIAL_WAIT_S)
            near.bind((LOOPBACK, 0))  # so that the port is known before p2pd sees it
            port = near.getsockname()[1]
            self._far[port] = _multiaddr_of(sock)
            near.connect(listener)
        except BaseException:
            self._far.pop(near.getsockname()[1], None)
            near.close()
            end(sock)
            raise
        self._join(near, sock, port)

    @asynccontextmanager
    async def offer(self, sock: socket.socket) -> AsyncIterator[str]:
        """A multiaddr behind which the far peer is, for one call; takes over `sock`."""
        loop = asyncio.get_running_loop()
        listener = socket.socket(socket.AF_INET)
        listener.setblocking(False)
        listener.bind((LOOPBACK, 0))
        listener.listen(1)
        port = listener.getsockname()[1]
        self._far[port] = _multiaddr_of(sock)
        taking = asyncio.ensure_future(loop.sock_accept(listener))
        joined = False

        def join(accepted: asyncio.Future[tuple[socket.socket, object]]) -> None:
            nonlocal joined
            if not accepted.cancelled() and accepted.exception() is None:
                joined = True
                self._join(accepted.result()[0], sock, port)

        taking.add_done_callback(join)
        try:
            yield f"/ip4/{LOOPBACK}/tcp/{port}"
        finally:
            taking.cancel()
            await asyncio.gather(taking, return_exceptions=True)
            listener.close()
            if not joined:
                self._far.pop(port, None)
                end(sock)

    def close(self) -> None:
        """End all bridges."""
        with self._lock:
            self._closed = True
            open_ = list(self._sockets)
        for sock in open_:
            _shut(sock)

    def _join(self, near: socket.socket, far: socket.socket, port: int) -> None:
        for sock in (near, far):
            tune(sock)
            sock.setblocking(True)
        with self._lock:
            self._sockets |= {near, far}
            if self._closed:
                _shut(near)
        threading.Thread(
            target=self._carry, args=(near, far, port), name="bridge", daemon=True
        ).start()

    def _carry(self, near: socket.socket, far: socket.socket, port: int) -> None:
        back = threading.Thread(target=_pump, args=(far, near), name="bridge-in", daemon=True)
        back.start()
        _pump(near, far)
        back.join()
        near.close()
        end(far)
        self._far.pop(port, None)
        with self._lock:
            self._sockets -= {near, far}


def _pump(source: socket.socket, target: socket.socket) -> None:
    """Carry bytes until one side ends; then end both."""
    buffer = memoryview(bytearray(BUFFER_BYTES))
    with suppress(OSError):
        while size := source.recv_into(buffer):
            target.sendall(buffer[:size])
    _shut(source)
    _shut(target)


def _shut(sock: socket.socket) -> None:
    with suppress(OSError):
        sock.shutdown(socket.SHUT_RDWR)


def _multiaddr_of(sock: socket.socket) -> str:
    host, port = sock.getpeername()[:2]
    return to_multiaddr(host, port)
