"""Merging warm-up: by name, all at once, the same bits everywhere, and never too much of it."""

from __future__ import annotations

import asyncio
import hashlib
from dataclasses import replace

import numpy as np
import pytest

from swarm.collective.state import FragmentState
from swarm.config import (
    MembershipConfig,
    MergeConfig,
    RunManifest,
    StreamConfig,
    SyncConfig,
    TimeoutPolicy,
)
from swarm.model.config import ModelConfig
from swarm.model.fragments import FragmentLayout, initial_fragment
from swarm.presets import preset
from swarm.simulation.swarm import SimulatedSwarm
from swarm.training.merging import merge_experts, merge_strength, merged_total
from swarm.training.policy import RunPolicy
from swarm.training.similarity import cosines, mean_cosine, nearest


def model(experts: int) -> ModelConfig:
    return ModelConfig(
        d_model=16,
        num_layers=2,
        num_heads=2,
        num_kv_heads=2,
        d_ff=24,
        num_experts=experts,
        top_k=1,
    )


def layout_and_experts(count: int) -> tuple[FragmentLayout, dict[int, np.ndarray]]:
    layout = FragmentLayout.of(model(count), 1)
    made = {e: initial_fragment(layout.config, layout, f"expert.{e}", 3) for e in range(count)}
    return layout, made


def random_vectors(count: int, length: int, seed: int = 0) -> list[np.ndarray]:
    shared = np.random.default_rng(seed).standard_normal(length)
    drawn = np.random.default_rng(seed + 1).standard_normal((count, length))
    return [(shared * i / count + row).astype(np.float32) for i, row in enumerate(drawn)]


def test_one_merger_computed_by_hand() -> None:
    layout, experts = layout_and_experts(3)
    for e, values in experts.items():
        values[:] = float(e)
        for part in layout.tensors(f"expert.{e}"):
            if "gate_proj" in part.name:  # 0 and 1 point the same way, 2 across
                part.of(values)[...] = [[4.0, 0.0], [2.0, 0.0], [0.0, 8.0]][e] * 8
    merged = merge_experts(layout, experts, [0, 1, 2], 0.5, 1).merged
    for part in layout.tensors("expert.0"):
        value = part.of(merged["expert.0"])
        if "gate_proj" in part.name:
            assert value[0].tolist() == [3.0, 0.0] * 8  # 4 + 0.5 (2 - 4)
        else:
            assert (value == 0.5).all()  # 0 + 0.5 (1 - 0)
    up = next(p for p in layout.tensors("expert.1") if "up_proj" in p.name)
    assert (up.of(merged["expert.1"]) == 0.5).all()  # 1 + 0.5 (0 - 1): expert 0 as it was
    up = next(p for p in layout.tensors("expert.2") if "up_proj" in p.name)
    assert (up.of(merged["expert.2"]) == 1.0).all()  # equally unlike 0 and 1: the lower index


@pytest.mark.parametrize("count", [1, 2, 3, 4, 5, 8])
def test_no_order_changes_a_bit_and_few_experts_are_enough(count: int) -> None:
    layout, experts = layout_and_experts(count)
    before = {e: values.copy() for e, values in experts.items()}
    straight = merge_experts(layout, experts, range(count), 0.1, 4)
    backwards = merge_experts(
        layout, dict(reversed(experts.items())), list(reversed(range(count))), 0.1, 4
    )
    one_by_one = {
        name: values
        for e in range(count)
        for name, values in merge_experts(layout, experts, [e], 0.1, 4).merged.items()
    }
    for e in range(count):
        name = f"expert.{e}"
        assert straight.merged[name].tobytes() == backwards.merged[name].tobytes()
        assert straight.merged[name].tobytes() == one_by_one[name].tobytes()
        assert experts[e].tobytes() == before[e].tobytes()
        changed = straight.merged[name].tobytes() != experts[e].tobytes()
        assert changed is (count > 1)
    assert straight.cosine_after > straight.cosine_before or count == 1


