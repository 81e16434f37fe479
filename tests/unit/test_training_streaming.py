"""Fragments in turn, and results that arrive among the next round's steps."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import pytest

from swarm.config import OuterConfig, RunManifest, StreamConfig, SyncConfig, TrainingConfig
from swarm.data import Corpus, DataReport, Sampler
from swarm.model.config import ModelConfig
from swarm.model.fragments import FragmentLayout, initial_fragment
from swarm.training.rounds import LocalRounds
from swarm.training.streaming import (
    corrected,
    due,
    eager_gain,
    group_of,
    guessed_theta,
)
from swarm.training.trainer import Trainer

MANIFEST = RunManifest(
    model=ModelConfig(
        d_model=16, num_layers=2, num_heads=2, num_kv_heads=2, d_ff=24, num_experts=4
    ),
    training=TrainingConfig(inner_steps=4, batch_size=2, sequence_length=16, warmup_tokens=0),
)
LAYOUT = FragmentLayout.of(MANIFEST.model, 2)
THETA = {n: initial_fragment(MANIFEST.model, LAYOUT, n, 0) for n in LAYOUT.names}
ONES = dict.fromkeys(LAYOUT.names, 1)


def vector(*values: float) -> np.ndarray:
    return np.array(values, dtype=np.float32)


def rounds(held: tuple[int, ...] = (0, 1), **stream: object) -> LocalRounds:
    manifest = replace(MANIFEST, stream=StreamConfig(**stream))  # type: ignore[arg-type]
    text = np.frombuffer(b"the quick brown fox jumps over the lazy dog. " * 40, np.uint8)
    corpus = Corpus(text.astype(np.uint16), text[:50].astype(np.uint16), DataReport(), "c")
    return LocalRounds(Trainer(manifest, Sampler(corpus, 2, 16, 0), held))


def local(peer: LocalRounds, name: str) -> np.ndarray:
    out = np.empty(LAYOUT.numel(name), np.float32)
    peer.trainer.read(name, out)
    return out


def give(peer: LocalRounds, round_index: int, theta: Mapping[str, np.ndarray] = THETA) -> dict:
    out = {n: np.empty_like(THETA[n]) for n in LAYOUT.names}
    return {n: out[n] for n in peer.give(round_index, theta, out)}


def versions(**advanced: int) -> dict[str, int]:
    return {n: advanced.get(n.replace(".", "_"), 0) for n in LAYOUT.names}


# ---- the schedule -----------------------------------------------------------------------------


@pytest.mark.parametrize("groups", [1, 2, 3, 4])
def test_every_fragment_is_averaged_once_in_a_cycle_of_rounds(groups: int) -> None:
    for first in (1, 8):
        cycle = [due(LAYOUT, LAYOUT.names, groups, first + i) for i in range(groups)]
        assert sorted(n for names in cycle for n in names) == sorted(LAYOUT.names)
    assert due(LAYOUT, ["expert.1", "trunk.0"], groups, 1)[0] == "trunk.0"


def test_trunk_and_experts_are_dealt_out_evenly() -> None:
    assert [group_of(LAYOUT, n, 2) for n in LAYOUT.names] == [0, 1, 0, 1, 0, 1]
    assert due(LAYOUT, LAYOUT.names, 2, 1) == ["trunk.0", "expert.0", "expert.2"]
    assert due(LAYOUT, set(LAYOUT.names), 2, 2) == ["trunk.1", "expert.1", "expert.3"]


# ---- the arithmetic, by hand ------------------------------------------------------------------


def test_the_corrections_by_hand() -> None:
    x, sent, theta = vector(5.0, 1.0), vector(4.0, 2.0), vector(3.0, 3.0)
    delayed = StreamConfig(correction="delayed")
    assert corrected(delayed, x, sent, theta).tolist() == [4.0, 2.0]  # 3 + (5 - 4), 3 + (1 - 2)
    mix = StreamConfig(correction="mix", mixing=0.25)
    assert corrected(mix, x, sent, theta).tolist() == [3.5, 2.5]  # 5 / 4 + 3 * 3 / 4
    replace_all = StreamConfig(correction="mix", mixing=0.0)
    assert corrected(replace_all, x, sent, theta).tolist() == theta.tolist()


def test_an_eager_guess_for_two_peers_by_hand() -> None:
    """Plain averages: the other one's update stays 2, the own one grows from 4 to 8."""
    base_before = vector(10.0)
    base = base_before - vector((4.0 + 2.0) / 2)  # 7
    config = OuterConfig(optimizer="fedavg")
    guess = guessed_theta(base, base_before, vector(8.0), vector(4.0), eager_gain(config, 2))
    assert guess.tolist() == [7.0 - (8.0 + 2.0) / 2]
    assert eager_gain(OuterConfig(learning_rate=0.5, momentum=0.5), 2) == 0.375


# ---- a peer's rounds --------------------------------------------------------------------------


def test_without_overlap_a_round_begins_from_what_is_committed() -> None:
    peer = rounds()
    peer.take(1, THETA, versions(), {})
    peer.trainer.train_step()
    given = give(peer, 1)
    assert sorted(given) == ["expert.0", "expert.1", "trunk.0", "trunk.1"]
    assert given["trunk.0"].tobytes() == (THETA["trunk.0"] - local(peer, "trunk.0")).tobytes()
    peer.take(2, THETA, versions(), {})  # the round was skipped: the update is given up
    assert all(local(peer, n).tobytes() == THETA[n].tobytes() for n in LAYOUT.names)


