"""A peer of PCCL 1.0.0 (AVG, in its own Python, see pccl_root.sh); rank 0 also runs the master.

After a lost connection the peer calls again with those who are left, as PCCL's guide asks for.
"""

from __future__ import annotations

import os
import socket
import subprocess
import time
from collections.abc import Sequence
from typing import Any

import numpy as np

from allreduce.peer import Driver, serve

MASTER = """
import sys, time
import pccl
master = pccl.MasterNode(listen_address=sys.argv[1])
master.run()
print("running", flush=True)
sys.stdin.read()
"""


class Pccl(Driver):
    """Codecs: fp32, and uint8 (its ZERO_POINT_SCALE quantization, the faster of its two)."""

    def start(self, first: Any) -> Any:
        if self.rank != 0:
            return None
        with socket.create_server((self.host, 0)) as server:
            address = f"{self.host}:{server.getsockname()[1]}"
        self.master = subprocess.Popen(
            [os.environ["PCCL_PYTHON"], "-c", MASTER, address],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        assert self.master.stdout is not None
        self.master.stdout.readline()
        return address

    def connect(self, addresses: Sequence[Any]) -> None:
        import pccl

        self.communicator = pccl.Communicator(addresses[0], 0)
        self.communicator.connect(n_attempts=15)
        while self._world() < self.size:
            if self.communicator.are_peers_pending():
                self.communicator.update_topology()
            time.sleep(0.01)

    def _world(self) -> int:
        import pccl

        return int(self.communicator.get_attribute(pccl.Attribute.GLOBAL_WORLD_SIZE))

    def prepare(self, data: np.ndarray) -> None:
        self.data = data
        self.mean = np.zeros_like(data)

    def reduce(self, codec: str) -> dict[str, Any]:
        import pccl

        options = None
        if codec == "uint8":
            options = pccl.QuantizationOptions(
                pccl.DataType.UINT8, pccl.QuantizationAlgorithm.ZERO_POINT_SCALE
            )
        while True:
            try:
                self.communicator.all_reduce(
                    self.data, self.mean, op=pccl.ReduceOp.AVG, quantization_options=options
                )
                return {}
            except pccl.PCCLError:
                if self._world() < 2:
                    raise

    def result(self) -> np.ndarray:
        return self.mean

    def forget(self) -> None:
        del self.data, self.mean


if __name__ == "__main__":
    serve(Pccl)
