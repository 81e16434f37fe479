"""The inner loop: only held experts move, resuming is exact, bad numbers stop it in time."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from swarm.config import BalanceConfig, OuterConfig, RunManifest, SyncConfig, TrainingConfig
from swarm.data import Corpus, DataReport, Sampler
from swarm.errors import Code, SwarmError
from swarm.model.config import ModelConfig
from swarm.model.fragment_io import read_fragment
from swarm.training.checkpoint import load_checkpoint, save_checkpoint
from swarm.training.trainer import RNG_KEY, Trainer

MANIFEST = RunManifest(
    model=ModelConfig(
        d_model=16, num_layers=2, num_heads=2, num_kv_heads=2, d_ff=24, num_experts=4
    ),
    training=TrainingConfig(
        inner_steps=10, batch_size=4, sequence_length=16, warmup_tokens=0, weight_decay=0.5
    ),
)
HELD_FORWARD = replace(MANIFEST, sync=SyncConfig(forward="held", router_rows="expert"))


def corpus(name: str = "corpus") -> Corpus:
    words = np.frombuffer(b"the quick brown fox jumps over the lazy dog. " * 40, np.uint8)
    return Corpus(words.astype(np.uint16), words[:50].astype(np.uint16), DataReport(), name)


def trainer(
    held: Iterable[int] = (0, 1), manifest: RunManifest = MANIFEST, initial: bool = True
) -> Trainer:
    training = manifest.training
    sampler = Sampler(corpus(), training.batch_size, training.sequence_length, seed=0)
    made = Trainer(manifest, sampler, held)
    if initial:
        made.load_initial()
    return made


def fragments(source: Trainer) -> dict[str, np.ndarray]:
    values = {}
    for name in source.needed_names:
        values[name] = np.empty(source.layout.numel(name), np.float32)
        read_fragment(source.model, source.layout, name, values[name])
    return values


def losses(source: Trainer, steps: int) -> list[float]:
    return [source.train_step().loss for _ in range(steps)]


def starve_all_but_experts_0_and_2(source: Trainer) -> None:
    """Opposite rows win every token under top-1; rows of zeros are never first."""
    for name, row_D in source.model.named_parameters():
        if ".gate.weight." in name:
            with torch.no_grad():
                row_D.zero_()
                row_D[0] = {"0": 10.0, "2": -10.0}.get(name[-1], 0.0)


def test_training_alone_learns_something() -> None:
    history = losses(trainer(held=range(4)), 40)
    assert history[0] == pytest.approx(np.log(259), rel=0.05)
    assert history[-1] < 0.7 * history[0]


def test_only_the_trunk_and_held_experts_move_though_weight_decay_is_on() -> None:
    peer = trainer(held=[0, 1])
    before = fragments(peer)
    losses(peer, 5)
    after = fragments(peer)
    moved = {name for name in before if before[name].tobytes() != after[name].tobytes()}
    assert moved == {"trunk.0", "trunk.1", "expert.0", "expert.1"}
    frozen = [p for n, p in peer.model.named_parameters() if ".experts.2." in n]
    assert frozen and not any(p.requires_grad or p.grad is not None for p in frozen)
    assert not any(".experts.2." in key for key in peer.optimizer.state_tensors())


def test_router_rows_of_experts_are_frozen_with_them_when_they_travel_with_them() -> None:
    sync = SyncConfig(router_rows="expert")
    peer = trainer(held=[3], manifest=replace(MANIFEST, sync=sync))
    before = fragments(peer)
    losses(peer, 3)
    after = fragments(peer)
    moved = {name for name in before if before[name].tobytes() != after[name].tobytes()}
    assert moved == {"trunk.0", "trunk.1", "expert.3"}


@pytest.mark.parametrize("rows", ["trunk", "expert"])
def test_an_expert_without_tokens_is_bitwise_unchanged_also_by_old_momentum(
    rows: str,
) -> None:
    top_1 = replace(MANIFEST.model, top_k=1)
    manifest = replace(MANIFEST, model=top_1, sync=SyncConfig(router_rows=rows))
    peer = trainer(held=[0, 1, 2, 3], manifest=manifest)
    losses(peer, 3)  # all experts have momentum now
    starve_all_but_experts_0_and_2(peer)
    before = fragments(peer)
    state_before = peer.optimizer.state_tensors()
    stats = peer.train_step()
    assert stats.routed_LE[:, 1].sum() == 0
    after = fragments(peer)
    assert before["expert.1"].tobytes() == after["expert.1"].tobytes()
    assert before["expert.0"].tobytes() != after["expert.0"].tobytes()
    idle = [key for key in state_before if ".experts.1." in key]
    state_after = peer.optimizer.state_tensors()
    assert idle and all(torch.equal(state_before[key], state_after[key]) for key in idle)
    grads = [p.grad for p in peer.optimizer.fragments["expert.1"].values()]
    assert grads and all(grad is None for grad in grads)


def test_weight_decay_shrinks_matrices_only() -> None:
    peer = trainer()
    decays = {
        parameter: group["weight_decay"]
        for group in peer.optimizer._adamw.param_groups
        for parameter in group["params"]
    }
    assert {p.ndim: d for p, d in decays.items()} == {1: 0.0, 2: 0.5}
    assert len(decays) == len(peer.optimizer.parameters)


@pytest.mark.parametrize("manifest", [MANIFEST, HELD_FORWARD], ids=["full", "held"])
def test_a_lost_expert_loses_its_adam_state_and_a_gained_one_starts_fresh(
    manifest: RunManifest,
) -> None:
    peer = trainer(held=[0, 1], manifest=manifest)
    everything = trainer(held=range(4), manifest=manifest)
    losses(peer, 4)
    trunk = peer.optimizer.state_tensors()["lm_head.weight/exp_avg"]
    before = fragments(peer)
    peer.set_held([1, 2])
    state = peer.optimizer.state_tensors()
    assert not any(".experts.0." in key or ".experts.2." in key for key in state)
    assert torch.equal(state["lm_head.weight/exp_avg"], trunk)
    assert any(".experts.1." in key for key in state)
    assert peer.optimizer.age_steps == {"trunk.0": 4, "trunk.1": 4, "expert.1": 4, "expert.2": 0}
    if manifest is HELD_FORWARD:
        with pytest.raises(AssertionError, match=r"expert\.2"):
            peer.train_step()
        peer.load({"expert.2": fragments(everything)["expert.2"]})
    assert fragments(peer)["trunk.0"].tobytes() == before["trunk.0"].tobytes()
    losses(peer, 2)
    peer.set_held([0, 1])
    assert not any(".experts.2." in key for key in peer.optimizer.state_tensors())
    assert peer.optimizer.age_steps["expert.0"] == 0


def test_held_forward_keeps_only_held_experts_in_memory() -> None:
    peer = trainer(held=[1, 3], manifest=HELD_FORWARD)
    present = {
        n.split(".experts.")[1][0] for n, _ in peer.model.named_parameters() if ".experts." in n
    }
    assert present == {"1", "3"}
    stats = peer.train_step()
    assert stats.routed_LE.shape == (2, 4) and stats.routed_LE[:, [0, 2]].sum() == 0
    assert stats.routed_LE.sum() == stats.tokens * 2 * 2


@pytest.mark.parametrize("manifest", [MANIFEST, HELD_FORWARD], ids=["full", "held"])
def test_a_newcomer_without_an_assignment_waits_for_its_first_experts(
    manifest: RunManifest,
) -> None:
    peer = trainer(held=[], manifest=manifest)
    assert peer.trainable_names == ("trunk.0", "trunk.1")
    if manifest is HELD_FORWARD:
        with pytest.raises(AssertionError, match="needs an expert"):
            peer.train_step()
    peer.set_held([2, 3])
    peer.load_initial()
    before = fragments(peer)
    peer.train_step()
    assert fragments(peer)["expert.2"].tobytes() != before["expert.2"].tobytes()


def test_the_pseudo_gradient_is_base_minus_local() -> None:
    peer = trainer()
    base = fragments(peer)
    losses(peer, 3)
    local = fragments(peer)
    for name in peer.trainable_names:
        delta = np.empty_like(base[name])
        peer.pseudo_gradient(name, base[name], delta)
        assert delta.tobytes() == (base[name] - local[name]).tobytes()
        assert delta.any()


def test_a_peer_gives_its_update_or_its_parameters_as_the_run_says() -> None:
    sync = SyncConfig(contribution="parameters", aggregation="mean")
    spes = replace(MANIFEST, outer=OuterConfig(optimizer="fedavg"), sync=sync)
    peer = trainer(manifest=spes)
    base = fragments(peer)["expert.0"]
    losses(peer, 2)
    given = np.empty_like(base)
    peer.contribute("expert.0", base, given)
    assert given.tobytes() == fragments(peer)["expert.0"].tobytes()
    peer.manifest = MANIFEST
    peer.contribute("expert.0", base, given)
    assert given.tobytes() == (base - fragments(peer)["expert.0"]).tobytes()


def test_at_first_a_peer_sends_its_own_experts_more_tokens_than_balance_asks_for() -> None:
    config = replace(MANIFEST.training, load_balance_weight=3.0, total_tokens=10**6)
    shares = []
    for factor in (1.0, 0.1):
        manifest = replace(MANIFEST, training=config, balance=BalanceConfig(own_factor=factor))
        peer = trainer(held=[0, 1], manifest=manifest)
        losses(peer, 15)
        routed_LE = sum(peer.train_step().routed_LE for _ in range(5))
        shares.append(routed_LE[:, :2].sum() / routed_LE.sum())
    assert shares[1] > shares[0] + 0.05


def test_the_rate_follows_the_runs_tokens_also_within_a_round() -> None:
    config = replace(MANIFEST.training, warmup_tokens=6400, learning_rate=1.0)
    peer = trainer(manifest=replace(MANIFEST, training=config))
    assert peer.train_step().learning_rate == pytest.approx(0.01)
    assert peer.train_step().learning_rate == pytest.approx(0.02)
    peer.set_schedule(committed_tokens=3200)
    assert peer.train_step().learning_rate == pytest.approx(0.51)


def test_the_swarms_load_changes_the_gradient() -> None:
    config = replace(MANIFEST.training, load_balance_weight=10.0)
    results = []
    for load in (None, [[100, 0, 0, 0], [100, 0, 0, 0]]):
        peer = trainer(manifest=replace(MANIFEST, training=config))
        peer.set_global_load(load)
        losses(peer, 2)
        results.append(fragments(peer)["trunk.0"])
    assert not np.array_equal(*results)


@pytest.mark.parametrize("manifest", [MANIFEST, HELD_FORWARD], ids=["full", "held"])
def test_resuming_from_a_checkpoint_gives_the_same_losses_to_the_bit(
    manifest: RunManifest, tmp_path: Path
) -> None:
    straight = trainer(manifest=manifest)
    losses(straight, 4)
    save_checkpoint(tmp_path / "c", *straight.state_dict())
    committed = fragments(straight)
    expected = losses(straight, 4)

    torch.manual_seed(12345)
    resumed = trainer(manifest=manifest, initial=False)
    resumed.load(committed)
    resumed.load_state_dict(*load_checkpoint(tmp_path / "c"))
    assert losses(resumed, 4) == expected
    assert fragments(resumed)["trunk.0"].tobytes() == fragments(straight)["trunk.0"].tobytes()
    assert resumed.step == 8


def test_a_checkpoint_serves_a_peer_that_holds_other_experts_now(tmp_path: Path) -> None:
    before = trainer(held=[0, 1])
    losses(before, 3)
    after = trainer(held=[1, 2])
    after.load_state_dict(*before.state_dict())
    state = after.optimizer.state_tensors()
    assert any(".experts.1." in key for key in state)
    assert not any(".experts.0." in key or ".experts.2." in key for key in state)
    assert after.optimizer.age_steps["expert.2"] == 0 and after.sampler.position == 3


def test_a_state_that_does_not_fit_is_refused_and_changes_nothing() -> None:
    source, target = trainer(), trainer()
    losses(source, 2)
    tensors, meta = source.state_dict()
    name = next(key for key in tensors if key.endswith("exp_avg"))
    wrong = [
        (tensors, {**meta, "run_id": "00"}, Code.RUN_MISMATCH),
        (tensors, {**meta, "sampler": {}}, Code.CHECKPOINT_CORRUPT),
        (tensors, {k: v for k, v in meta.items() if k != "step"}, Code.CHECKPOINT_CORRUPT),
        ({**tensors, name: torch.zeros(3)}, meta, Code.CHECKPOINT_CORRUPT),
        ({k: v for k, v in tensors.items() if k != name}, meta, Code.CHECKPOINT_CORRUPT),
        ({**tensors, RNG_KEY: torch.zeros(3)}, meta, Code.CHECKPOINT_CORRUPT),
    ]
    random_state = torch.get_rng_state()
    for bad_tensors, bad_meta, code in wrong:
        with pytest.raises(SwarmError) as caught:
            target.load_state_dict(bad_tensors, bad_meta)
        assert caught.value.code is code
        assert (target.step, target.sampler.position) == (0, 0)
        assert not any(key.endswith("exp_avg") for key in target.state_dict()[0])
        assert torch.equal(torch.get_rng_state(), random_state)


@pytest.mark.parametrize("place", ["start", "header", "middle", "end", "cut", "empty"])
def test_a_damaged_checkpoint_is_refused(place: str, tmp_path: Path) -> None:
    path = tmp_path / "c.safetensors"
    source = trainer()
    losses(source, 1)
    save_checkpoint(path, *source.state_dict())
    content = bytearray(path.read_bytes())
    if place in ("cut", "empty"):
        content = content[: len(content) // 2 if place == "cut" else 0]
    else:
        spots = {"start": 3, "header": content.index(b"committed_tokens"), "end": -1}
        content[spots.get(place, len(content) // 2)] ^= 0x11
    path.write_bytes(content)
    with pytest.raises(SwarmError, match=r"c\.safetensors") as caught:
        load_checkpoint(path)
    assert caught.value.code is Code.CHECKPOINT_CORRUPT


def test_a_loss_that_is_not_finite_names_the_step_and_changes_nothing() -> None:
    peer = trainer()
    losses(peer, 2)
    before = fragments(peer)
    for parameter in (peer.model.lm_head.weight, peer.model.model.embed_tokens.weight):
        saved = parameter.detach().clone()
        with torch.no_grad():
            parameter[ord("e")] = np.inf
        with pytest.raises(SwarmError, match="step 3") as caught:
            peer.train_step()
        assert caught.value.code is Code.NON_FINITE
        with torch.no_grad():
            parameter.copy_(saved)
    after = fragments(peer)
    assert all(before[name].tobytes() == after[name].tobytes() for name in before)
    peer.train_step()


def test_training_before_loading_is_refused() -> None:
    with pytest.raises(AssertionError, match="never loaded"):
        trainer(initial=False).train_step()
