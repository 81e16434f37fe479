"""TCP sockets of the data plane: options, "host:port", and connecting within a deadline."""

from __future__ import annotations

import ipaddress
import socket
import threading
from contextlib import suppress

from swarm.errors import Code, SwarmError

# Option, value. Dead paths are found by the lanes' own stall limits; these let the kernel drop what
# nobody waits for, and keep the state of home routers alive under an idle lane.
OPTIONS = (
    ("TCP_NODELAY", 1),
    ("TCP_KEEPIDLE", 15),
    ("TCP_KEEPINTVL", 5),
    ("TCP_KEEPCNT", 3),
    ("TCP_USER_TIMEOUT", 60_000),  # ms; above every stall limit, a full reader is no dead one
)


def tune(sock: socket.socket) -> None:
    """Set the options that this system has."""
    with suppress(OSError):
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in OPTIONS:
        if (option := getattr(socket, name, None)) is not None:
            with suppress(OSError):
                sock.setsockopt(socket.IPPROTO_TCP, option, value)


def connect(address: str, limit_s: float) -> socket.socket:
    """A tuned TCP connection to "host:port". Raises `OSError` or `MESSAGE_MALFORMED`."""
    host, port = split_address(address)
    sock = socket.create_connection((_resolve(host, limit_s), port), limit_s)
    tune(sock)
    return sock


def split_address(address: str) -> tuple[str, int]:
    """Host and port of "host:port" or "[v6]:port". Raises `MESSAGE_MALFORMED`."""
    host, _, port = address.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    if not host or not (port.isascii() and port.isdecimal()) or not 0 < int(port) < 2**16:
        raise SwarmError(Code.MESSAGE_MALFORMED, f"{address[:80]!r} is no host:port")
    return host, int(port)


def _resolve(host: str, limit_s: float) -> str:
    """The host's IP address; a name server that does not answer costs `limit_s` and no more."""
    with suppress(ValueError):
        return str(ipaddress.ip_address(host))
    found: list[str] = []

    def look_up() -> None:
        with suppress(OSError, UnicodeError):
            found.append(str(socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)[0][4][0]))

    thread = threading.Thread(target=look_up, name="resolve", daemon=True)
    thread.start()
    thread.join(limit_s)
    if not found:
        raise OSError(f"{host[:80]!r} has no address")
    return found[0]
