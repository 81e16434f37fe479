"""Dataclasses as TOML with a comment on every field, and back, with errors that name the field."""

from __future__ import annotations

import dataclasses
import difflib
import json
import typing
from typing import Any, TypeVar

from swarm.config.fields import require
from swarm.errors import Code, SwarmError

T = TypeVar("T")


def toml_fields(part: Any) -> list[str]:
    """Lines of TOML for the fields of a dataclass, each below its comment; without its parts."""
    lines = []
    for f in dataclasses.fields(part):
        value = getattr(part, f.name)
        if dataclasses.is_dataclass(value):
            continue
        if comment := f.metadata.get("doc"):
            lines.append(f"# {comment}")
        lines.append(f"{f.name} = {_toml_value(value)}")
    return lines


def quoted(text: str) -> str:
    """A TOML basic string. JSON's escapes are TOML's, but for halves of characters, and DEL."""
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")


def _toml_value(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return quoted(value)
    if isinstance(value, tuple):
        return f"[{', '.join(_toml_value(item) for item in value)}]"
    return repr(value)


def build(cls: type[T], table: dict[str, Any], prefix: str = "") -> T:
    """A dataclass from nested tables; `prefix` is what its fields are called by in errors.

    Raises `CONFIG_UNKNOWN_KEY`, naming the nearest known key, or `CONFIG_INVALID`.
    """
    hints = typing.get_type_hints(cls)
    names = [f.name for f in dataclasses.fields(cls)]  # type: ignore[arg-type]
    values: dict[str, Any] = {}
    for key, value in table.items():
        if key not in names:
            near = difflib.get_close_matches(key, names, n=1)
            hint = f"did you mean {prefix}{near[0]}?" if near else f"known: {', '.join(names)}"
            raise SwarmError(Code.CONFIG_UNKNOWN_KEY, f"unknown key {prefix}{key}", hint)
        values[key] = _convert(hints[key], value, f"{prefix}{key}")
    return cls(**values)


def _convert(kind: Any, value: Any, name: str) -> Any:
    if dataclasses.is_dataclass(kind):
        require(isinstance(value, dict), name, "must be a table")
        return build(typing.cast(type[Any], kind), value, f"{name}.")
    if kind is float and type(value) is int:
        return float(value)
    if kind == tuple[str, ...]:
        texts = isinstance(value, list) and all(type(item) is str for item in value)
        require(texts, name, f"must be a list of texts, is {value!r}")
        return tuple(value)
    require(type(value) is kind, name, f"must be {kind.__name__}, is {value!r}")
    return value
