"""A node's log: what it says, in files that are rotated.

with node_log(directory) as report:
    report("STARTING: ...")
reader = LogReader(log_path(directory))
reader.last(20), reader.added()
"""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Callable, Iterator
from logging.handlers import RotatingFileHandler
from pathlib import Path

from node.paths import make_directory
from swarm.files import storage_error

MAX_BYTES = 5 * 10**6
KEPT_FILES = 3  # beside the newest
FORMAT = "%(asctime)s %(message)s"


def log_path(directory: Path) -> Path:
    """What the daemon of the node in `directory` says."""
    return directory / "logs" / "node.log"


def worker_log_path(directory: Path) -> Path:
    """What its training process writes to standard error."""
    return directory / "worker.log"


@contextlib.contextmanager
def node_log(directory: Path) -> Iterator[Callable[[str], None]]:
    """A function that writes a line; warnings of the library go to the same file.

    Raises `DIR_NOT_WRITABLE` or `DISK_FULL`.
    """
    path = log_path(directory)
    make_directory(path.parent)
    try:
        handler = RotatingFileHandler(path, maxBytes=MAX_BYTES, backupCount=KEPT_FILES)
    except OSError as error:
        raise storage_error(path, error) from error
    handler.setFormatter(logging.Formatter(FORMAT))
    log = logging.getLogger("node.log")
    log.propagate = False
    log.setLevel(logging.INFO)
    library = logging.getLogger("swarm")
    for logger in (log, library):
        logger.addHandler(handler)
    try:
        yield log.info
    finally:
        for logger in (log, library):
            logger.removeHandler(handler)
        handler.close()


def set_aside_if_long(path: Path) -> None:
    """Begin a log file anew when it has become long; the old one stays as `<name>.1`."""
    with contextlib.suppress(OSError):
        if path.stat().st_size > MAX_BYTES:
            path.replace(path.with_name(f"{path.name}.1"))


class LogReader:
    """Reads the whole lines of a log file that grows, and the new file after a rotation."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._inode = 0
        self._offset = 0

    def last(self, count: int) -> list[str]:
        """The last lines that are there now; `added` goes on after them."""
        return self.added()[-count:] if count else self.added()[:0]

    def added(self) -> list[str]:
        """Lines since the last call. Raises `DIR_NOT_WRITABLE` when the file can not be read."""
        try:
            with open(self._path, "rb") as file:
                facts = os.fstat(file.fileno())
                if facts.st_ino != self._inode or facts.st_size < self._offset:
                    self._inode, self._offset = facts.st_ino, 0
                file.seek(self._offset)
                data = file.read()
        except FileNotFoundError:
            return []
        except OSError as error:
            raise storage_error(self._path, error) from error
        whole = data[: data.rfind(b"\n") + 1]
        self._offset += len(whole)
        return whole.decode(errors="replace").splitlines()
