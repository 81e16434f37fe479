"""Fragments shared by the daemon and the worker: one anonymous file mapped by both processes.

Per fragment there are two flat fp32 regions: `theta`, the parameters that a round starts from
(written by the daemon), and `delta`, base minus local (written by the worker). The file has no
name, so nothing is left on disk whatever kills the processes.
"""

from __future__ import annotations

import mmap
import os
import tempfile
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from swarm.errors import Code, SwarmError
from swarm.model.fragments import FragmentLayout

F32 = npt.NDArray[np.float32]
ALIGNMENT_BYTES = 64


@dataclass(frozen=True)
class SharedBuffers:
    """Views of the shared memory by fragment name; `fd` goes to the worker process."""

    fd: int
    theta: dict[str, F32]
    delta: dict[str, F32]

    @classmethod
    def create(cls, layout: FragmentLayout) -> SharedBuffers:
        """New zeroed buffers; memory is taken when a region is first touched."""
        fd = _anonymous_file()
        os.ftruncate(fd, _total_bytes(layout))
        return cls._map(fd, layout)

    @classmethod
    def attach(cls, fd: int, layout: FragmentLayout) -> SharedBuffers:
        """The buffers behind an inherited `fd`. Raises `INTERNAL` if made for another layout."""
        size = os.fstat(fd).st_size
        if size != _total_bytes(layout):
            raise SwarmError(
                Code.INTERNAL, f"shared memory has {size} bytes, not {_total_bytes(layout)}"
            )
        return cls._map(fd, layout)

    @classmethod
    def _map(cls, fd: int, layout: FragmentLayout) -> SharedBuffers:
        memory = mmap.mmap(fd, _total_bytes(layout))
        views: list[dict[str, F32]] = []
        start = 0
        for _ in ("theta", "delta"):
            region = {}
            for name in layout.names:
                count = layout.numel(name)
                region[name] = np.frombuffer(memory, np.float32, count, start)
                start += _padded_bytes(count)
            views.append(region)
        return cls(fd, *views)

    def close(self) -> None:
        """Close the file and drop the views; the memory goes when the last view is gone."""
        os.close(self.fd)
        self.theta.clear()
        self.delta.clear()


def _padded_bytes(count: int) -> int:
    return -(-4 * count // ALIGNMENT_BYTES) * ALIGNMENT_BYTES


def _total_bytes(layout: FragmentLayout) -> int:
    return 2 * sum(_padded_bytes(layout.numel(name)) for name in layout.names)


def _anonymous_file() -> int:
    if hasattr(os, "memfd_create"):
        return os.memfd_create("expertswarm-fragments", os.MFD_CLOEXEC)
    with tempfile.TemporaryFile(prefix="expertswarm-") as file:  # unlinked as soon as it is made
        return os.dup(file.fileno())
