"""The plan of an attempt: who reduces what from whom. Pure functions; the leader calls `make_plan`,
every member derives its work from the plan with `reducer_jobs`.

Every element of a fragment has exactly one reducer, which is one of the fragment's contributors; a
fragment with one contributor is "reduced" by that peer and only handed on. Nothing depends on the
order in which reports arrived.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from swarm.collective.codecs import get_codec
from swarm.collective.shares import (
    MAX_STRIPES,
    Rates,
    attempt_timeout,
    chunk_elements,
    predicted_seconds,
    share_parts,
    striped,
)
from swarm.config import TimeoutPolicy
from swarm.wire import collective_pb2 as pb
from swarm.wire.membership_pb2 import SignedRecord

WEIGHT_CLIP = 4.0  # contributions count between 1/4 and 4 times the median
LEAST_WEIGHT = 2.0**-126  # the smallest normal fp32: a contributor's weight is never 0
UNSCALED = (pb.SUM, pb.MAX, pb.MIN)  # operations in which every contribution has weight 1
UNWEIGHTED = (pb.MEDIAN, pb.TRIMMED_MEAN, pb.AGREE)  # in which all weigh the same


def operation_of(aggregation: str) -> int:
    """The `pb.Operation` of a manifest's `sync.aggregation`."""
    return int(pb.Operation.Value(aggregation.upper()))


def rendezvous_order(key: bytes, peers: Iterable[str]) -> list[str]:
    """Peers by SHA-256(key, peer): the succession of leaders (or reducers) for `key`.

    Everybody computes the same order, it changes with the key, and removing a peer does not
    reorder the others.
    """
    return sorted(set(peers), key=lambda peer: hashlib.sha256(key + b"|" + peer.encode()).digest())


def round_key(run_id: bytes, branch: bytes, round_index: int) -> bytes:
    """Key of the rendezvous order of a round's leaders."""
    return b"|".join((run_id, branch, str(round_index).encode()))


def normalized_weights(weights: Mapping[str, float], clip: float) -> dict[str, float]:
    """Weights in sorted peer order, clipped to [1/clip, clip] of their median, with sum 1 (fp32).

    A clip of infinity leaves them in proportion.
    """
    peers = sorted(weights)
    values = np.array([weights[peer] for peer in peers], dtype=np.float64)
    median = float(np.median(values))
    clipped = values.clip(median / clip, median * clip)
    shares = np.maximum(clipped / clipped.sum(), LEAST_WEIGHT)
    return {p: float(np.float32(w)) for p, w in zip(peers, shares, strict=True)}


@dataclass(frozen=True)
class Wish:
    """What is to be done with a tensor under a tag.

    `number` counts the operations under a tag from 1, so that only the same operations meet. Of
    states to be agreed on the one with the highest `state_revision` is taken.
    """

    operation: int = pb.MEAN  # pb.Operation
    codec: str = "fp32"
    number: int = 0
    state_revision: int = 0
    content_hash: bytes = b""  # of a state


@dataclass(frozen=True)
class PlanInputs:
    """What a leader knows when it makes a plan.

    `offers[peer][fragment]` is the weight a peer offers, `norms` the norm that it declares; only
    peers that trained from `base_commit` are in it. `wishes` say for a fragment what is not as the
    run's `operation` and `codec`. `readers_keep_all`: every member keeps every fragment, so all of
    them compute the result and a majority of all must agree on it; else only its contributors do.
    `upload_bps`, `download_bps`: measured bits per second, 0 or nothing when unknown; `relayed`:
    see `Rates`.
    """

    run_id: bytes
    branch: bytes
    round: int
    ballot: pb.Ballot
    base_commit: bytes
    electorate: Sequence[str]
    unanimous: bool
    offers: Mapping[str, Mapping[str, float]]
    numel: Mapping[str, int]
    records: Mapping[str, SignedRecord]
    codec: str
    equal_weights: bool
    readers_keep_all: bool
    timeouts: TimeoutPolicy
    operation: int = pb.MEAN
    norms: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    wishes: Mapping[str, Wish] = field(default_factory=dict)
    upload_bps: Mapping[str, float] = field(default_factory=dict)
    download_bps: Mapping[str, float] = field(default_factory=dict)
    relayed: Mapping[str, float] = field(default_factory=dict)


