"""Where a node keeps its files, and how its socket is found."""

from __future__ import annotations

import os
import re
import socket
from pathlib import Path

from swarm.errors import Code, SwarmError
from swarm.files import storage_error

PRIVATE_MASK = 0o077  # umask of daemon and worker: what they make is for their user alone
SOCKET_NAME = "node.sock"
PROBE_S = 1.0
SOCKET_PATH_LIMIT = 100  # bytes; sockaddr_un holds 108 on Linux and 104 on macOS


def state_home() -> Path:
    """`$XDG_STATE_HOME/expertswarm`, by default `~/.local/state/expertswarm`."""
    base = os.environ.get("XDG_STATE_HOME", "")
    root = Path(base) if base.startswith("/") else Path.home() / ".local" / "state"
    return root / "expertswarm"


def default_directory(run_name: str) -> Path:
    """Directory of a node of the run `run_name` when the user names none."""
    return state_home() / (re.sub(r"[^\w.-]+", "-", run_name).strip(".-") or "run")


def genesis_path(manifest_path: Path) -> Path:
    """Where a node looks for the weights of a run that begins with a model."""
    return manifest_path.with_suffix(".genesis")


def socket_path(directory: Path) -> Path:
    """Path of the control socket of the node in `directory`.

    Raises `CONFIG_INVALID` when the operating system could not bind so long a path.
    """
    path = directory.absolute() / SOCKET_NAME
    if len(os.fsencode(path)) > SOCKET_PATH_LIMIT:
        raise SwarmError(
            Code.CONFIG_INVALID,
            f"{directory}: too long a path for a socket",
            f"choose a shorter one with --dir (at most {SOCKET_PATH_LIMIT} bytes with its socket)",
        )
    return path


def find_directory(given: Path | None) -> Path:
    """The node directory a command means: the given one, else the only one in use.

    A node that was killed leaves its socket; where there are several, those that answer count.
    Raises `NODE_NOT_RUNNING` when there is none and `USAGE` when there are several.
    """
    if given is not None:
        return given
    found = sorted(path.parent for path in state_home().glob(f"*/{SOCKET_NAME}"))
    if not found:
        raise SwarmError(
            Code.NODE_NOT_RUNNING,
            f"no node is running under {state_home()}",
            "start one with: node start, or name its directory with --dir",
        )
    if len(found) > 1:
        found = [directory for directory in found if _is_served(directory)] or found
    if len(found) > 1:
        names = ", ".join(str(path) for path in found)
        raise SwarmError(Code.USAGE, "several nodes are there", f"choose with --dir: {names}")
    return found[0]


def _is_served(directory: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as probe:
        probe.settimeout(PROBE_S)
        try:
            probe.connect(os.fspath(directory / SOCKET_NAME))
        except OSError:
            return False
    return True


def make_directory(path: Path) -> None:
    """Create a directory and its parents. Raises `DIR_NOT_WRITABLE` or `DISK_FULL`."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise storage_error(path, error) from error
