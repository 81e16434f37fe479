"""Training of one arm with one seed, step by step: central, alone, or as a swarm."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Protocol

from swarm.collective.state import FragmentState
from swarm.config import MergeConfig, RunManifest
from swarm.data import Corpus, Sampler
from swarm.model.transformer import Transformer
from swarm.simulation.learning import LearningSwarm
from swarm.training.policy import RunPolicy
from swarm.training.trainer import Trainer
from tests.benchmarks.learning.settings import Arm, Churn
from tests.benchmarks.learning.texts import MixedSampler, mixed_samplers, peer_samplers
from tests.benchmarks.learning.traffic import gradient_bytes, return_bytes, round_bytes


class Run(Protocol):
    """One arm in training.

    Attributes:
        tokens: training tokens so far that count, of all peers.
        bytes_per_peer: mean bytes sent by a peer so far.
    """

    tokens: int
    bytes_per_peer: float

    def advance(self) -> None:
        """Train a little: one round, or as many steps as a round has."""

    def models(self) -> dict[str, Transformer]:
        """What has been learned: one model, or the solo peers' by their domains."""

    def own_models(self) -> dict[str, Transformer]:
        """What a peer has by itself, by its domain; none where that is the whole model."""

    def trainer(self) -> Trainer:
        """One of the trainers, to look at its memory."""


class CentralRun:
    """One model that reads what the peers of a swarm read.

    Its bytes are those of peers that average gradients in each step, which gives this training.
    """

    def __init__(self, arm: Arm, manifest: RunManifest, corpora: Mapping[str, Corpus]) -> None:
        self.tokens, self.bytes_per_peer = 0, 0.0
        training, self._peers = manifest.training, len(corpora)
        each = training.batch_size // (self._peers if arm.small_batch else 1)
        parts = peer_samplers(corpora, each, training.sequence_length, manifest.genesis.seed)
        self._trainer = _trainer(manifest, MixedSampler(list(parts.values())))

    def advance(self) -> None:
        """As many steps as a round has."""
        steps = self._trainer.manifest.training.inner_steps
        self.tokens += sum(self._trainer.train_step().tokens for _ in range(steps))
        self.bytes_per_peer += gradient_bytes(self._trainer.manifest, self._peers, steps)

    def models(self) -> dict[str, Transformer]:
        """The one model."""
        return {"": self._trainer.model}

    def own_models(self) -> dict[str, Transformer]:
        """None."""
        return {}

    def trainer(self) -> Trainer:
        """The one trainer."""
        return self._trainer


class SoloRun:
    """A whole model for each domain, and nothing is exchanged."""

    def __init__(self, arm: Arm, manifest: RunManifest, corpora: Mapping[str, Corpus]) -> None:
        self.tokens, self.bytes_per_peer = 0, 0.0
        training = manifest.training
        share = dataclasses.replace(
            training,
            total_tokens=training.total_tokens // len(corpora),
            warmup_tokens=training.warmup_tokens // len(corpora),
        )
        parts = peer_samplers(
            corpora, training.batch_size, training.sequence_length, manifest.genesis.seed
        )
        alone = dataclasses.replace(manifest, training=share)
        self._trainers = {domain: _trainer(alone, part) for domain, part in parts.items()}

    def advance(self) -> None:
        """As many steps of each as a round has."""
        for trainer in self._trainers.values():
            steps = trainer.manifest.training.inner_steps
            self.tokens += sum(trainer.train_step().tokens for _ in range(steps))

    def models(self) -> dict[str, Transformer]:
        """Each domain's model."""
        return {domain: trainer.model for domain, trainer in self._trainers.items()}

    def own_models(self) -> dict[str, Transformer]:
        """The same."""
        return self.models()

    def trainer(self) -> Trainer:
        """Any of them."""
        return next(iter(self._trainers.values()))