def test_w1_is_never_blended_with_another_matrix() -> None:
    """Each kind of matrix has its own value; after a merger it still has only that value."""
    layout, experts = layout_and_experts(6)
    kinds = {"gate_proj": 1.0, "up_proj": 2.0, "down_proj": 4.0}
    for e, values in experts.items():
        for part in layout.tensors(f"expert.{e}"):
            part.of(values)[...] = next(v for kind, v in kinds.items() if kind in part.name)
    merged = merge_experts(layout, experts, range(6), 0.3, 4).merged
    assert all(merged[f"expert.{e}"].tobytes() == experts[e].tobytes() for e in range(6))


def test_router_rows_are_not_merged() -> None:
    layout = FragmentLayout.of(model(4), 1, "expert")
    experts = {
        e: np.random.default_rng(e).standard_normal(layout.numel("expert.0")).astype(np.float32)
        for e in range(4)
    }
    merged = merge_experts(layout, experts, range(4), 0.3, 4).merged["expert.2"]
    for part in layout.tensors("expert.2"):
        same = part.of(merged).tobytes() == part.of(experts[2]).tobytes()
        assert same is (".gate.weight." in part.name)


def test_cosines_do_not_depend_on_how_the_sum_is_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    vectors = random_vectors(5, 3000)
    whole = cosines(vectors)
    for block in (1, 7, 1024):
        monkeypatch.setattr("swarm.training.similarity.BLOCK", block)
        assert cosines(vectors).tobytes() == whole.tobytes()
    exact = np.corrcoef([np.r_[v, -v].astype(np.float64) for v in vectors])
    np.testing.assert_allclose(whole, exact, atol=2e-5)


def test_cosines_and_mergers_are_the_same_on_every_machine() -> None:
    """A golden hash: a reordered or fused sum anywhere changes it."""
    index = np.arange(20_000, dtype=np.float32).reshape(4, 5000)
    waves = [row * np.float32(1e-3) % np.float32(1.0 + i) for i, row in enumerate(index)]
    layout, experts = layout_and_experts(5)
    merged = merge_experts(layout, experts, range(5), 0.05, 3).merged
    content = cosines(waves).astype("<f8").tobytes() + b"".join(
        values.astype("<f4").tobytes() for _, values in sorted(merged.items())
    )
    assert hashlib.sha256(content).hexdigest()[:16] == "ccb23cf97d2a1712"


def test_neighbours_are_the_most_similar_and_ties_go_to_the_lower_index() -> None:
    table = np.array([[1.0, 0.2, 0.9, 0.2], [0.2, 1, 0, 0], [0.9, 0, 1, 0], [0.2, 0, 0, 1]])
    assert nearest(table, 0, 1) == [2]
    assert nearest(table, 0, 2) == [1, 2]
    assert nearest(table, 3, 2) == [0, 1]
    assert nearest(table, 0, 9) == [1, 2, 3]
    assert mean_cosine(table) == pytest.approx((0.2 + 0.9 + 0.2) / 6)


def test_the_strength_falls_to_zero_and_its_sum_has_a_limit() -> None:
    manifest = RunManifest(
        merge=MergeConfig(every_rounds=2, strength=0.2, rounds=8, total_limit=0.3)
    )
    strengths = [merge_strength(manifest, r) for r in range(1, 11)]
    # 0.2 * (1 - t/8) at 2, 4, 6, 8: 0.15, 0.1, 0.05, 0
    assert strengths == pytest.approx([0, 0.15, 0, 0.1, 0, 0.05, 0, 0, 0, 0])
    assert merged_total(manifest, 10) == pytest.approx(0.3)
    capped = replace(manifest, merge=replace(manifest.merge, total_limit=0.2))
    strengths = [merge_strength(capped, r) for r in range(1, 11)]
    assert strengths == pytest.approx([0, 0.15, 0, 0.05, 0, 0, 0, 0, 0, 0])
    assert merged_total(capped, 100) == pytest.approx(0.2)
    off = replace(manifest, merge=MergeConfig())
    assert not any(merge_strength(off, r) for r in range(100))


def test_the_published_constants_contract_by_a_quarter_at_most() -> None:
    for strength, every, rounds in [(0.01, 5, 100), (0.05, 5, 200), (0.1, 2, 40)]:
        config = MergeConfig(every_rounds=every, strength=strength, rounds=rounds)
        assert merged_total(RunManifest(merge=config), 10**4) <= 0.25 + 1e-12


