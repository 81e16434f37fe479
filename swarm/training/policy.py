"""A run's policy over fragments, as the round protocol needs it (`swarm.collective.member.Policy`).

Made from the manifest alone: which fragments a peer keeps, their initial state, the outer step, and
who holds which experts. All of it is pure and gives the same bits on every machine.
"""

from __future__ import annotations

import functools
from collections.abc import Collection, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from swarm.collective.buffers import take
from swarm.collective.changes import changed_manifest, in_effect
from swarm.collective.codecs import U8
from swarm.collective.state import FragmentState, hash_of, version_message
from swarm.config import RunManifest
from swarm.errors import Code, SwarmError
from swarm.experts.assignment import AssignmentRules
from swarm.experts.capability import Sizes
from swarm.experts.duties import DutyRules, assignment_of, fill_duties
from swarm.model.fragments import FragmentLayout, initial_fragment, state_root
from swarm.training.genesis import layout_of, pinned_hashes
from swarm.training.merging import merge_experts, merge_strength, merged_total
from swarm.training.outer import update_fragment
from swarm.training.streaming import due
from swarm.wire import collective_pb2 as pb

F32 = npt.NDArray[np.float32]


@dataclass(frozen=True)
class MergeReport:
    """A merger of similar experts, for people: strengths, and mean cosines of pairs of experts."""

    round: int
    strength: float
    total_strength: float
    cosine_before: float
    cosine_after: float


class RunPolicy:
    """See the module docstring. `me` is the peer whose copy this is; None keeps everything.

    Attributes:
        last_merge: the last merger that was computed here, or None.
    """

    def __init__(self, manifest: RunManifest, me: str | None = None) -> None:
        self.manifest = manifest
        self.layout = layout_of(manifest)
        self.numel: Mapping[str, int] = {n: self.layout.numel(n) for n in self.layout.names}
        self.open_tags = False
        self.routing_width = manifest.model.num_layers * manifest.model.num_experts
        self.last_merge: MergeReport | None = None
        self.me = me
        self._pinned = pinned_hashes(manifest, self.layout)
        self._initial: dict[str, FragmentState] = {}

    def changed(self, record: pb.RoundRecord | None) -> RunManifest:
        """The manifest as it holds after `record`, with what the coordinator has changed."""
        return changed_manifest(self.manifest, in_effect(record))

    def steps_per_round(self, record: pb.RoundRecord | None) -> int:
        """Inner steps of a round after `record`, of a peer that does all of them."""
        return self.changed(record).steps_per_round

    def held_experts(self, record: pb.RoundRecord | None) -> list[int]:
        """Experts that the record assigns to this peer."""
        return list(assignment_of(record, self.me).experts)

    def trains(self, record: pb.RoundRecord, peer: str) -> list[str]:
        """Fragments that `peer` may contribute to in the round after `record`: those due then."""
        groups = self.manifest.stream.groups
        return due(self.layout, self.holds(record, peer), groups, record.round + 1)

    def holds(self, record: pb.RoundRecord, peer: str) -> list[str]:
        """Fragments that `peer` trains after `record`: the trunk and its experts."""
        experts = assignment_of(record, peer).experts
        return [*self.layout.trunk_names, *(self.layout.expert_name(e) for e in experts)]

    def wanted(self, record: pb.RoundRecord | None) -> Collection[str]:
        """Fragments that this peer keeps: all of them, or with `held` what it trains."""
        if self.me is None or self.manifest.sync.forward == "full":
            return self.layout.names
        return self.holds(record, self.me) if record is not None else self.layout.trunk_names

    def initial(self, fragment: str) -> FragmentState:
        """The fragment at genesis: computed once, or what `begin` was given.

        Raises `FRAGMENT_UNAVAILABLE` when the run begins with a model that is not here.
        """
        if fragment not in self._initial:
            if self._pinned is not None:
                raise SwarmError(
                    Code.FRAGMENT_UNAVAILABLE,
                    f"{fragment} of the model that the run begins with is not here",
                    "put the .genesis file of node run init beside RUN.toml",
                )
            seed = self.manifest.genesis.seed
            theta = initial_fragment(self.manifest.model, self.layout, fragment, seed)
            self._initial[fragment] = FragmentState.initial(theta)
        return self._initial[fragment]

    def initial_version(self, fragment: str) -> pb.FragmentVersion:
        """Version and hashes of the fragment at genesis."""
        if self._pinned is None:
            return version_message(fragment, self.initial(fragment))
        return pb.FragmentVersion(
            fragment=fragment,
            theta_hash=self._pinned[fragment],
            momentum_hash=_hash_of_zeros(self.numel[fragment]),
        )

    @property
    def begins_with_model(self) -> bool:
        """True when the initial fragments can not be computed from the manifest."""
        return self._pinned is not None

    def begin(self, fragments: Mapping[str, F32]) -> None:
        """Take the model that the run begins with, from `read_genesis`."""
        self._initial = {name: FragmentState.initial(theta) for name, theta in fragments.items()}

    def check_genesis(self) -> dict[str, FragmentState]:
        """All fragments at genesis.

        Raises `CONFIG_INVALID` when they are not those that the manifest was made with, and as
        `initial`.
        """
        states = {name: self.initial(name) for name in self.layout.names}
        root = state_root({name: state.theta_hash for name, state in states.items()}).hex()
        if self.manifest.genesis.state_root not in ("", root):
            raise SwarmError(
                Code.CONFIG_INVALID,
                f"genesis.state_root: this version makes {root[:16]}, not the manifest's "
                f"{self.manifest.genesis.state_root[:16]}",
                "use the version of expertswarm that made the manifest",
            )
        return states

    def forget_initial(self) -> None:
        """Free the initial fragments once a commit has replaced them."""
        self._initial.clear()

    def apply(
        self,
        fragment: str,
        mean: F32,
        state: FragmentState,
        contributors: int,
        encoded: U8 | None = None,
        name: bytes | None = None,
    ) -> FragmentState:
        """The outer step on one fragment; where peers send parameters, their mean as it is."""
        if self.manifest.sync.contribution == "parameters":
            return FragmentState.of(mean, state.momentum, state.version + 1)
        theta, momentum = take(state.theta.size), take(state.momentum.size)
        update_fragment(
            self.manifest.outer,
            contributors,
            state.theta,
            state.momentum,
            mean,
            out_theta=theta,
            out_momentum=momentum,
        )
        return FragmentState.of(theta, momentum, state.version + 1)

    def finish(
        self,
        round_index: int,
        shadow: Mapping[str, FragmentState],
        base: Mapping[str, FragmentState],
    ) -> Mapping[str, FragmentState]:
        """Merge similar experts, in the rounds in which the warm-up does.

        An expert that nobody trained is one to move towards, and stays itself as it is.
        """
        strength = merge_strength(self.manifest, round_index)
        receivers = [e for n in shadow if (e := self.layout.expert_index(n)) is not None]
        if strength == 0.0 or not receivers:
            return shadow
        states = {**base, **shadow}
        names = {e: self.layout.expert_name(e) for e in range(self.manifest.model.num_experts)}
        experts = {e: states[name].theta for e, name in names.items()}
        neighbours = self.manifest.merge.neighbours
        merger = merge_experts(self.layout, experts, receivers, strength, neighbours)
        total = merged_total(self.manifest, round_index)
        cosines = (merger.cosine_before, merger.cosine_after)
        self.last_merge = MergeReport(round_index, strength, total, *cosines)
        merged = {
            name: FragmentState.of(theta, shadow[name].momentum, shadow[name].version)
            for name, theta in merger.merged.items()
        }
        return {**shadow, **merged}

    def assign(
        self,
        record: pb.RoundRecord,
        previous: pb.RoundRecord | None,
        ready: Mapping[str, pb.Ready],
    ) -> None:
        """Experts and steps of each member of the record's roster."""
        fill_duties(record, previous, ready, _duty_rules(self.changed(record), self.layout))


@functools.cache
def _hash_of_zeros(numel: int) -> bytes:
    return hash_of(np.zeros(numel, dtype=np.float32))


def _duty_rules(manifest: RunManifest, layout: FragmentLayout) -> DutyRules:
    sync, training = manifest.sync, manifest.training
    experts = AssignmentRules(
        num_experts=manifest.model.num_experts,
        per_peer=sync.experts_per_peer,
        replication=sync.replication,
        min_dwell=sync.min_dwell_rounds,
        orphan_rounds=sync.orphan_rounds,
    )
    sizes = Sizes(
        trunk=sum(layout.numel(name) for name in layout.trunk_names),
        expert=layout.numel(layout.expert_name(0)),
        num_experts=manifest.model.num_experts,
        full=sync.forward == "full",
    )
    return DutyRules(
        assignment=experts,
        inner_steps=manifest.steps_per_round,
        min_inner_steps=min(training.min_inner_steps, manifest.steps_per_round),
        dynamic_steps=sync.step_counts == "dynamic",
        sizes=sizes,
    )
