"""A peer of `swarm.collective.Communicator`.

Timed is the whole operation: agreement on who takes part, the reduce, and the commit.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from typing import Any

import numpy as np

from allreduce.peer import Driver, serve
from swarm.collective.communicator import Communicator

BUFFER = "buffer"
JOIN_LIMIT = timedelta(seconds=60)


class Ours(Driver):
    """`options`: route "direct" or "tunnel", protection "sealed" or "plain", timeout_s."""

    def start(self, first: Any) -> Any:
        self.communicator = Communicator.open(
            "bench",
            initial_peers=[first] if first else [],
            host=self.host,
            min_peers=self.size,
            route=self.options["route"],
            protection=self.options["protection"],
        )
        return self.communicator.address

    def connect(self, addresses: Sequence[Any]) -> None:
        self.communicator.join().wait(JOIN_LIMIT)

    def reduce(self, codec: str) -> dict[str, Any]:
        limit = timedelta(seconds=self.options["timeout_s"])
        handle = self.communicator.all_reduce({BUFFER: self.data}, codec=codec)
        self.reduced = handle.wait(limit)
        return {"round": self.reduced.round, "missing": sorted(self.reduced.missing.values())}

    def result(self) -> np.ndarray:
        return self.reduced.tensors[BUFFER]

    def forget(self) -> None:
        del self.data, self.reduced


if __name__ == "__main__":
    serve(Ours)
