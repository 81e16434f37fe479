"""Sizes, rates and durations as people write them: `4gb`, `10mbit`, `2MB/s`, `2h`, `30min`."""

from __future__ import annotations

import re

from swarm.errors import Code, SwarmError

NUMBER = re.compile(r"\s*(\d+(?:\.\d+)?)\s*([a-z/%]*)\s*")
SIZES = {"": 1, "b": 1, "k": 1e3, "m": 1e6, "g": 1e9, "t": 1e12}
BINARY = {"ki": 2**10, "mi": 2**20, "gi": 2**30, "ti": 2**40}
DURATIONS = {"s": 1, "sec": 1, "m": 60, "min": 60, "h": 3600, "d": 86400}
RATES = {"bit": 1, "kbit": 1e3, "mbit": 1e6, "gbit": 1e9}


def parse_bytes(text: str) -> int:
    """Bytes of `4gb`, `500 MB` or `4GiB`. Raises `CONFIG_INVALID`."""
    number, unit = _split(text, "a size, such as 4gb")
    prefix = unit.removesuffix("b")
    scale = BINARY.get(prefix, SIZES.get(prefix))
    if scale is None:
        raise _invalid(text, "a size, such as 4gb or 500mb")
    return round(number * scale)


def parse_rate(text: str) -> float:
    """Bits per second of `10mbit`, or of `2MB/s`, which is 16 of them. Raises `CONFIG_INVALID`."""
    number, unit = _split(text, "a rate, such as 10mbit")
    unit = unit.removesuffix("/s")
    if unit in RATES:
        return number * RATES[unit]
    if unit.endswith("b") and unit[:-1] in SIZES | BINARY:
        return 8.0 * parse_bytes(f"{number}{unit}")
    raise _invalid(text, "a rate, such as 10mbit or 2MB/s")


def parse_duration(text: str) -> float:
    """Seconds of `90s`, `30min`, `2h` or `1d`. Raises `CONFIG_INVALID`."""
    number, unit = _split(text, "a time, such as 2h")
    if unit not in DURATIONS:
        raise _invalid(text, "a time, such as 30min or 2h")
    return number * DURATIONS[unit]


def parse_share(text: str) -> float:
    """0.6 of `60%`, above 0 and at most 1. Raises `CONFIG_INVALID`."""
    number, unit = _split(text, "a share, such as 60%")
    if unit != "%" or not 0 < number <= 100:
        raise _invalid(text, "a share from 1% to 100%")
    return number / 100


def parse_count(text: str) -> int:
    """A whole number above zero. Raises `CONFIG_INVALID`."""
    if not text.strip().isdecimal() or int(text) < 1:
        raise _invalid(text, "a whole number above zero")
    return int(text)


def _split(text: str, example: str) -> tuple[float, str]:
    match = NUMBER.fullmatch(text.lower())
    if match is None or float(match[1]) <= 0:
        raise _invalid(text, example)
    return float(match[1]), match[2]


def _invalid(text: str, wanted: str) -> SwarmError:
    return SwarmError(Code.CONFIG_INVALID, f"{text!r} is not {wanted}")
