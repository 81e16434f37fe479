"""Hashes of means that are computed while the means come in, in any order, from many threads."""

from __future__ import annotations

import itertools
import random
import threading

import numpy as np
import pytest

from swarm.collective import digests
from swarm.collective.digests import RunningDigest
from swarm.hashing import bulk_hash

CONTENT = np.random.default_rng(1).bytes(100_003)


def pieces(rng: random.Random, size: int) -> list[tuple[int, int]]:
    edges = sorted({0, size, *(rng.randrange(size) for _ in range(40))})
    return list(itertools.pairwise(edges))


@pytest.mark.parametrize("seed", range(5))
def test_the_hash_is_that_of_the_whole_in_whatever_order_its_pieces_come(seed, monkeypatch):
    rng = random.Random(seed)
    monkeypatch.setattr(digests, "AT_ONCE_BYTES", rng.choice([1, 5_000, 1_000_000]))
    content = bytearray(len(CONTENT))
    digest = RunningDigest(memoryview(content))
    parts = pieces(rng, len(CONTENT))
    rng.shuffle(parts)
    for begin, end in parts:
        content[begin:end] = CONTENT[begin:end]
        digest.filled(begin, end)
    assert digest.finish() == bulk_hash(CONTENT)


def test_threads_that_fill_at_once_hash_every_byte_once(monkeypatch):
    monkeypatch.setattr(digests, "AT_ONCE_BYTES", 1000)
    content = bytearray(len(CONTENT))
    digest = RunningDigest(memoryview(content))
    parts = pieces(random.Random(7), len(CONTENT))

    def fill(mine: list[tuple[int, int]]) -> None:
        for begin, end in mine:
            content[begin:end] = CONTENT[begin:end]
            digest.filled(begin, end)

    threads = [threading.Thread(target=fill, args=(parts[i::4],)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert digest.finish() == bulk_hash(CONTENT)


def test_what_has_come_without_a_gap_is_hashed_before_the_rest_is_there():
    """So what is left for the end is little: the bytes behind the first gap."""
    content = bytearray(CONTENT)
    digest = RunningDigest(memoryview(content))
    digest.filled(0, 60_000)
    digest.filled(80_000, len(CONTENT))
    content[:60_000] = bytes(60_000)  # too late to be seen
    digest.filled(60_000, 80_000)
    assert digest.finish() == bulk_hash(CONTENT)


def test_a_mean_with_a_hole_has_no_hash():
    digest = RunningDigest(memoryview(bytes(10)))
    digest.filled(0, 4)
    digest.filled(6, 10)
    with pytest.raises(AssertionError):
        digest.finish()


def test_of_nothing_there_is_a_hash_too():
    assert RunningDigest(memoryview(b"")).finish() == bulk_hash(b"")