def make_plan(inputs: PlanInputs) -> pb.Plan:
    """The plan of one attempt; members are the peers with an offer."""
    members = sorted(inputs.offers)
    plan = pb.Plan(
        run_id=inputs.run_id,
        branch=inputs.branch,
        round=inputs.round,
        ballot=inputs.ballot,
        base_commit=inputs.base_commit,
        electorate=sorted(inputs.electorate),
        unanimous=inputs.unanimous,
        members=[pb.Member(peer=p, record=inputs.records[p]) for p in members],
    )
    for fragment in sorted(inputs.numel):
        offered = {
            p: inputs.offers[p][fragment]
            for p in members
            if inputs.offers[p].get(fragment, 0.0) > 0.0
        }
        if offered:
            plan.fragments.append(_plan_fragment(inputs, fragment, offered, members))
    _share_out(plan, inputs)
    return plan


def _share_out(plan: pb.Plan, inputs: PlanInputs) -> None:
    """Add what follows from the links' rates: the parts, the chunk size, the time limit."""
    rates = Rates(inputs.upload_bps, inputs.download_bps, inputs.relayed)
    reduced = [f for f in plan.fragments if f.operation != pb.AGREE]
    plan.chunk_elements = chunk_elements(
        rates, [m.peer for m in plan.members], {f.codec for f in reduced}
    )
    key = round_key(inputs.run_id, inputs.branch, inputs.round)
    orders = [rendezvous_order(key + b"|" + f.fragment.encode(), f.contributors) for f in reduced]
    shares = share_parts(reduced, orders, rates, plan.chunk_elements)
    for fragment, parts in zip(reduced, shares, strict=True):
        named = fragment.fragment in inputs.wishes and get_codec(fragment.codec).lossless
        if named:  # the mean itself is hashed, while it comes in
            parts = striped(parts, plan.chunk_elements, MAX_STRIPES // len(reduced))
        fragment.parts.extend(parts)
    limit = attempt_timeout(predicted_seconds(plan, rates), inputs.timeouts)
    plan.attempt_timeout_ms = round(1000 * limit.total_seconds())


def _weights_of(
    inputs: PlanInputs, fragment: str, offered: Mapping[str, float]
) -> dict[str, float]:
    wish = inputs.wishes.get(fragment)
    operation = wish.operation if wish else inputs.operation
    if operation in UNSCALED:
        return {p: 1.0 for p in sorted(offered)}
    if operation in UNWEIGHTED or (inputs.equal_weights and not wish):
        return normalized_weights({p: 1.0 for p in offered}, WEIGHT_CLIP)
    return normalized_weights(offered, math.inf if wish else WEIGHT_CLIP)


def _plan_fragment(
    inputs: PlanInputs, fragment: str, offered: Mapping[str, float], members: Sequence[str]
) -> pb.FragmentPlan:
    wish = inputs.wishes.get(fragment, Wish(inputs.operation, inputs.codec))
    weights = _weights_of(inputs, fragment, offered)
    agree = wish.operation == pb.AGREE
    everybody = inputs.readers_keep_all and not agree
    declared = wish.operation == pb.CLIPPED_MEAN
    return pb.FragmentPlan(
        fragment=fragment,
        numel=inputs.numel[fragment],
        contributors=list(weights),
        weights=list(weights.values()),
        receivers=list(members) if everybody else list(weights),
        holders=list(members) if everybody else list(weights),
        codec=wish.codec,
        operation=pb.Operation.Name(wish.operation),
        norms=[inputs.norms.get(p, {}).get(fragment, 0.0) for p in weights] if declared else (),
    )


@dataclass(frozen=True)
class Job:
    """One chunk that a reducer owns: elements [begin, end) of a fragment."""

    index: int
    fragment: str
    begin: int
    end: int
    contributors: tuple[str, ...]
    weights: tuple[float, ...]
    receivers: tuple[str, ...]
    codec: str

    @property
    def elements(self) -> int:
        """Number of fp32 values."""
        return self.end - self.begin


def reducer_jobs(plan: pb.Plan, reducer: str) -> list[Job]:
    """The chunks that `reducer` owns, in the order in which everybody sends them."""
    jobs: list[Job] = []
    for fragment in plan.fragments:
        for part in fragment.parts:
            if part.reducer != reducer:
                continue
            for begin in range(part.begin, part.end, plan.chunk_elements):
                jobs.append(
                    Job(
                        index=len(jobs),
                        fragment=fragment.fragment,
                        begin=begin,
                        end=min(begin + plan.chunk_elements, part.end),
                        contributors=tuple(fragment.contributors),
                        weights=tuple(fragment.weights),
                        receivers=tuple(fragment.receivers),
                        codec=fragment.codec,
                    )
                )
    return jobs


def reducers_of(plan: pb.Plan) -> list[str]:
    """Every peer that owns a part, sorted."""
    return sorted({part.reducer for f in plan.fragments for part in f.parts})
