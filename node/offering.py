"""Between a commit and the next: what a worker's round begins from, and the offer it becomes."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from node.worker_messages import Committed, RoundResult
from swarm.collective.codecs import F32
from swarm.collective.context import Offer
from swarm.experts.duties import mean_steps
from swarm.training.policy import RunPolicy
from swarm.training.streaming import due
from swarm.training.unequal import step_scale
from swarm.training.weights import contribution_weights
from swarm.wire import collective_pb2 as pb


def committed_by(
    policy: RunPolicy, record: pb.RoundRecord, commit_id: bytes, versions: Mapping[str, int]
) -> Committed:
    """What the worker is told of the newest commit; `versions` of the fragments that it gets."""
    return Committed(
        commit=commit_id,
        previous=record.previous,
        held=policy.held_experts(record),
        versions=versions,
        contributors={o.state.fragment: len(o.contributors) for o in record.fragments},
        committed_tokens=record.committed_tokens,
        learning_rate=policy.changed(record).training.learning_rate,
        load_LE=np.array(record.routed_tokens) if record.routed_tokens else None,
        selection_bias=list(record.selection_bias),
    )


def offer_of(
    result: RoundResult,
    deltas: Mapping[str, F32],
    policy: RunPolicy,
    record: pb.RoundRecord,
    base_commit: bytes,
) -> Offer:
    """The update that is offered after `record`: those of the `deltas` that are due, weighted.

    They are scaled, where they are, to the mean number of steps, unless the run says not to.
    """
    held = policy.held_experts(record)
    weights = contribution_weights(policy.layout, held, result.tokens, result.routed_LE)
    names = due(policy.layout, weights, policy.manifest.stream.groups, record.round + 1)
    offered = {name: deltas[name] for name in names}
    _normalize(offered, result.steps, policy, record)
    return Offer(
        deltas=offered,
        weights={name: weights[name] for name in names},
        base_commit=base_commit,
        steps=result.steps,
        tokens=result.tokens,
        loss=result.loss,
        train_seconds=result.seconds,
        routed_tokens=[int(count) for count in result.routed_LE.reshape(-1)],
    )


def _normalize(
    deltas: Mapping[str, F32], steps: int, policy: RunPolicy, record: pb.RoundRecord
) -> None:
    sync = policy.manifest.sync
    if not sync.normalize_steps or sync.contribution != "update":  # parameters stay whole
        return
    scale = step_scale(mean_steps(record, policy.steps_per_round(record)), steps)
    if scale != 1.0:
        for delta in deltas.values():
            np.multiply(delta, np.float32(scale), out=delta)
