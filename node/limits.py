"""What a volunteer allows the node to take: the `[limits]` of node.toml.

    limits = load_limits(directory)
    limits = limits.changed({"hours": "22-07", "upload": "10mbit", "memory": "off"})
    save_limits(directory, limits)
    limits.shown()                      # {"hours": "22-07", "upload": "10mbit"}

Every limit is a text in the file and on the command line, in the same words. What it was parsed to
is a field of `Limits`; 0 and nothing mean that there is no such limit.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import time
from pathlib import Path
from typing import Any

from node.node_toml import LIMITS as SECTION
from node.node_toml import read_section, write_section
from node.units import parse_bytes, parse_count, parse_duration, parse_rate, parse_share
from swarm.errors import Code, SwarmError
from swarm.network.throttle import LEAST_BPS

OFF = "off"
Span = tuple[time, time]


def parse_hours(text: str) -> tuple[Span, ...]:
    """Spans of local time in which training is allowed: `22-07`, `12:30-14,22-07`.

    A span that ends before it begins goes over midnight. Raises `CONFIG_INVALID`.
    """
    spans = []
    for part in text.split(","):
        begin, separator, end = part.partition("-")
        try:
            span = (_time_of_day(begin), _time_of_day(end))
        except ValueError:
            separator = ""
        if not separator or span[0] == span[1]:
            raise SwarmError(
                Code.CONFIG_INVALID, f"{part.strip()!r} is not a span of hours, such as 22-07"
            )
        spans.append(span)
    return tuple(spans)


def _time_of_day(text: str) -> time:
    hour, _, minute = text.strip().partition(":")
    return time(0 if hour == "24" else int(hour), int(minute or 0))


def _parse_speed(text: str) -> float:
    rate_bps = parse_rate(text)
    if rate_bps < LEAST_BPS:
        least = f"{LEAST_BPS / 1000:.0f}kbit"
        raise SwarmError(Code.CONFIG_INVALID, f"{text!r} is too slow, at least {least} is needed")
    return rate_bps


def _parse_yes(text: str) -> bool:
    if text.strip().lower() not in ("yes", "true", "on"):
        raise SwarmError(Code.CONFIG_INVALID, f"{text!r} is neither yes nor off")
    return True


@dataclass(frozen=True, kw_only=True)
class Limits:
    """See the module docstring. `texts` are the limits as they were written, by name."""

    texts: Mapping[str, str] = field(default_factory=dict)
    memory_bytes: int = 0
    """Main memory of the training process."""
    vram_share: float = 0.0
    """Share of the GPU's memory."""
    cpu_threads: int = 0
    upload_bps: float = 0.0
    download_bps: float = 0.0
    """Bits per second of the bulk data, both directions apart."""
    daily_bytes: int = 0
    """Bulk data in a day, both directions together."""
    hours: tuple[Span, ...] = ()
    """When training is allowed, local time."""
    idle_s: float = 0.0
    """Train only when nobody has used the machine for so long."""
    mains: bool = False
    """Train only on mains, not on battery."""
    temperature_c: float = 0.0
    """Train only while no sensor of the processor or GPU is hotter."""

    def changed(self, texts: Mapping[str, str]) -> Limits:
        """With some limits set, or cleared by `off`.

        Raises `CONFIG_UNKNOWN_KEY` with the nearest name, or `CONFIG_INVALID`.
        """
        merged = dict(self.texts)
        for name, text in texts.items():
            if name not in LIMITS:
                raise _unknown(name)
            merged.pop(name, None)
            if text.strip().lower() != OFF:
                merged[name] = text.strip()
        return _parsed(merged)

    def shown(self) -> dict[str, str]:
        """The limits that are set, by name, in the order of `LIMITS`."""
        return {name: self.texts[name] for name in LIMITS if name in self.texts}


@dataclass(frozen=True)
class LimitKind:
    """One limit: the field that it sets, how its text is read, and what help says."""

    field: str
    parse: Callable[[str], Any]
    example: str
    meaning: str


LIMITS = {
    "memory": LimitKind("memory_bytes", parse_bytes, "4gb", "main memory of the training process"),
    "vram": LimitKind("vram_share", parse_share, "60%", "share of the GPU's memory"),
    "cpu-threads": LimitKind("cpu_threads", parse_count, "2", "CPU threads"),
    "upload": LimitKind("upload_bps", _parse_speed, "10mbit", "bulk data sent, per second"),
    "download": LimitKind("download_bps", _parse_speed, "2MB/s", "bulk data received, per second"),
    "daily-traffic": LimitKind("daily_bytes", parse_bytes, "5gb", "bulk data in a day, both ways"),
    "hours": LimitKind("hours", parse_hours, "22-07", "only in these hours, local time"),
    "idle": LimitKind("idle_s", parse_duration, "10min", "only when unused for so long"),
    "mains": LimitKind("mains", _parse_yes, "yes", "only on mains, not on battery"),
    "temperature": LimitKind(
        "temperature_c", lambda text: float(parse_count(text.removesuffix("C"))), "85",
        "only below so many degrees Celsius",
    ),
}  # fmt: skip


def assignment(word: str) -> tuple[str, str]:
    """The name and the text of `NAME=VALUE` on a command line. Raises `USAGE`."""
    name, separator, text = word.partition("=")
    if not separator or not text:
        raise SwarmError(Code.USAGE, f"{word!r} is not NAME=VALUE", "see: node limits --help")
    return name, text


def _parsed(texts: Mapping[str, str]) -> Limits:
    values: dict[str, Any] = {}
    for name, text in texts.items():
        kind = LIMITS[name]
        try:
            values[kind.field] = kind.parse(text)
        except SwarmError as error:
            hint = f"for example: {name}={kind.example}; {name}={OFF} clears it"
            raise SwarmError(error.code, f"{name}: {error.message}", hint) from None
    return replace(Limits(), texts=dict(texts), **values)


def _unknown(name: str) -> SwarmError:
    near = difflib.get_close_matches(name, LIMITS, n=1)
    hint = f"did you mean {near[0]}?" if near else f"known: {', '.join(LIMITS)}"
    return SwarmError(Code.CONFIG_UNKNOWN_KEY, f"there is no limit {name!r}", hint)


def load_limits(directory: Path) -> Limits:
    """The limits of the node in `directory`. Raises as `read_section` and `Limits.changed`."""
    return Limits().changed(read_section(directory, SECTION))


def save_limits(directory: Path, limits: Limits) -> None:
    """Keep them for the next start. Raises as `write_section`."""
    write_section(directory, SECTION, limits.shown())
