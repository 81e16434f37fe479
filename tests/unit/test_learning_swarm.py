"""Real training and averaging in one process: what a swarm learns, and what must not matter."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch

from swarm.config import (
    MergeConfig,
    OuterConfig,
    RunManifest,
    StreamConfig,
    SyncConfig,
    TrainingConfig,
)
from swarm.data import Corpus, DataReport, Sampler
from swarm.evaluation.measure import measure, routing_shares
from swarm.model.config import ModelConfig
from swarm.presets import PRESETS, preset
from swarm.simulation.learning import LearningSwarm
from swarm.training.outer import outer_learning_rate
from swarm.training.probe import RoutingProbe, routing_divergence
from swarm.training.rounds import LocalRounds

MANIFEST = RunManifest(
    model=ModelConfig(
        d_model=32, num_layers=2, num_heads=2, num_kv_heads=2, d_ff=32, num_experts=4
    ),
    training=TrainingConfig(
        inner_steps=8, batch_size=4, sequence_length=32, warmup_tokens=0, total_tokens=10**6
    ),
    sync=SyncConfig(experts_per_peer=2),
)
TEXTS = {
    "maths": lambda r: " ".join(f"{a}+{b}={a + b};" for a, b in r.integers(0, 99, (4000, 2))),
    "words": lambda r: " ".join(r.choice("the cat sat on a mat and saw the dog run".split(), 9000)),
}


def corpus(domain: str) -> Corpus:
    text = TEXTS[domain](np.random.default_rng(5)).encode()
    tokens = np.frombuffer(text, np.uint8).astype(np.uint16)
    return Corpus(tokens[:-4000], tokens[-4000:], DataReport(), domain)


def sampler(manifest: RunManifest, domain: str, seed: int) -> Sampler:
    training = manifest.training
    return Sampler(corpus(domain), training.batch_size, training.sequence_length, seed)


def swarm(manifest: RunManifest, order: Sequence[int] = (0, 1), names: str = "ab") -> LearningSwarm:
    samplers = {names[i]: sampler(manifest, ("maths", "words")[i], i) for i in order}
    return LearningSwarm(manifest, samplers, {names[0]: [0, 1], names[1]: [2, 3]})


def hashes(of: LearningSwarm) -> dict[str, bytes]:
    return {name: state.theta_hash + state.momentum_hash for name, state in of.state.items()}


def with_overlap(correction: str) -> RunManifest:
    stream = StreamConfig(groups=2, overlap=True, delay_steps=2, correction=correction)
    return replace(MANIFEST, stream=stream, sync=replace(MANIFEST.sync, codec="int8"))


ARMS = {name: preset(name, MANIFEST) for name in PRESETS} | {
    correction: with_overlap(correction) for correction in ("delayed", "eager", "mix")
}
ARMS = {  # short rounds, and mergers in them
    name: replace(
        arm,
        training=replace(MANIFEST.training, inner_steps=4),
        merge=replace(arm.merge, every_rounds=int(arm.merge.every_rounds > 0)),
    )
    for name, arm in ARMS.items()
}


@pytest.mark.parametrize("arm", ARMS)
def test_the_order_of_peers_and_fragments_changes_no_bit(arm: str) -> None:
    results = []
    for order in ((0, 1), (1, 0)):
        made = swarm(ARMS[arm], order)
        if order == (1, 0):
            made.state = dict(reversed(made.state.items()))
            made.peers = dict(reversed(made.peers.items()))
        for _ in range(4):
            made.round()
        results.append(hashes(made))
    assert results[0] == results[1]


@pytest.mark.parametrize("arm", ["spes", "diloco", "held"])
def test_the_names_of_two_peers_change_no_bit(arm: str) -> None:
    """With two terms a sum does not depend on their order, and weights do not follow names."""
    results = []
    for names in ("ab", "ba"):
        made = swarm(ARMS[arm], names=names)
        for _ in range(3):
            made.round()
        results.append(hashes(made))
    assert results[0] == results[1]


def test_one_round_is_the_outer_rule_on_the_weighted_mean_of_the_updates() -> None:
    for arm in ("diloco", "held", "spes"):
        manifest = replace(ARMS[arm], merge=MergeConfig())
        manifest = replace(manifest, sync=replace(manifest.sync, aggregation="mean"))
        made = swarm(manifest)
        before = {name: state.theta for name, state in made.state.items()}
        made.round()
        given = {p: peer.out for p, peer in made.peers.items()}
        mean = (given["a"]["trunk.1"] + given["b"]["trunk.1"]) / 2  # equal tokens
        if arm == "spes":
            expected = mean
        else:
            rate = outer_learning_rate(manifest.outer, 2)
            expected = before["trunk.1"] - rate * 1.9 * mean  # v = d; theta -= rate (d + 0.9 v)
        np.testing.assert_allclose(made.state["trunk.1"].theta, expected, atol=1e-6)


def test_an_expert_without_a_holder_stays_bitwise_as_it_is_and_keeps_its_version() -> None:
    samplers = {"a": sampler(MANIFEST, "maths", 0), "b": sampler(MANIFEST, "words", 1)}
    made = LearningSwarm(MANIFEST, samplers, {"a": [0], "b": [0, 1]})
    before = dict(made.state)
    log = made.round()
    assert "expert.2" not in log.advanced and "expert.1" in log.advanced
    for name in ("expert.2", "expert.3"):
        assert made.state[name] is before[name] and made.state[name].version == 0


def test_outer_momentum_belongs_to_the_expert_and_goes_on_with_its_next_holder() -> None:
    made = swarm(MANIFEST)
    made.round()
    momentum = made.state["expert.1"].momentum.copy()
    assert momentum.any()
    made.peers["a"].trainer.set_held([0])
    made.peers["b"].trainer.set_held([1, 2, 3])
    made.round()
    update = made.peers["b"].out["expert.1"]
    expected = momentum * np.float32(MANIFEST.outer.momentum) + update
    assert made.state["expert.1"].momentum.tobytes() == expected.tobytes()
    assert made.state["expert.1"].version == 2


def test_peers_start_from_the_same_bits_and_read_their_own_text() -> None:
    first, second = swarm(MANIFEST), swarm(MANIFEST)
    assert hashes(first) == hashes(second)
    batches = [peer.trainer.sampler.next_batch() for peer in first.peers.values()]
    assert not np.array_equal(*batches)
    other = swarm(replace(MANIFEST, genesis=replace(MANIFEST.genesis, seed=1)))
    assert hashes(other)["trunk.0"] != hashes(first)["trunk.0"]


def test_streaming_offers_half_the_bytes_in_each_of_twice_the_rounds() -> None:
    whole = swarm(replace(MANIFEST, sync=replace(MANIFEST.sync, codec="int8")))
    parts = swarm(with_overlap("mix"))
    one = whole.round().bytes_offered
    two = [parts.round().bytes_offered for _ in range(2)]
    assert sum(two) == one and max(two) < 0.7 * one
    assert whole.tokens == parts.tokens


LEARNING = {
    "training": replace(MANIFEST.training, inner_steps=16, learning_rate=5e-3),
    "outer": OuterConfig(optimizer="fedavg"),
}
LEARNING_ROUNDS = 6


def mean_bpb(of: LearningSwarm) -> float:
    model = of.model()
    measured = [measure(model, corpus(domain).valid, 32) for domain in TEXTS]
    return float(np.mean([m.bits_per_byte for m in measured]))


@functools.cache
def best_alone() -> float:
    """Bits per byte of the better one of two peers that train all experts, each on its own text."""
    reached = []
    for seed, domain in enumerate(TEXTS):
        manifest = replace(MANIFEST, **LEARNING)
        one = LearningSwarm(manifest, {"a": sampler(manifest, domain, seed)}, {"a": [0, 1, 2, 3]})
        for _ in range(LEARNING_ROUNDS):
            one.round()
        reached.append(mean_bpb(one))
    return min(reached)


@pytest.mark.parametrize("arm", ["spes", "held", "delayed", "eager", "mix"])
def test_two_domains_together_learn_more_than_each_peer_alone(arm: str) -> None:
    """What the swarm's model knows of both texts, against models that saw only one."""
    manifest = replace(ARMS[arm], **LEARNING)
    together = swarm(manifest)
    for _ in range(LEARNING_ROUNDS * manifest.stream.groups):
        together.round()
    assert mean_bpb(together) < best_alone() - 1.0
    shares = [routing_shares(together.model(), corpus(d).valid, 32) for d in TEXTS]
    # In some layer the two texts go to different experts, by more than a tenth of the tokens.
    assert np.abs(shares[0] - shares[1]).sum(axis=1).max() / 2 > 0.1


def test_after_a_commit_a_fixed_batch_goes_the_same_ways_on_all_peers() -> None:
    """And how far it went other ways before is bounded, though each router was drifting alone."""
    made = swarm(ARMS["spes"])
    probe = RoutingProbe(torch.arange(32, 96).view(2, 32))
    for peer in made.peers.values():
        peer.rounds = LocalRounds(peer.trainer, probe)
    for _ in range(3):
        made.round()
    apart = [probe.look(peer.trainer.model) for peer in made.peers.values()]
    assert routing_divergence(*apart) > 0
    made.round_index += 1
    for peer in made.peers.values():
        made._take(peer, 0, False)
    together = [probe.look(peer.trainer.model) for peer in made.peers.values()]
    assert all(torch.equal(a, b) for a, b in zip(*together, strict=True))
    divergences = [peer.rounds.divergence for peer in made.peers.values()]
    assert all(d is not None and 0 < d < 1 for d in divergences)
