"""Recordings: one look in a line of JSON, so that other programs can read them too.

A recording that was cut off, as when its machine lost power, is played up to there.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

from google.protobuf import json_format

from node.dashboard.snapshot import Folder, Snapshot
from swarm.errors import Code, SwarmError
from swarm.files import storage_error
from swarm.wire.node_pb2 import Look

FORMAT = "expertswarm recording 1"


class Recording:
    """Writes looks to a new file, for its user alone; use as a context manager.

    Raises `USAGE` when the file exists, `DIR_NOT_WRITABLE` or `DISK_FULL`.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        except FileExistsError:
            raise SwarmError(Code.USAGE, f"{path} exists", "choose another file name") from None
        except OSError as error:
            raise storage_error(path, error) from error
        self._file = open(descriptor, "w", encoding="utf-8")
        self._write({"format": FORMAT})

    def __enter__(self) -> Recording:
        return self

    def __exit__(self, *exception: object) -> None:
        self._file.close()

    def add(self, look: Look) -> None:
        """Append a look; it is with the operating system when this returns."""
        self._write(json_format.MessageToDict(look, preserving_proto_field_name=True))

    def _write(self, fields: dict[str, object]) -> None:
        try:
            self._file.write(json.dumps(fields, separators=(",", ":")) + "\n")
            self._file.flush()
        except OSError as error:
            raise storage_error(self._path, error) from error


def read_recording(path: Path) -> list[Look]:
    """The looks of a recording, at least one. Raises `USAGE` when it is none."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
        if json.loads(lines[0]).get("format") != FORMAT:
            raise ValueError("it is of another version")
    except (OSError, UnicodeDecodeError, ValueError, LookupError, AttributeError) as error:
        raise _not_one(path, str(error)) from error
    looks = []
    for number, text in enumerate(lines[1:], 2):
        try:
            looks.append(
                json_format.ParseDict(json.loads(text), Look(), ignore_unknown_fields=True)
            )
        except (ValueError, json_format.ParseError) as error:
            if number < len(lines):
                raise _not_one(path, f"line {number}: {error}") from error
    if not looks:
        raise _not_one(path, "nothing is in it")
    return looks


def _not_one(path: Path, why: str) -> SwarmError:
    return SwarmError(
        Code.USAGE, f"{path} is no recording: {why}", "make one: node dashboard --record FILE"
    )


class Player:
    """Snapshots of a recording at any moment."""

    def __init__(self, looks: list[Look]) -> None:
        self._looks = looks
        self._next, self._folder = 1, Folder()
        self._snapshot = self._folder.add(looks[0])

    @property
    def start_ms(self) -> int:
        """Unix time of the first look."""
        return self._looks[0].at_ms

    @property
    def end_ms(self) -> int:
        """Unix time of the last look."""
        return self._looks[-1].at_ms

    def at(self, at_ms: int) -> Snapshot:
        """The snapshot of the last look until `at_ms`, or of the first."""
        if at_ms < self._snapshot.at_ms:
            self._next, self._folder = 1, Folder()
            self._snapshot = self._folder.add(self._looks[0])
        while self._next < len(self._looks) and self._looks[self._next].at_ms <= at_ms:
            self._snapshot = self._folder.add(self._looks[self._next])
            self._next += 1
        return self._snapshot
