"""The text of the domains, and samplers of it."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from swarm.data import Corpus, Sampler, prepare_corpus


def load_domains(folder: Path, domains: Sequence[str], cache: Path) -> dict[str, Corpus]:
    """`<domain>.train.jsonl` to train on and all of `<domain>.valid.jsonl` to measure on."""
    found = {}
    for domain in domains:
        train = prepare_corpus(str(folder / f"{domain}.train.jsonl"), cache / domain)
        held_out = prepare_corpus(str(folder / f"{domain}.valid.jsonl"), cache / f"{domain}-valid")
        whole = np.concatenate([held_out.train, held_out.valid])
        found[domain] = dataclasses.replace(train, valid=whole)
    return found


def peer_samplers(
    corpora: Mapping[str, Corpus], batch_size: int, length: int, seed: int
) -> dict[str, Sampler]:
    """One for each domain. With the same seed all arms read the same windows in the same order."""
    return {
        domain: Sampler(corpus, batch_size, length, 100 * seed + index)
        for index, (domain, corpus) in enumerate(corpora.items())
    }


class MixedSampler(Sampler):
    """Batches of several samplers one below the other: what all peers read, for one trainer."""

    def __init__(self, parts: Sequence[Sampler]) -> None:
        first = parts[0]
        size = sum(part.batch_size for part in parts)
        super().__init__(first.corpus, size, first.sequence_length, first.seed)
        self._parts = parts

    def next_batch(self) -> npt.NDArray[np.int64]:
        """Token ids [B, T + 1] of all parts."""
        self.position += 1
        return np.concatenate([part.next_batch() for part in self._parts])


def mixed_samplers(
    corpora: Mapping[str, Corpus], batch_size: int, length: int, seed: int
) -> dict[str, MixedSampler]:
    """As `peer_samplers`, but each peer reads equal shares of all domains."""
    return {
        domain: MixedSampler(
            [
                Sampler(corpus, batch_size // len(corpora), length, 100 * seed + 10 * peer + index)
                for index, corpus in enumerate(corpora.values())
            ]
        )
        for peer, domain in enumerate(corpora)
    }
