"""The sampler: a pure function of corpus, seed and position."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from swarm.data import Corpus, DataReport, Sampler, prepare_corpus
from swarm.errors import Code, SwarmError


def corpus_of(tokens: int, name: str = "c") -> Corpus:
    ids = np.arange(tokens, dtype=np.uint16)
    return Corpus(ids, ids[:1], DataReport(), name)


def test_batches_are_windows_of_the_training_tokens() -> None:
    batch_BT = Sampler(corpus_of(1000), batch_size=8, sequence_length=16, seed=1).next_batch()
    assert batch_BT.shape == (8, 17) and batch_BT.dtype == np.int64
    assert (np.diff(batch_BT, axis=1) == 1).all()
    assert len(set(batch_BT[:, 0].tolist())) > 4


def test_the_position_alone_restores_the_stream() -> None:
    straight = Sampler(corpus_of(5000), 4, 32, seed=7)
    batches = [straight.next_batch() for _ in range(6)]
    later = Sampler(corpus_of(5000), 4, 32, seed=7, position=3)
    assert np.array_equal(later.next_batch(), batches[3])
    restored = Sampler(corpus_of(5000), 4, 32, seed=7)
    restored.restore(later.state())
    assert np.array_equal(restored.next_batch(), batches[4])
    assert len({batch.tobytes() for batch in batches}) == 6


def test_the_stream_is_the_same_in_every_release() -> None:
    """Resuming on a machine with other library versions must go on with the same batches."""
    batch_BT = Sampler(corpus_of(60_000), 4, 1, seed=3, position=5).next_batch()
    assert batch_BT[:, 0].tolist() == [25327, 36418, 39697, 16372]


def test_other_seeds_are_other_streams_and_long_batches_do_not_overlap() -> None:
    first = Sampler(corpus_of(60_000), 64, 1, seed=0)
    a, b = first.next_batch(), first.next_batch()
    c = Sampler(corpus_of(60_000), 64, 1, seed=1).next_batch()
    assert not np.array_equal(a, c)
    assert len(set(a[:, 0].tolist()) & set(b[:, 0].tolist())) < 3


def test_every_window_can_be_drawn_and_none_beyond_the_end() -> None:
    sampler = Sampler(corpus_of(20), 50, 16, seed=0)  # starts 0..3
    starts = {s for _ in range(10) for s in sampler.next_batch()[:, 0].tolist()}
    assert starts == {0, 1, 2, 3}


def test_a_state_of_another_corpus_or_seed_is_refused() -> None:
    sampler = Sampler(corpus_of(100, "mine"), 2, 4, seed=0)
    good = sampler.state()
    bad = [{**good, "corpus": "other"}, {**good, "seed": 1}, {**good, "position": -1}, {}]
    for state in bad:
        assert not sampler.accepts(state)
        with pytest.raises(SwarmError) as caught:
            sampler.restore(state)
        assert caught.value.code is Code.CHECKPOINT_CORRUPT
    assert sampler.accepts(good) and sampler.position == 0


def test_a_corpus_shorter_than_a_window_says_so(tmp_path: Path) -> None:
    path = tmp_path / "short.txt"
    path.write_text("only a few bytes")
    corpus = prepare_corpus(str(path), tmp_path / "out")
    with pytest.raises(SwarmError, match="a window needs 129") as caught:
        Sampler(corpus, 2, 128, seed=0)
    assert caught.value.code is Code.DATA_EMPTY
