"""Balance without a loss: a bias that follows from committed counts, and that all peers share."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import numpy as np
import pytest
import torch

from swarm.collective.selection_bias import bias_after, check_bias, next_bias
from swarm.config import BalanceConfig, RunManifest
from swarm.errors import Code, SwarmError
from swarm.model.config import ModelConfig
from swarm.model.transformer import Transformer
from swarm.simulation.swarm import SimulatedSwarm, toy_manifest
from swarm.wire import collective_pb2 as pb

MODEL = ModelConfig(d_model=32, num_layers=2, num_heads=2, num_kv_heads=2, d_ff=32, num_experts=4)


def test_the_bias_by_hand() -> None:
    counts = [6, 2, 4, 4, 4, 4, 4, 4]  # an even share is 4
    first = next_bias([], counts, 2, 0.25)
    assert first == [-0.25, 0.25, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0]
    assert next_bias(first, counts, 2, 0.25)[:2] == [-0.5, 0.5]
    assert next_bias(first, [], 2, 0.25) == first
    assert next_bias([], counts, 2, 0.0) == []


def test_the_bias_chooses_experts_and_leaves_their_weights_alone() -> None:
    model = Transformer(replace(MODEL, top_k=1, norm_topk_prob=False, init_std=0.5), seed=0)
    gate = model.moe_layers[0].gate
    x_ND = torch.randn(50, 32, generator=torch.Generator().manual_seed(0))
    plain = gate(x_ND)
    gate.selection_bias_M = torch.tensor([0.0, 0.0, 2.0, 0.0])
    biased = gate(x_ND)
    assert (biased.chosen_KN == 2).all() and not (plain.chosen_KN == 2).all()
    rows_MD = torch.stack(list(gate.weight.values()))
    expected_N = (x_ND @ rows_MD.t()).softmax(dim=1)[:, 2]
    torch.testing.assert_close(biased.weights_KN[0], expected_N)
    assert torch.equal(biased.stats.probs_mean_E, plain.stats.probs_mean_E)
    gate.selection_bias_M = torch.zeros(4)
    assert torch.equal(gate(x_ND).weights_KN, plain.weights_KN)


def test_a_record_with_another_bias_is_refused() -> None:
    manifest = RunManifest(model=MODEL, balance=BalanceConfig(bias_rate=0.125))
    previous = pb.RoundRecord(selection_bias=[0.5] * 8)
    record = pb.RoundRecord(routed_tokens=[6, 2, 4, 4, 4, 4, 4, 4])
    record.selection_bias.extend(bias_after(record, previous, manifest))
    assert list(record.selection_bias)[:2] == [0.375, 0.625]
    check_bias(record, previous, manifest)
    record.selection_bias[0] += 1
    with pytest.raises(SwarmError, match="bias") as caught:
        check_bias(record, previous, manifest)
    assert caught.value.code is Code.MESSAGE_MALFORMED


def test_all_members_commit_the_same_bias_and_it_adds_up() -> None:
    async def story() -> None:
        manifest = replace(toy_manifest(min_peers=3), balance=BalanceConfig(bias_rate=0.1))
        width = manifest.model.num_layers * manifest.model.num_experts
        swarm = SimulatedSwarm(3, manifest=manifest)
        swarm.policy.routing_width = width
        await swarm.start()
        for expected in (0.1, 0.2):
            offers = [peer.offer() for peer in swarm.peers]
            for offer in offers:
                offer.routed_tokens = [1, *[9] * (width - 1)]
            work = (p.member.run_round(o) for p, o in zip(swarm.peers, offers, strict=True))
            records = await asyncio.gather(*work)
            biases = {tuple(record.selection_bias) for record in records}
            assert len(biases) == 1
            assert biases.pop()[0] == pytest.approx(expected, rel=1e-6)
        await swarm.close()

    asyncio.run(story())


def test_round_by_round_the_bias_evens_out_the_load_of_a_router_that_prefers_one_expert() -> None:
    model = Transformer(replace(MODEL, num_layers=1, top_k=1, init_std=0.3), seed=0)
    gate = model.moe_layers[0].gate
    x_ND = torch.randn(400, 32, generator=torch.Generator().manual_seed(0)) + 0.2
    with torch.no_grad():
        gate.weight["1"] += 0.2
    bias: list[float] = []
    loads = []
    for _ in range(60):
        gate.selection_bias_M = torch.tensor(bias) if bias else None
        counts_E = gate(x_ND).stats.counts_E
        loads.append(counts_E.max().item() / 100)
        bias = next_bias(bias, counts_E.tolist(), 1, 0.01)
    assert loads[0] > 2.0 and np.mean(loads[-5:]) < 1.3
