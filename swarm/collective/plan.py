"""The plan of an attempt: who reduces what from whom. Pure functions; the leader calls `make_plan`,
every member derives its work from the plan with `reducer_jobs`.

Every element of a fragment has exactly one reducer, which is one of the fragment's contributors; a
fragment with one contributor is "reduced" by that peer and only handed on. Nothing depends on the
order in which reports arrived.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from swarm.wire import collective_pb2 as pb
from swarm.wire.membership_pb2 import SignedRecord

CHUNK_ELEMENTS = 1 << 18  # 1 MiB of fp32
WEIGHT_CLIP = 4.0  # contributions count between 1/4 and 4 times the median


def rendezvous_order(key: bytes, peers: Iterable[str]) -> list[str]:
    """Peers by SHA-256(key, peer): the succession of leaders (or reducers) for `key`.

    Everybody computes the same order, it changes with the key, and removing a peer does not
    reorder the others.
    """
    return sorted(set(peers), key=lambda peer: hashlib.sha256(key + b"|" + peer.encode()).digest())


def round_key(run_id: bytes, branch: bytes, round_index: int) -> bytes:
    """Key of the rendezvous order of a round's leaders."""
    return b"|".join((run_id, branch, str(round_index).encode()))


def normalized_weights(weights: Mapping[str, float]) -> dict[str, float]:
    """Weights in sorted peer order, clipped to [1/4, 4] of their median, with sum 1 (fp32)."""
    peers = sorted(weights)
    values = np.array([weights[peer] for peer in peers], dtype=np.float64)
    median = float(np.median(values))
    clipped = values.clip(median / WEIGHT_CLIP, median * WEIGHT_CLIP)
    return {p: float(np.float32(w)) for p, w in zip(peers, clipped / clipped.sum(), strict=True)}


def split_parts(
    numel: int, reducers: Sequence[str], bandwidth: Mapping[str, float]
) -> list[pb.Part]:
    """Cut `numel` elements into one contiguous part per reducer, proportional to bandwidth.

    Unmeasured bandwidth (0) counts as the mean of the measured. Reducers whose part is empty are
    left out.
    """
    measured = [bandwidth[p] for p in reducers if bandwidth.get(p, 0.0) > 0]
    fallback = sum(measured) / len(measured) if measured else 1.0
    shares = [bandwidth.get(p, 0.0) or fallback for p in reducers]
    total = sum(shares)
    edges = [0]
    running = 0.0
    for share in shares:
        running += share
        edges.append(round(numel * running / total))
    edges[-1] = numel
    return [
        pb.Part(begin=begin, end=end, reducer=reducer)
        for reducer, begin, end in zip(reducers, edges, edges[1:], strict=False)
        if end > begin
    ]


@dataclass(frozen=True)
class PlanInputs:
    """What a leader knows when it makes a plan.

    `offers[peer][fragment]` is the weight a peer offers; only peers that trained from `base_commit`
    are in it. `readers_keep_all`: every member keeps every fragment, so all of them compute the
    result and a majority of all must agree on it; else only those who contribute to it do.
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
    attempt_timeout_ms: int
    bandwidth: Mapping[str, float] = field(default_factory=dict)


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
        chunk_elements=CHUNK_ELEMENTS,
        attempt_timeout_ms=inputs.attempt_timeout_ms,
    )
    for fragment in sorted(inputs.numel):
        offered = {
            p: inputs.offers[p][fragment]
            for p in members
            if inputs.offers[p].get(fragment, 0.0) > 0.0
        }
        if offered:
            plan.fragments.append(_plan_fragment(inputs, fragment, offered, members))
    return plan


def _plan_fragment(
    inputs: PlanInputs, fragment: str, offered: Mapping[str, float], members: Sequence[str]
) -> pb.FragmentPlan:
    weights = normalized_weights(
        {p: 1.0 for p in offered} if inputs.equal_weights else dict(offered)
    )
    key = round_key(inputs.run_id, inputs.branch, inputs.round) + b"|" + fragment.encode()
    reducers = rendezvous_order(key, offered)
    return pb.FragmentPlan(
        fragment=fragment,
        numel=inputs.numel[fragment],
        contributors=list(weights),
        weights=list(weights.values()),
        receivers=list(members) if inputs.readers_keep_all else list(weights),
        holders=list(members) if inputs.readers_keep_all else list(weights),
        codec=inputs.codec,
        parts=split_parts(inputs.numel[fragment], reducers, inputs.bandwidth),
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
