"""A TCP connection between two peers that are each behind a router: both call at the same moment.

    source = Source.bind("0.0.0.0")               # a port that was never used
    plane.seen_from(source, record, limit)        # how the router shows it to a public peer
    sock = await meet(source, "11.7.0.102:40001", limit)

Both routers let in only whom their own side has called. So the two exchange the addresses of their
ports (`Punch`, by a relay) and call each other: the packet of the first one is dropped by the
other's router, but has opened its own, and the packet of the second one comes through. The kernel
makes one connection of two calls that meet (RFC 9293, 3.5: simultaneous open).

libp2p's own punching dials from the port on which it listens. There the other's packet may find the
listener instead of a call, and the half-open connection that this leaves blocks the port for 63 s.
A port of its own for each try has no listener and no past.
"""

from __future__ import annotations

import asyncio
import errno
import os
import socket
import struct
import time
from contextlib import suppress
from datetime import timedelta
from typing import Protocol

from swarm.errors import Code, SwarmError
from swarm.network.sockets import split_address, tune

CALL_AGAIN_S = 0.1  # after a refusal: some routers refuse what they do not know yet
ENDED = struct.pack("ii", 1, 0)  # SO_LINGER: end at once, which leaves no trace in the port
# The other's call is not out yet, or this one's earlier one is not quite gone.
PASSING = (errno.ECONNREFUSED, errno.ECONNRESET, errno.EADDRNOTAVAIL, errno.EADDRINUSE)


class Closable(Protocol):
    """A connection of some kind."""

    def close(self) -> None:
        """End it."""
        ...


class Source:
    """A local port from which several connections go out; nobody listens on it."""

    def __init__(self, host: str, port: int, holder: Closable) -> None:
        self.port = port
        self._host = host
        self._kept: list[Closable] = [holder]

    @classmethod
    def bind(cls, host: str) -> Source:
        """Take a free port of `host`. Raises `OSError`."""
        sock = _bound(host, 0)
        return cls(host, sock.getsockname()[1], sock)

    def new_socket(self) -> socket.socket:
        """A new socket on the port; the caller closes it. Raises `OSError`."""
        return _bound(self._host, self.port)

    def connect(self, address: str, limit_s: float) -> socket.socket:
        """A tuned connection to "host:port"; blocking. Raises `OSError` or `MESSAGE_MALFORMED`."""
        sock = self.new_socket()
        try:
            sock.settimeout(limit_s)
            sock.connect(split_address(address))
        except BaseException:
            sock.close()
            raise
        tune(sock)
        return sock

    def keep(self, connection: Closable) -> None:
        """Hold a connection until `close`: as long the router keeps the port's mapping."""
        self._kept.append(connection)

    def close(self) -> None:
        """Let go of the port."""
        for connection in self._kept:
            connection.close()
        self._kept = []


def _bound(host: str, port: int) -> socket.socket:
    sock = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind((host, port))
    except BaseException:
        sock.close()
        raise
    return sock


def end(sock: socket.socket) -> None:
    """Close a connection without the minute in which its ports stay taken."""
    with suppress(OSError):
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, ENDED)
    sock.close()


async def meet(source: Source, address: str, limit: timedelta) -> socket.socket:
    """Call "host:port" until it calls too; a connected, blocking socket.

    Raises `PEER_UNREACHABLE` when they have not met within the limit.
    """
    target = split_address(address)
    deadline_s = time.monotonic() + limit.total_seconds()
    reason = "no answer"
    while (left_s := deadline_s - time.monotonic()) > 0:
        try:
            return await _call(source, target, left_s)
        except asyncio.TimeoutError:
            break
        except OSError as error:
            reason = os.strerror(error.errno) if error.errno else str(error)
            if error.errno not in PASSING:
                break
        await asyncio.sleep(CALL_AGAIN_S)
    raise SwarmError(Code.PEER_UNREACHABLE, f"{address}: {reason}")


async def _call(source: Source, target: tuple[str, int], limit_s: float) -> socket.socket:
    loop = asyncio.get_running_loop()
    sock = source.new_socket()
    try:
        sock.setblocking(False)
        connecting = asyncio.ensure_future(loop.sock_connect(sock, target))
        done, _ = await asyncio.wait([connecting], timeout=limit_s)
        if not done:
            connecting.cancel()
            await asyncio.wait([connecting])
            raise asyncio.TimeoutError
        connecting.result()
    except BaseException:
        end(sock)
        raise
    sock.setblocking(True)
    tune(sock)
    return sock
