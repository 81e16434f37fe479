"""What the limits depend on, measured on this machine; only what some limit asks for."""

from __future__ import annotations

import functools
import shutil
import subprocess
import time
from collections.abc import Mapping
from itertools import chain
from pathlib import Path
from typing import Any

import psutil

from node.limits import Limits
from node.verdict import Conditions

TERMINALS = ("tty[0-9]*", "pts/[0-9]*")
TOOL_LIMIT_S = 1.0
TOOL_EVERY_S = 1.5
PROCESSOR_SENSORS = ("coretemp", "k10temp", "zenpower", "cpu_thermal", "acpitz", "amdgpu")


def measure(limits: Limits) -> Conditions:
    """The conditions now. Takes up to a second where a tool of the system has to be asked."""
    return Conditions(
        on_mains=on_mains() if limits.mains else None,
        idle_s=idle_seconds(time.time()) if limits.idle_s else None,
        temperature_c=hottest_c() if limits.temperature_c else None,
    )


def on_mains() -> bool | None:
    """Whether the machine runs on mains; None where it has no battery or does not tell."""
    battery = _told("sensors_battery")
    return None if battery is None else bool(battery.power_plugged)


def hottest_c() -> float | None:
    """The hottest sensor of the processor and of NVIDIA GPUs in °C; None where there is none."""
    groups: Mapping[str, Any] = _told("sensors_temperatures") or {}
    found = [s.current for name in PROCESSOR_SENSORS for s in groups.get(name, ())]
    query = ("nvidia-smi", "--query-gpu=temperature.gpu", "--format=csv,noheader,nounits")
    found += [float(line) for line in _output(*query).splitlines() if line.strip().isdecimal()]
    return max(found, default=None)


def idle_seconds(now_s: float, devices: Path = Path("/dev")) -> float | None:
    """Seconds since somebody typed in a terminal, or used the desktop where logind is told of it.

    None where neither can be seen.
    """
    used_s = [_read_s(path) for path in chain(*(devices.glob(p) for p in TERMINALS))]
    facts = dict(line.split("=", 1) for line in _output("loginctl", "show-session").splitlines())
    if facts.get("IdleHint") == "no":
        used_s.append(now_s)
    elif int(facts.get("IdleSinceHint") or 0):
        used_s.append(int(facts["IdleSinceHint"]) / 1e6)
    return max(0.0, now_s - max(used_s)) if used_s else None


def _told(sensor: str) -> Any:
    """What psutil says; None where a sensor is not there, or broken: nobody may stop by it."""
    try:
        return getattr(psutil, sensor, lambda: None)()
    except (OSError, ValueError, RuntimeError):
        return None


def _read_s(path: Path) -> float:
    """When a terminal was read from last; long ago for one that has just gone."""
    try:
        return path.stat().st_atime
    except OSError:
        return 0.0


def _output(*command: str) -> str:
    """What a tool prints, or printed a moment ago: some take half a second of a processor."""
    return _run(command, int(time.monotonic() / TOOL_EVERY_S))


@functools.lru_cache(maxsize=8)
def _run(command: tuple[str, ...], moment: int) -> str:
    """What a tool prints; nothing when it is not there, fails or hangs."""
    if shutil.which(command[0]) is None:
        return ""
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=TOOL_LIMIT_S, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout
