"""A run small enough for tests: its manifest, and a few kilobytes of text for each peer."""

from __future__ import annotations

from pathlib import Path

from node.commands.run import found_run
from node.testnet import PeerPlan
from swarm.config import (
    GenesisConfig,
    MembershipConfig,
    RunManifest,
    SyncConfig,
    TimeoutPolicy,
    TrainingConfig,
)
from swarm.model.config import ModelConfig

SENTENCES = (
    "the peer said that its expert was not yet there.",
    "a fragment has a name, a version and a hash.",
    "x squared plus y squared is z squared, as was shown before.",
    "return the sum of all values that are not none;",
)


def tiny_manifest(
    path: Path,
    peers: int,
    *,
    inner_steps: int = 20,
    sync: SyncConfig | None = None,
    on_majority_lost: str = "continue",
) -> RunManifest:
    """Write a founded manifest for `peers` peers with one expert each, at most four."""
    manifest = RunManifest(
        name="tiny",
        model=ModelConfig(
            d_model=32, num_layers=2, num_heads=2, num_kv_heads=2, d_ff=32, num_experts=4,
            context_length=64,
        ),
        training=TrainingConfig(
            inner_steps=inner_steps, batch_size=4, sequence_length=32, warmup_tokens=1000,
            total_tokens=10_000_000,
        ),
        sync=sync or SyncConfig(experts_per_peer=1),
        membership=MembershipConfig(min_peers=peers, on_majority_lost=on_majority_lost),
        timeouts=TimeoutPolicy(
            heartbeat_s=2.0, chunk_s=5.0, attempt_s=20.0, round_s=30.0, join_s=90.0, lease_s=120.0
        ),
        genesis=GenesisConfig(seed=3),
    )  # fmt: skip
    return found_run(manifest, path)


def tiny_peers(root: Path, count: int) -> list[PeerPlan]:
    """Peers p0, p1, ... each with a directory of its own text."""
    plans = []
    for index in range(count):
        directory = root / f"text-{index}"
        directory.mkdir(parents=True)
        for number in range(40):
            sentence = SENTENCES[(index + number % 2) % len(SENTENCES)]
            text = "\n".join(f"{number}.{line} {sentence}" for line in range(20))
            (directory / f"{number}.txt").write_text(text, encoding="utf-8")
        plans.append(PeerPlan(f"p{index}", f"domain-{index}", str(directory)))
    return plans
