"""Writing files so that a crash leaves the old content or the new, never a part of it."""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
from pathlib import Path

from swarm.errors import Code, SwarmError


def storage_error(path: Path, error: OSError) -> SwarmError:
    """The typed error for a failed write: `DISK_FULL` or `DIR_NOT_WRITABLE`."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return SwarmError(Code.DISK_FULL, f"{path}: {error.strerror}", "free some space")
    hint = "choose another directory with --dir, or change its owner or permissions"
    return SwarmError(Code.DIR_NOT_WRITABLE, f"{path}: {error.strerror or error}", hint)


def _sync_directory(directory: Path) -> None:
    """Make a rename survive a power cut."""
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_file(path: Path) -> None:
    """Make a file that was written without `sync` survive a power cut. Raises as `write_atomic`."""
    try:
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        _sync_directory(path.parent)
    except OSError as error:
        raise storage_error(path, error) from error


def write_atomic(
    path: Path, data: bytes | memoryview, *, sync: bool = True, over: Path | None = None
) -> None:
    """Write `data` to a temporary file beside `path`, sync it, and rename it over `path`.

    Without `sync` a power cut may leave neither content. `over`: a file beside `path` that nobody
    needs any more, which becomes the temporary one. To write over its pages and blocks costs less
    than half of making new ones and removing these.

    Who may read it is up to the process's umask, as with any new file.
    Raises `DISK_FULL` or `DIR_NOT_WRITABLE`; the temporary file is removed then.
    """
    temporary = over or path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(temporary, "r+b" if over else "xb") as file:
            file.write(data)
            file.truncate()
            file.flush()
            if sync:
                os.fsync(file.fileno())
        os.replace(temporary, path)
        if sync:
            _sync_directory(path.parent)
    except OSError as error:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise storage_error(path, error) from error
