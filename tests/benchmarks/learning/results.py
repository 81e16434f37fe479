"""The file of results: JSON lines, one for each arm and seed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

Line = dict[str, Any]


def read_lines(path: Path) -> list[Line]:
    """All lines; none when there is no file."""
    text = path.read_text(encoding="utf-8") if path.exists() else ""
    return [json.loads(line) for line in text.splitlines()]


def append_line(path: Path, line: Line) -> None:
    """Add a line at the end, in one write."""
    with open(path, "a", encoding="utf-8") as file:
        file.write(json.dumps(line) + "\n")