def test_a_fragment_that_is_not_due_keeps_its_local_values_and_gives_them_later() -> None:
    peer = rounds(groups=2)
    peer.take(1, THETA, versions(), {})
    peer.trainer.train_step()
    assert sorted(give(peer, 1)) == ["expert.0", "trunk.0"]
    kept = local(peer, "trunk.1")
    moved = {**THETA, "trunk.0": THETA["trunk.0"] + 1, "expert.0": THETA["expert.0"] * 2}
    peer.take(2, moved, versions(trunk_0=1, expert_0=1), ONES)
    assert local(peer, "trunk.0").tobytes() == moved["trunk.0"].tobytes()
    assert local(peer, "trunk.1").tobytes() == kept.tobytes() != THETA["trunk.1"].tobytes()
    peer.trainer.train_step()
    given = give(peer, 2, moved)
    assert sorted(given) == ["expert.1", "trunk.1"]  # both rounds' steps are in it
    assert given["trunk.1"].tobytes() == (THETA["trunk.1"] - local(peer, "trunk.1")).tobytes()


def test_a_fragment_with_another_version_than_expected_is_taken_over() -> None:
    peer = rounds(groups=2)
    peer.take(1, THETA, versions(), {})
    peer.trainer.train_step()
    peer.take(2, THETA, versions(trunk_1=3), ONES)
    assert local(peer, "trunk.1").tobytes() == THETA["trunk.1"].tobytes()


def test_frozen_experts_are_refreshed_whenever_they_advance() -> None:
    peer = rounds(groups=2)
    peer.take(1, THETA, versions(), {})
    moved = {**THETA, "expert.2": THETA["expert.2"] * 3}
    peer.take(2, moved, versions(expert_2=1), ONES)
    assert local(peer, "expert.2").tobytes() == moved["expert.2"].tobytes()


@pytest.mark.parametrize("correction", ["delayed", "mix"])
def test_a_late_result_meets_the_steps_made_since(correction: str) -> None:
    peer = rounds(overlap=True, correction=correction, mixing=0.5)
    peer.take(1, THETA, versions(), {})
    peer.trainer.train_step()
    give(peer, 1)
    sent = local(peer, "trunk.0")
    peer.trainer.train_step()
    ahead = local(peer, "trunk.0")
    assert ahead.tobytes() != sent.tobytes()
    moved = {n: v + np.float32(0.25) for n, v in THETA.items()}
    peer.take(2, moved, {n: 1 for n in LAYOUT.names}, ONES, late=True)
    expected = corrected(peer.trainer.manifest.stream, ahead, sent, moved["trunk.0"])
    assert local(peer, "trunk.0").tobytes() == expected.tobytes()
    assert local(peer, "expert.3").tobytes() == moved["expert.3"].tobytes()  # frozen
    given = give(peer, 2, moved)
    assert given["trunk.0"].tobytes() == (moved["trunk.0"] - expected).tobytes()


def test_steps_from_a_state_two_versions_old_are_given_up() -> None:
    peer = rounds(overlap=True)
    peer.take(1, THETA, versions(), {})
    peer.trainer.train_step()
    give(peer, 1)
    peer.trainer.train_step()
    peer.take(3, THETA, {n: 2 for n in LAYOUT.names}, ONES, late=True)
    assert local(peer, "trunk.0").tobytes() == THETA["trunk.0"].tobytes()


def test_a_round_that_is_begun_anew_gives_up_the_steps_ahead() -> None:
    peer = rounds(overlap=True)
    peer.take(1, THETA, versions(), {})
    peer.trainer.train_step()
    give(peer, 1)
    peer.trainer.train_step()
    peer.take(2, THETA, {n: 1 for n in LAYOUT.names}, ONES)
    assert local(peer, "trunk.0").tobytes() == THETA["trunk.0"].tobytes()


def test_eager_steps_begin_at_the_guess_and_end_where_delayed_ones_do() -> None:
    """What was guessed is taken back when the truth comes: only the steps since are left."""
    peer = rounds(overlap=True, correction="eager")
    peer.trainer.manifest = replace(
        peer.trainer.manifest, outer=OuterConfig(optimizer="fedavg"), sync=SyncConfig()
    )
    peer.take(1, THETA, versions(), {})
    peer.trainer.train_step()
    first = give(peer, 1)["trunk.0"]
    twos = dict.fromkeys(LAYOUT.names, 2)
    moved = {n: v - np.float32(0.01) for n, v in THETA.items()}
    peer.take(2, moved, {n: 1 for n in LAYOUT.names}, twos, late=True)
    peer.trainer.train_step()
    second = give(peer, 2, moved)["trunk.0"]
    guess = guessed_theta(moved["trunk.0"], THETA["trunk.0"], second, first, 0.5)
    assert local(peer, "trunk.0").tobytes() == guess.tobytes()
    peer.trainer.train_step()
    ahead = local(peer, "trunk.0")
    truth = {n: v - np.float32(0.02) for n, v in THETA.items()}
    peer.take(3, truth, {n: 2 for n in LAYOUT.names}, twos, late=True)
    expected = truth["trunk.0"] + (ahead - guess)
    assert local(peer, "trunk.0").tobytes() == expected.tobytes()


def test_an_expert_gained_while_its_round_is_open_starts_from_what_is_committed() -> None:
    peer = rounds(overlap=True)
    peer.take(1, THETA, versions(), {})
    peer.trainer.train_step()
    give(peer, 1)
    peer.trainer.train_step()
    peer.trainer.set_held([1, 2])
    moved = {n: v * 2 for n, v in THETA.items()}
    peer.take(2, moved, {n: 1 for n in LAYOUT.names}, ONES, late=True)
    assert local(peer, "expert.2").tobytes() == moved["expert.2"].tobytes()
    assert local(peer, "expert.0").tobytes() == moved["expert.0"].tobytes()  # lost, frozen now
    assert local(peer, "expert.1").tobytes() != moved["expert.1"].tobytes()
