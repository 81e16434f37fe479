"""Where one p2pd listens: its TCP port, and the private directory of its Unix sockets."""

from __future__ import annotations

import asyncio
import os
import secrets
import socket
import time
from contextlib import suppress
from datetime import timedelta
from pathlib import Path

from swarm.errors import Code, SwarmError

PORT_WAIT = timedelta(seconds=1)
SOCKET_ROOT = Path("/tmp")  # Unix socket paths must be short: 104 bytes on macOS


async def wait_for_port(host: str, port: int, timeout: timedelta = PORT_WAIT) -> None:
    """Wait until `port` can be bound: a p2pd whose node was killed takes some milliseconds to go.

    p2pd itself listens with SO_REUSEPORT, so two nodes on one port would both start and share
    the connections at random. Raises `PORT_IN_USE`.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    deadline = time.monotonic() + timeout.total_seconds()
    while True:
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((host, port))
            except OSError as error:
                if time.monotonic() > deadline:
                    raise port_in_use(host, port, error.strerror or str(error)) from error
            else:
                return
        await asyncio.sleep(0.02)


def port_in_use(host: str, port: int, reason: str) -> SwarmError:
    """A `PORT_IN_USE` error."""
    return SwarmError(
        Code.PORT_IN_USE,
        f"can not listen on {host} port {port}: {reason}",
        f"see who has it with: ss -ltnp 'sport = :{port}', or choose another port",
    )


def make_socket_dir() -> Path:
    """A new private directory for the sockets of one p2pd; those of dead owners are removed."""
    prefix = f"expertswarm-{os.getuid()}-"
    for path in SOCKET_ROOT.glob(f"{prefix}*"):
        if _is_stale(path, path.name[len(prefix) :].partition("-")[0]):
            remove_socket_dir(path)
    while True:
        path = SOCKET_ROOT / f"{prefix}{os.getpid()}-{secrets.token_hex(3)}"
        with suppress(FileExistsError):
            path.mkdir(mode=0o700)
            return path


def remove_socket_dir(path: Path) -> None:
    """Remove the directory and its sockets, as far as they are ours."""
    with suppress(OSError):
        for entry in path.iterdir():
            entry.unlink(missing_ok=True)
        path.rmdir()


def _is_stale(path: Path, owner_pid: str) -> bool:
    """Whether the owner is gone. Process ids mean nothing between containers that share /tmp, so
    nobody must be listening any more either."""
    if path.is_symlink() or _process_exists(owner_pid):
        return False
    for entry in path.glob("*.sock"):
        with socket.socket(socket.AF_UNIX) as probe, suppress(OSError):
            probe.connect(str(entry))
            return False
    return True


def _process_exists(pid: str) -> bool:
    try:
        os.kill(int(pid), 0)
    except (ValueError, ProcessLookupError):
        return False
    except PermissionError:
        pass
    return True
