"""What a round did, in numbers for `node status --rounds`: see `swarm/training/metrics.py`.

`watch` remembers what a node offered and from what; after the commit, `finish` says what came of
it. The arrays of commits are never changed, so nothing is copied.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from swarm.collective.context import Offer
from swarm.collective.state import FragmentState
from swarm.training.metrics import (
    agreement,
    expert_cosine,
    largest_load,
    mean_update,
    routing_entropy,
)
from swarm.training.policy import RunPolicy
from swarm.wire import collective_pb2 as pb


@dataclass(frozen=True)
class RoundWatch:
    """One round of one node: the state before it and what this node offered in it."""

    policy: RunPolicy
    before: Mapping[str, FragmentState]
    offer: Offer
    routing_divergence: float | None = None

    def finish(
        self, record: pb.RoundRecord, after: Mapping[str, FragmentState]
    ) -> dict[str, float]:
        """Numbers by name; those that can not be had are left out. Takes a pass over the state."""
        numbers: dict[str, float] = {}
        if record.routed_tokens:
            shape = (self.policy.manifest.model.num_layers, -1)
            counts_LE = np.array(record.routed_tokens, dtype=np.float64).reshape(shape)
            numbers["routing_entropy"] = routing_entropy(counts_LE)
            numbers["largest_load"] = largest_load(counts_LE)
        if self.routing_divergence is not None:
            numbers["routing_divergence"] = self.routing_divergence
        layout = self.policy.layout
        experts = {
            e: s.theta for n, s in after.items() if (e := layout.expert_index(n)) is not None
        }
        if len(experts) > 1:
            numbers["expert_cosine"] = expert_cosine(layout, experts)
        numbers |= self._agreement(record, after)
        merge = self.policy.last_merge
        if merge is not None and merge.round == record.round:
            numbers["merge_strength"] = merge.strength
            numbers["merge_total_strength"] = merge.total_strength
            numbers["merge_cosine_before"] = merge.cosine_before
            numbers["merge_cosine_after"] = merge.cosine_after
        return numbers

    def _agreement(
        self, record: pb.RoundRecord, after: Mapping[str, FragmentState]
    ) -> dict[str, float]:
        """Of the trunk: an expert that one peer trains always agrees with itself."""
        manifest = self.policy.manifest
        if record.previous != self.offer.base_commit:
            return {}
        own, mean = [], []
        advanced = {o.state.fragment for o in record.fragments if o.advanced}
        for name in self.policy.layout.trunk_names:
            if name not in advanced or name not in self.offer.deltas or name not in after:
                continue
            old, new = self.before[name], after[name]
            given = self.offer.deltas[name]
            own.append(old.theta - given if manifest.sync.contribution == "parameters" else given)
            states = ((old.theta, old.momentum), (new.theta, new.momentum))
            mean.append(mean_update(manifest.outer, *states))
        return {"update_agreement": agreement(own, mean)} if own else {}
