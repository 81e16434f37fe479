"""Batches of random windows, a pure function of (corpus, seed, position).

`position` counts batches. Batch n is drawn from the counter-based Philox generator at counter n,
so a sampler resumes anywhere at no cost and never depends on what was drawn before.
"""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
import numpy.typing as npt

from swarm.data.corpus import Corpus
from swarm.errors import Code, SwarmError


class Sampler:
    """Draws [batch_size, sequence_length + 1] windows of the training tokens.

    Raises `DATA_EMPTY` when the corpus is shorter than one window.
    """

    def __init__(
        self, corpus: Corpus, batch_size: int, sequence_length: int, seed: int, position: int = 0
    ) -> None:
        self.corpus = corpus
        self.batch_size = batch_size
        self.sequence_length = sequence_length
        self.seed = seed
        self.position = position
        self._starts = len(corpus.train) - sequence_length  # number of possible windows
        digest = hashlib.sha256(f"sampler {seed}".encode()).digest()
        self._key = np.frombuffer(digest[:16], dtype="<u8")
        if self._starts < 1:
            raise SwarmError(
                Code.DATA_EMPTY,
                f"the corpus has {len(corpus.train)} training tokens,"
                f" a window needs {sequence_length + 1}",
                "give it more text, or a run with a smaller training.sequence_length",
            )

    def next_batch(self) -> npt.NDArray[np.int64]:
        """Token ids [B, T + 1]: inputs are [:, :-1], targets [:, 1:]."""
        # A counter step yields four words, so each batch gets its own high word of the counter.
        philox = np.random.Philox(key=self._key, counter=[0, 0, self.position, 0])
        start_B = philox.random_raw(self.batch_size) % np.uint64(self._starts)
        window_T = np.arange(self.sequence_length + 1)
        self.position += 1
        tokens: npt.NDArray[np.int64] = self.corpus.train[
            start_B.astype(np.int64)[:, None] + window_T
        ].astype(np.int64)
        return tokens

    def state(self) -> dict[str, Any]:
        """What `restore` needs, as plain JSON values."""
        return {"corpus": self.corpus.sha256, "seed": self.seed, "position": self.position}

    def accepts(self, state: object) -> bool:
        """True when `state` was taken with this corpus and seed."""
        if not isinstance(state, dict) or not isinstance(state.get("position"), int):
            return False
        same = (state.get("corpus"), state.get("seed")) == (self.corpus.sha256, self.seed)
        return same and state["position"] >= 0

    def restore(self, state: dict[str, Any]) -> None:
        """Go on where `state` was taken. Raises `CHECKPOINT_CORRUPT` unless `accepts(state)`."""
        if not self.accepts(state):
            raise SwarmError(
                Code.CHECKPOINT_CORRUPT,
                "the data position was saved for another corpus or seed",
                "the text has changed since; start its position anew",
            )
        self.position = state["position"]
