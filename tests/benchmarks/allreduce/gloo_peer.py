"""A peer of torch.distributed with gloo: all_reduce SUM in place, then a division. Plain TCP."""

from __future__ import annotations

import os
import socket
from collections.abc import Sequence
from datetime import timedelta
from typing import Any

import numpy as np
import torch
import torch.distributed as dist

from allreduce.peer import Driver, serve


class Gloo(Driver):
    """`options["timeout_s"]`: the process group's timeout."""

    def start(self, first: Any) -> Any:
        if self.rank != 0:
            return None
        with socket.create_server((self.host, 0)) as server:
            return f"{self.host}:{server.getsockname()[1]}"

    def connect(self, addresses: Sequence[Any]) -> None:
        os.environ["GLOO_SOCKET_IFNAME"] = "lo" if self.host.startswith("127.") else "eth0"
        dist.init_process_group(
            "gloo",
            init_method=f"tcp://{addresses[0]}",
            rank=self.rank,
            world_size=self.size,
            timeout=timedelta(seconds=self.options["timeout_s"]),
        )

    def prepare(self, data: np.ndarray) -> None:
        self.tensor = torch.from_numpy(data)

    def reduce(self, codec: str) -> dict[str, Any]:
        dist.all_reduce(self.tensor)
        self.tensor.div_(self.size)
        return {}

    def result(self) -> np.ndarray:
        return self.tensor.numpy()

    def forget(self) -> None:
        del self.tensor


if __name__ == "__main__":
    serve(Gloo)
