"""node.toml in a node's directory: what its volunteer chose, all of it texts.

[node]                  # what `node start` was told; the next start need not be told again
data = "/home/ann/law"
domain = "law"

[limits]                # see node/limits.py
hours = "22-07"
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path

from swarm.config.text import quoted
from swarm.errors import Code, SwarmError
from swarm.files import write_atomic

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

FILE_NAME = "node.toml"
NODE, LIMITS = "node", "limits"
HEADER = "# Written by `node start` and `node limits set`.\n"
Section = dict[str, str]


def read_section(directory: Path, name: str) -> Section:
    """A section; empty where there is none. Raises `CONFIG_UNREADABLE` or `CONFIG_UNKNOWN_KEY`."""
    return _read(directory).get(name, {})


def write_section(directory: Path, name: str, values: Mapping[str, str]) -> None:
    """Write a section anew and leave the other one. Raises as `read_section` and `write_atomic`."""
    sections = {**_read(directory), name: dict(values)}
    text = HEADER
    for section in (NODE, LIMITS):
        lines = [f"{key} = {quoted(value)}\n" for key, value in sections.get(section, {}).items()]
        text += f"\n[{section}]\n{''.join(lines)}" if lines else ""
    write_atomic(directory / FILE_NAME, text.encode())


def _read(directory: Path) -> dict[str, Section]:
    path = directory / FILE_NAME
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise SwarmError(
            Code.CONFIG_UNREADABLE, f"{path}: {error}", "correct or remove the file"
        ) from error
    unknown = [key for key in table if key not in (NODE, LIMITS)]
    unknown += [key for key, value in table.items() if not isinstance(value, dict)]
    if unknown:
        raise SwarmError(
            Code.CONFIG_UNKNOWN_KEY, f"{path}: {unknown[0]}", f"known: [{NODE}] and [{LIMITS}]"
        )
    return {name: {k: _text(v) for k, v in section.items()} for name, section in table.items()}


def _text(value: object) -> str:
    """A TOML value as on the command line."""
    return str(value) if not isinstance(value, bool) else "yes" if value else "off"
