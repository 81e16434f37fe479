"""What this machine itself knows of its connections, and what it finds at another's port."""

from __future__ import annotations

import asyncio
import socket
import sys
from collections.abc import Iterable
from contextlib import suppress
from datetime import timedelta
from pathlib import Path

from swarm.aio import in_time

# Where Linux lists the TCP connections of the network namespace of this thread.
TCP_TABLE = Path("/proc/thread-self/net/tcp")
BANNER = b"\x13/multistream/1.0.0\n"  # a libp2p listener speaks first
PORT_WAIT = timedelta(seconds=2)


def local_host_towards(host: str) -> str:
    """Own IP address on the way to `host`, or "" without a way. Nothing is sent."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with suppress(OSError), socket.socket(family, socket.SOCK_DGRAM) as sock:
        sock.connect((host, 9))
        return str(sock.getsockname()[0])
    return ""


def local_port_towards(host: str, port: int) -> int | None:
    """Own port of the TCP connection to `host`:`port`; None where the system does not say."""
    with suppress(OSError, ValueError):
        address = int.from_bytes(socket.inet_aton(host), sys.byteorder)
        wanted = f"{address:08X}:{port:04X}"
        for line in TCP_TABLE.read_text().splitlines()[1:]:
            fields = line.split()
            if fields[2] == wanted and fields[3] == "01":  # established
                return int(fields[1].rpartition(":")[2], 16)
    return None


async def libp2p_ports(host: str, ports: Iterable[int], limit: timedelta = PORT_WAIT) -> list[int]:
    """The ports at which a libp2p peer answers a new connection."""
    tried = sorted(set(ports))
    found = await asyncio.gather(*(_speaks_libp2p(host, port, limit) for port in tried))
    return [port for port, answered in zip(tried, found, strict=True) if answered]


async def _speaks_libp2p(host: str, port: int, limit: timedelta) -> bool:
    async def look() -> bool:
        reader, writer = await asyncio.open_connection(host, port)
        try:
            return await reader.readexactly(len(BANNER)) == BANNER
        finally:
            writer.close()

    try:
        return await in_time(look(), limit.total_seconds())
    except (OSError, asyncio.TimeoutError, asyncio.IncompleteReadError):
        return False
