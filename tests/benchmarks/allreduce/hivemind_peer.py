"""A peer of hivemind 1.1.12's DecentralizedAverager without compression. Encrypted by libp2p.

The averager reports only whole steps, and a step begins with matchmaking. A subclass notes when the
all-reduce inside of it begins and ends, in the averager's own process. The benchmark counts from
the moment when the last peer began: the cheapest reading. The whole step is in the lines too.
Groups form as soon as `target_group_size` peers met, so the matchmaking time is an upper limit.
"""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Sequence
from typing import Any

import hivemind
import numpy as np
import torch

from allreduce.peer import Driver, serve

MATCHMAKING_S = 3.0
REQUEST_S = 1.0


class TimedAverager(hivemind.DecentralizedAverager):
    """Writes the stamps of the last all-reduce to shared memory: group size, begin, end."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.stamps = multiprocessing.Array("d", 3)
        super().__init__(*args, **kwargs)

    async def _run_allreduce_inplace_(self, tensors: Any, group_info: Any, **kwargs: Any) -> None:
        self.stamps[:] = [group_info.group_size, time.monotonic(), 0.0]
        await super()._run_allreduce_inplace_(tensors, group_info, **kwargs)
        self.stamps[2] = time.monotonic()


class Hivemind(Driver):
    """`options["timeout_s"]`: when a step gives up."""

    averager: TimedAverager | None = None

    def start(self, first: Any) -> Any:
        self.dht = hivemind.DHT(
            initial_peers=first or [],
            host_maddrs=[f"/ip4/{self.host}/tcp/0"],
            start=True,
        )
        return [str(address) for address in self.dht.get_visible_maddrs()]

    def connect(self, addresses: Sequence[Any]) -> None:
        """They met by `initial_peers`."""

    def prepare(self, data: np.ndarray) -> None:
        if self.averager is None or self.averager.total_size != data.size:
            self._make_averager(data.size)
        with self.averager.get_tensors() as (tensor,):
            tensor.copy_(torch.from_numpy(data))

    def _make_averager(self, elements: int) -> None:
        if self.averager is not None:
            self.averager.shutdown()
        self.averager = TimedAverager(
            [torch.zeros(elements)],
            self.dht,
            start=True,
            prefix=f"bench{elements}",
            target_group_size=self.size,
            min_group_size=self.size if self.options["all_or_nothing"] else 2,
            min_matchmaking_time=MATCHMAKING_S,
            request_timeout=REQUEST_S,
            sender_timeout=self.options.get("sender_timeout_s"),
            allow_state_sharing=False,
        )

    def reduce(self, codec: str) -> dict[str, Any]:
        begin = time.monotonic()
        found = self.averager.step(timeout=self.options["timeout_s"])
        end = time.monotonic()
        if not found or len(found) != self.size:
            raise RuntimeError(f"a group of {len(found or [])}")
        _, first, last = self.averager.stamps
        return {"begin": first, "end": last, "step_begin": begin, "step_end": end}

    def result(self) -> np.ndarray:
        with self.averager.get_tensors() as (tensor,):
            return tensor.numpy()

    def forget(self) -> None:
        """The averager keeps its tensor."""


if __name__ == "__main__":
    multiprocessing.set_start_method("fork", force=True)
    serve(Hivemind)
