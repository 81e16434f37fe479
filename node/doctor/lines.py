"""One line of the doctor's report."""

from __future__ import annotations

import enum
from collections.abc import Iterable
from dataclasses import dataclass

from node.exit_codes import FAILED, OK


class Level(str, enum.Enum):
    """How bad it is."""

    OK = "ok"
    WARNING = "warning"
    FAILURE = "failure"


@dataclass(frozen=True)
class Line:
    """What was checked, how it is, and what to do about it if it is not well."""

    name: str
    level: Level
    message: str
    advice: str = ""


def ok(name: str, message: str) -> Line:
    """All is well."""
    return Line(name, Level.OK, message)


def warning(name: str, message: str, advice: str) -> Line:
    """It works, but not as well as it could; or it could not be checked."""
    return Line(name, Level.WARNING, message, advice)


def failure(name: str, message: str, advice: str) -> Line:
    """It will not work."""
    return Line(name, Level.FAILURE, message, advice)


def exit_code_of(lines: Iterable[Line]) -> int:
    """1 if anything failed; warnings are no failure."""
    return FAILED if any(line.level is Level.FAILURE for line in lines) else OK
