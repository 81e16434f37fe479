"""What a node says of a round: numbers that follow from two commits and its own update."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from node.round_metrics import RoundWatch
from swarm.collective.context import Offer
from swarm.config import RunManifest
from swarm.model.config import ModelConfig
from swarm.presets import preset
from swarm.training.policy import RunPolicy
from swarm.wire import collective_pb2 as pb

MANIFEST = RunManifest(
    model=ModelConfig(d_model=16, num_layers=2, num_heads=2, num_kv_heads=2, d_ff=24, num_experts=4)
)


@pytest.mark.parametrize("preset_name", ["", "spes"])
def test_a_round_in_numbers(preset_name: str) -> None:
    manifest = preset(preset_name, MANIFEST) if preset_name else MANIFEST
    manifest = replace(manifest, merge=replace(manifest.merge, every_rounds=1))
    policy = RunPolicy(manifest)
    before = {name: policy.initial(name) for name in policy.layout.names}
    updates = {
        n: np.random.default_rng(7).standard_normal(s.theta.size) * 0.01 for n, s in before.items()
    }
    updates = {n: u.astype(np.float32) for n, u in updates.items()}
    sent = updates
    if preset_name:
        sent = {n: before[n].theta - u for n, u in updates.items()}
    after = {n: policy.apply(n, sent[n], s, 2) for n, s in before.items()}
    after = dict(policy.finish(1, after, before))
    record = pb.RoundRecord(round=1, previous=b"base", routed_tokens=[4, 4, 0, 0, 1, 1, 1, 1])
    for name in policy.layout.names:
        record.fragments.add(advanced=True).state.fragment = name
    offer = Offer(deltas=sent, weights=dict.fromkeys(sent, 1.0), base_commit=b"base")
    numbers = RoundWatch(policy, before, offer, 0.25).finish(record, after)
    assert numbers["update_agreement"] == pytest.approx(1.0, abs=1e-3)  # it was the only one
    assert numbers["routing_entropy"] == pytest.approx(0.75)
    assert numbers["largest_load"] == 1.5
    assert numbers["routing_divergence"] == 0.25
    assert numbers["merge_total_strength"] == numbers["merge_strength"] > 0
    assert numbers["merge_cosine_after"] > numbers["merge_cosine_before"]
    late = RoundWatch(policy, before, replace(offer, base_commit=b"older")).finish(record, after)
    assert "update_agreement" not in late and "routing_divergence" not in late
