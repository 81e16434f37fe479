"""How much memory there is to train in, as measured here.

On a CPU the daemon's copies of the fragments (parameters, momentum, the shadow and the generation
before, updates) lie in the same memory as the model, and take twice as much.
"""

from __future__ import annotations

import os
from pathlib import Path

MEMINFO = Path("/proc/meminfo")
GROUP_FILES = (  # limit and use of this control group, versions 2 and 1
    (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory.current")),
    (
        Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"),
        Path("/sys/fs/cgroup/memory/memory.usage_in_bytes"),
    ),
)
WORKER_SHARE = 1 / 3  # of the main memory, where model and daemon share it


def free_bytes(meminfo: Path = MEMINFO) -> int:
    """Main memory that a process can still get; 0 where the system does not say."""
    try:
        lines = dict(line.split(":", 1) for line in meminfo.read_text().splitlines())
        free = int(lines["MemAvailable"].split()[0]) * 1024
    except (OSError, KeyError, ValueError):
        try:
            free = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
        except (ValueError, OSError):
            return 0
    left = [_group_left(limit, used) for limit, used in GROUP_FILES]
    return max(0, min([free, *(size for size in left if size is not None)]))


def _group_left(limit: Path, used: Path) -> int | None:
    try:
        return int(limit.read_text()) - int(used.read_text())
    except (OSError, ValueError):  # none, or "max"
        return None


def training_bytes(device: str, limit_bytes: int = 0, vram_share: float = 0.0) -> int:
    """Memory for model and optimizer on a device ("cpu", "cuda:0", "mps"); 0 = not known.

    At most `limit_bytes` of main memory, or `vram_share` of a GPU's; 0 is no limit.
    """
    if device.startswith("cuda"):
        import torch

        free, total = torch.cuda.mem_get_info(torch.device(device))
        return min(int(free), int((vram_share or 1.0) * total))
    share = int(WORKER_SHARE * free_bytes())
    return min(share, limit_bytes) if limit_bytes else share
