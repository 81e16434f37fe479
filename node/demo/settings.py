"""What the demo runs: its peers, its manifest, and where its files go."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path

from node.daemon_config import data_directory
from node.testnet import PeerPlan
from swarm.config import OuterConfig, RunManifest, TrainingConfig
from swarm.model.config import ModelConfig

DOMAINS = ("python", "cpp", "maths", "english")
EXPERTS = 8
SEED = 7
VICTIM = 2  # index of the peer that is killed; not the one the others joined through
ROUND_S = 5.0  # wanted length of a round, of which the demo's speed test derives the steps
DEAD_S = 3.0  # between the kill and the restart


@dataclass(frozen=True)
class DemoSettings:
    """Arguments of the demo."""

    seconds: float
    """Training time, one half for the swarm, one for the peers alone."""

    out: Path
    """Directory for the nodes, the models and the corpora."""

    @property
    def swarm_s(self) -> float:
        """Training time of the swarm."""
        return self.seconds / 2

    @property
    def peers(self) -> tuple[PeerPlan, ...]:
        """One peer for each domain."""
        return tuple(PeerPlan(domain, domain, f"demo:{domain}") for domain in DOMAINS)

    @property
    def manifest_path(self) -> Path:
        """The demo's run manifest."""
        return self.out / "RUN.toml"

    @property
    def nodes_dir(self) -> Path:
        """Directories of the nodes, each named like its domain."""
        return self.out / "nodes"

    def corpus_dir(self, domain: str) -> Path:
        """Prepared tokens of a domain: those of its peer, so that they are made only once."""
        return data_directory(self.nodes_dir / domain)

    def solo_dir(self, domain: str) -> Path:
        """Model of the peer that trained alone."""
        return self.out / "solo" / domain

    @property
    def assembled_dir(self) -> Path:
        """The swarm's assembled model."""
        return self.out / "assembled"


def demo_manifest(swarm_s: float, tokens_per_second: float) -> RunManifest:
    """Manifest for a swarm that trains `swarm_s` with `tokens_per_second` per peer.

    The steps of a round and the learning rate schedule follow from the speed of the machine, so
    that a fast one and a slow one both see about as many rounds and a whole schedule. The model is
    the one that learns most in a minute of one core; with so few rounds plain averaging learns more
    than outer momentum (docs/log.md).
    """
    base = RunManifest(
        name="demo",
        model=ModelConfig(
            d_model=64, num_layers=2, d_ff=128, num_experts=EXPERTS, context_length=64
        ),
        training=TrainingConfig(batch_size=16, sequence_length=64, learning_rate=6e-3),
        outer=OuterConfig(optimizer="fedavg"),
    )
    step_tokens = base.training.batch_size * base.training.sequence_length
    round_s = min(ROUND_S, swarm_s / 8)
    steps = max(2, min(500, round(round_s * tokens_per_second / step_tokens)))
    total = max(1, round(len(DOMAINS) * tokens_per_second * swarm_s))
    return dataclasses.replace(
        base,
        training=dataclasses.replace(
            base.training, inner_steps=steps, total_tokens=total, warmup_tokens=total // 20
        ),
        sync=dataclasses.replace(base.sync, experts_per_peer=EXPERTS // len(DOMAINS)),
        membership=dataclasses.replace(base.membership, min_peers=len(DOMAINS)),
        genesis=dataclasses.replace(base.genesis, seed=SEED),
    )
