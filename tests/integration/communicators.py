"""Groups of communicators with real networks in one process."""

from __future__ import annotations

from contextlib import ExitStack
from datetime import timedelta

import numpy as np

from swarm.collective.communicator import Communicator

LIMIT = timedelta(seconds=40)


def open_group(stack: ExitStack, count: int, **options) -> list[Communicator]:
    first = stack.enter_context(Communicator.open("test", min_peers=count, **options))
    others = [
        stack.enter_context(
            Communicator.open("test", min_peers=count, initial_peers=[first.address], **options)
        )
        for _ in range(count - 1)
    ]
    group = [first, *others]
    for joining in [c.join() for c in group]:
        assert len(joining.wait(LIMIT)) == count
    return group


def values_of(rank: int, shape=(7, 300)) -> np.ndarray:
    return np.random.default_rng(rank).standard_normal(shape).astype(np.float32)


def same_everywhere(results, name) -> np.ndarray:
    first = results[0].tensors[name]
    assert all(np.array_equal(first, r.tensors[name]) for r in results)
    return first
