"""What the volunteer asked for by command, kept for the next start: a reboot ends no pause.

save_wish(directory, Wish(paused=True, until=tomorrow))
load_wish(directory)
"""

from __future__ import annotations

import json
from datetime import datetime
from pathlib import Path

from node.verdict import Wish
from swarm.files import storage_error, write_atomic

FILE_NAME = "pause.json"


def load_wish(directory: Path) -> Wish:
    """The wish that was saved last. A file that can not be read is a pause for good."""
    try:
        content = json.loads((directory / FILE_NAME).read_text(encoding="utf-8"))
        until = content["until"]
        return Wish(paused=True, until=None if until is None else datetime.fromtimestamp(until))
    except FileNotFoundError:
        return Wish()
    except (OSError, ValueError, KeyError, TypeError, OverflowError):
        return Wish(paused=True)  # a machine must not be taken by surprise


def save_wish(directory: Path, wish: Wish) -> None:
    """Keep a wish; on disk when it returns. Raises `DISK_FULL` or `DIR_NOT_WRITABLE`."""
    path = directory / FILE_NAME
    if wish.paused:
        # Seconds since 1970: local time means another moment after the clock's zone has changed.
        until = None if wish.until is None else wish.until.timestamp()
        write_atomic(path, json.dumps({"until": until}).encode())
        return
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        raise storage_error(path, error) from error
