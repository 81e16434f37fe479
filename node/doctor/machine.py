"""What this machine has: space, memory, devices, versions (it looks, and judges nothing)."""

from __future__ import annotations

import importlib.metadata
import os
import shutil
import tempfile
from pathlib import Path


def free_space(directory: Path) -> tuple[int, str]:
    """Free bytes where `directory` is or would be made, and why nothing can be written there."""
    place = directory.absolute()
    while not place.exists():
        place = place.parent
    try:
        with tempfile.TemporaryFile(dir=place):
            return shutil.disk_usage(place).free, ""
    except OSError as error:
        return 0, f"{place}: {error.strerror}"


def available_memory() -> int:
    """Bytes that programs could still get without swapping; all there is where that is unknown."""
    try:
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return 1024 * int(line.split()[1])
    except OSError:
        pass
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def usable_cores() -> int:
    """Cores that this process may run on."""
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # macOS
        return os.cpu_count() or 1


def installed(package: str) -> str:
    """Its version; empty when it is not there."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return ""
