"""One peer's process of any implementation: takes commands from stdin, answers on stdout, in JSON.

    class Gloo(Driver): ...
    if __name__ == "__main__":
        serve(Gloo)

`group.py` sends, in this order: start, connect, then any number of prepare, reduce, check. Needs
numpy only, so that it runs in PCCL's own Python too. What a library prints goes to stderr.

The input of a peer is one MiB of noise per (rank, repeat), repeated with a growing factor: so the
true mean is known everywhere without anybody's data, and a piece in the wrong place is seen.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
import time
import traceback
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

BLOCK = 2**18  # elements: 1 MiB of fp32


class Driver(ABC):
    """What an implementation does. Arrays are float32, one dimension, mib * 2**18 elements."""

    def __init__(self, rank: int, size: int, host: str, options: dict[str, Any]) -> None:
        self.rank, self.size, self.host, self.options = rank, size, host, options

    @abstractmethod
    def start(self, first: Any) -> Any:
        """Begin to listen. `first` is what rank 0 returned (None for rank 0 itself)."""

    @abstractmethod
    def connect(self, addresses: Sequence[Any]) -> None:
        """All have started; `addresses` is what they returned, by rank. Meet them."""

    def prepare(self, data: np.ndarray) -> None:
        """Take what is to be averaged; not timed."""
        self.data = data

    @abstractmethod
    def reduce(self, codec: str) -> dict[str, Any]:
        """Average, this is timed. Returns more for the answer, for example other stamps."""

    @abstractmethod
    def result(self) -> np.ndarray:
        """What the last `reduce` gave."""

    @abstractmethod
    def forget(self) -> None:
        """Drop data and result, to leave the memory to the others."""


def noise(rank: int, repeat: int) -> np.ndarray:
    """The first MiB of a peer's input."""
    return np.random.default_rng([rank, repeat]).standard_normal(BLOCK).astype(np.float32)


def factor(block: int, blocks: int) -> np.float32:
    """What the block-th MiB is multiplied by."""
    return np.float32(1 + block / blocks)


def buffer_of(rank: int, repeat: int, mib: int) -> np.ndarray:
    """A peer's whole input."""
    data, block = np.empty((mib, BLOCK), np.float32), noise(rank, repeat)
    for index in range(mib):
        np.multiply(block, factor(index, mib), out=data[index])
    return data.ravel()


def largest_error(result: np.ndarray, members: Sequence[int], repeat: int) -> float:
    """The largest distance from the mean of the members' inputs; infinite for what is no number."""
    blocks = result.reshape(-1, BLOCK)
    mean = np.mean([noise(rank, repeat) for rank in members], axis=0, dtype=np.float64)
    mean = mean.astype(np.float32)
    worst = 0.0
    for index, block in enumerate(blocks):
        error = float(np.abs(block - mean * factor(index, len(blocks))).max())
        worst = max(worst, error if np.isfinite(error) else np.inf)
    return worst


def serve(make: Callable[..., Driver]) -> None:
    """Answer commands until stdin ends; then leave at once, whatever threads are left."""
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    driver: Driver | None = None
    repeat = 0
    for line in sys.stdin:
        command = json.loads(line)
        answer: dict[str, Any] = {}
        try:
            match command.pop("do"):
                case "start":
                    first = command.pop("first")
                    driver = make(**command)
                    answer["address"] = driver.start(first)
                case "connect":
                    driver.connect(command["addresses"])
                case "prepare":
                    repeat = command["repeat"]
                    driver.prepare(buffer_of(driver.rank, repeat, command["mib"]))
                case "reduce":
                    answer["begin"] = time.monotonic()
                    answer |= driver.reduce(command["codec"])
                    answer.setdefault("end", time.monotonic())
                case "check":
                    answer["errors"] = [
                        largest_error(driver.result(), members, repeat)
                        for members in command["members"]
                    ]
                    answer["digest"] = hashlib.sha256(driver.result()).hexdigest()
                    driver.forget()
        except Exception as error:
            traceback.print_exc()
            answer |= {"failed": f"{type(error).__name__}: {error}"[:200], "end": time.monotonic()}
        print(json.dumps(answer), file=answers, flush=True)
    os._exit(0)