def test_groups_of_fragments_merge_in_their_turn() -> None:
    manifest = RunManifest(
        merge=MergeConfig(every_rounds=2, strength=0.1, rounds=4),
        stream=StreamConfig(groups=2),
    )
    due = [r for r in range(1, 13) if merge_strength(manifest, r)]
    assert due == [3, 4]  # the second cycle; at the fourth the strength is 0
    assert merge_strength(manifest, 3) == merge_strength(manifest, 4)


SPES = preset(
    "spes",
    RunManifest(
        model=model(4),
        sync=SyncConfig(experts_per_peer=2),
        membership=MembershipConfig(min_peers=3),
        timeouts=TimeoutPolicy(),
    ),
)
MERGING = replace(SPES, merge=MergeConfig(every_rounds=1, strength=0.2, rounds=9))


def test_every_peer_has_the_same_bits_after_rounds_with_mergers() -> None:
    async def story() -> None:
        policy = RunPolicy(MERGING)
        swarm = SimulatedSwarm(3, manifest=MERGING, policy=policy)
        await swarm.start()
        for expected in (1, 2):
            sent = {(p.peer_id, n): p.delta(n, expected) for p in swarm.peers for n in policy.numel}
            await swarm.round()
            swarm.assert_level()
            record = swarm.peers[0].ledger.record
            assert record is not None and record.round == expected
            theta = {n: s.theta for n, s in swarm.peers[0].state.fragments.items()}
            alone = [
                o
                for o in record.fragments
                if o.state.fragment.startswith("expert") and len(o.contributors) == 1
            ]
            assert alone  # moved away from what its only holder sent
            for outcome in alone:
                name = outcome.state.fragment
                assert theta[name].tobytes() != sent[outcome.contributors[0], name].tobytes()
        assert policy.last_merge is not None and policy.last_merge.total_strength > 0.3 - 0.1
        assert policy.last_merge.cosine_after > policy.last_merge.cosine_before
        await swarm.close()

    asyncio.run(story())


def test_under_spes_an_expert_is_its_holders_to_the_bit_and_the_trunk_the_plain_mean() -> None:
    async def story() -> None:
        policy = RunPolicy(SPES)
        swarm = SimulatedSwarm(3, manifest=SPES, policy=policy)
        await swarm.start()
        sent = {(p.peer_id, n): p.delta(n, 1) for p in swarm.peers for n in policy.numel}
        unequal = zip(swarm.peers, (100, 900, 40), strict=True)
        await asyncio.gather(*(p.round(tokens=tokens) for p, tokens in unequal))
        swarm.assert_level()
        record = swarm.peers[0].ledger.record
        assert record is not None
        for outcome in record.fragments:
            name = outcome.state.fragment
            theta = swarm.peers[0].state.fragments[name].theta
            given = [sent[p, name] for p in outcome.contributors]
            if len(given) == 1:
                assert theta.tobytes() == given[0].tobytes()
            else:
                np.testing.assert_allclose(theta, np.mean(given, axis=0), atol=1e-7)
        await swarm.close()

    asyncio.run(story())


def test_an_expert_that_nobody_trained_stays_as_it_is_and_is_moved_towards() -> None:
    policy = RunPolicy(MERGING)
    base = {name: policy.initial(name) for name in policy.layout.names}
    moved = {
        f"expert.{e}": FragmentState.of(base[f"expert.{e}"].theta * 2, base["expert.0"].momentum, 1)
        for e in (0, 1)
    }
    shadow = policy.finish(1, moved, base)
    assert set(shadow) == {"expert.0", "expert.1"}
    assert shadow["expert.0"].version == 1
    assert shadow["expert.0"].momentum_hash == moved["expert.0"].momentum_hash
    assert shadow["expert.0"].theta_hash != moved["expert.0"].theta_hash
    other = {**base, "expert.3": moved["expert.1"]}
    assert policy.finish(1, moved, other)["expert.0"].theta_hash != shadow["expert.0"].theta_hash
    assert policy.finish(10, moved, base) is moved  # the warm-up is over