class SwarmRun:
    """A peer for each domain; the committed model counts."""

    def __init__(self, arm: Arm, manifest: RunManifest, corpora: Mapping[str, Corpus]) -> None:
        self.tokens, self.bytes_per_peer = 0, 0.0
        make = mixed_samplers if arm.mixed_text else peer_samplers
        training = manifest.training
        samplers = make(
            corpora, training.batch_size, training.sequence_length, manifest.genesis.seed
        )
        self.swarm = LearningSwarm(manifest, samplers)
        if arm.merge_held is not None:
            self.swarm.policy = HeldMerging(manifest, arm.merge_held)
        self._churn, self._growing, self._round = arm.churn, arm.growing_rounds, 0

    def advance(self) -> None:
        """One round."""
        self._round += 1
        names = list(self.swarm.peers)
        away = away_in(self._churn, self._round, len(names))
        absent = [name for index, name in enumerate(names) if index in away]
        back = away_in(self._churn, self._round - 1, len(names)) - away
        for index in back:
            self.swarm.restart(names[index])
            held = len(self.swarm.held[names[index]])
            self.bytes_per_peer += return_bytes(self.swarm.manifest, held) / len(names)
        if self._growing is not None:
            steps = steps_at(self._growing, self.tokens / self.swarm.manifest.training.total_tokens)
            self.swarm.manifest = with_inner_steps(self.swarm.manifest, steps)
        log = self.swarm.round(absent)
        self.tokens += log.tokens
        self.bytes_per_peer += round_bytes(self.swarm.manifest, log, len(names))

    def models(self) -> dict[str, Transformer]:
        """The committed model."""
        return {"": self.swarm.model()}

    def own_models(self) -> dict[str, Transformer]:
        """Of held-only peers, what each one keeps."""
        if self.swarm.manifest.sync.forward == "full":
            return {}
        return {name: self.swarm.model(name) for name in self.swarm.peers}

    def trainer(self) -> Trainer:
        """A peer's."""
        return next(iter(self.swarm.peers.values())).trainer


class HeldMerging(RunPolicy):
    """The policy of held-only peers, and their experts are merged as those of full ones would be.

    A simulation has all experts at hand; this is what merging would bring if it cost nothing.
    """

    def __init__(self, manifest: RunManifest, merge: MergeConfig) -> None:
        super().__init__(manifest)
        sync = dataclasses.replace(manifest.sync, forward="full")
        self._full = RunPolicy(dataclasses.replace(manifest, sync=sync, merge=merge))

    def finish(
        self,
        round_index: int,
        shadow: Mapping[str, FragmentState],
        base: Mapping[str, FragmentState],
    ) -> Mapping[str, FragmentState]:
        """As `RunPolicy.finish` where peers have all experts."""
        return self._full.finish(round_index, shadow, base)


KINDS: dict[str, type[CentralRun] | type[SoloRun] | type[SwarmRun]] = {
    "central": CentralRun,
    "solo": SoloRun,
    "swarm": SwarmRun,
}


def start(arm: Arm, seed: int, tokens: int, corpora: Mapping[str, Corpus]) -> Run:
    """A run of the arm before its first step; the schedule ends at `tokens`."""
    manifest = dataclasses.replace(
        arm.manifest,
        training=dataclasses.replace(arm.manifest.training, total_tokens=tokens),
        genesis=dataclasses.replace(arm.manifest.genesis, seed=seed),
    )
    return KINDS[arm.kind](arm, manifest, corpora)


def _trainer(manifest: RunManifest, sampler: Sampler) -> Trainer:
    trainer = Trainer(manifest, sampler, range(manifest.model.num_experts))
    trainer.load_initial()
    return trainer


def steps_at(growing: tuple[int, int], progress: float) -> int:
    """Inner steps of a round that begins when this share of the tokens is trained."""
    first, last = growing
    return round(first + (last - first) * progress)


def with_inner_steps(manifest: RunManifest, steps: int) -> RunManifest:
    """The manifest with other rounds, as after a change of a run that goes on."""
    training = dataclasses.replace(manifest.training, inner_steps=steps)
    return dataclasses.replace(manifest, training=training)


def away_in(churn: Churn | None, round_index: int, peers: int) -> set[int]:
    """Indices of the peers that are away in a round (from 1)."""
    if churn is None or round_index < churn.every_rounds:
        return set()
    deaths, since = divmod(round_index, churn.every_rounds)
    return {(deaths - 1) % peers} if since < churn.away_rounds else set()
