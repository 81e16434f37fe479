"""The content that a round decides, from what its leader knows. Pure.

Whoever leads, a record follows from the plan, the reports and who is there; nothing in it depends
on the order in which they came.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

from swarm.collective.consensus import fragment_results, outcome_of
from swarm.collective.context import Policy
from swarm.collective.tallies import add_tallies
from swarm.wire import collective_pb2 as pb

MAX_REASON = 200  # characters of why a peer is missing; it may be what another peer said


@dataclass(frozen=True)
class RecordInputs:
    """What a leader knows at the end of an attempt.

    `dead` and `excluded` say of peers why they are out: the dead leave the roster, the excluded
    were only left out of this round's attempt.
    """

    plan: pb.Plan
    previous: pb.RoundRecord | None
    reports: Mapping[str, pb.Report]
    ready: Mapping[str, pb.Ready]
    roster: Sequence[str]
    joiners: Sequence[str]
    dead: Mapping[str, str]
    excluded: Mapping[str, str]
    resignations: Mapping[str, pb.Resignation]
    proposer: str
    attempts: int
    decided_at_ms: int
    change: pb.SignedChange = field(default_factory=pb.SignedChange)
    """Of the run, in effect from the next round on; empty: none."""

    @property
    def contributors(self) -> list[str]:
        """Members of the attempt."""
        return sorted(m.peer for m in self.plan.members)


def agreed(fragment: str, previous: pb.RoundRecord | None, policy: Policy) -> pb.FragmentVersion:
    """What everybody agrees a fragment is before the round."""
    if fragment not in policy.numel and policy.open_tags:
        states = [o.state for o in previous.fragments] if previous is not None else []
        unused = pb.FragmentVersion(fragment=fragment)
        return next((s for s in states if s.fragment == fragment), unused)
    if previous is None:
        return policy.initial_version(fragment)
    return next(o.state for o in previous.fragments if o.state.fragment == fragment)


def build_record(inputs: RecordInputs, policy: Policy) -> pb.RoundRecord:
    """The record of the attempt that `inputs` describes."""
    plan, previous = inputs.plan, inputs.previous
    joined = [p for p in inputs.joiners if p not in inputs.roster]
    staying = sorted({p for p in inputs.roster if p not in inputs.dead} | set(joined))
    missing = _missing(inputs)
    tokens = sum(inputs.ready[p].tokens for p in inputs.contributors)
    record = pb.RoundRecord(
        run_id=plan.run_id,
        branch=_branch(plan),
        round=plan.round,
        previous=plan.base_commit,
        electorate=plan.electorate,
        unanimous=plan.unanimous,
        roster=staying,
        missing=missing,
        joined=sorted(joined),
        left=sorted(p for p in inputs.roster if p not in staying),
        committed_tokens=(previous.committed_tokens if previous is not None else 0) + tokens,
        routed_tokens=_routed(inputs),
        loss=_mean_loss(inputs, tokens),
        proposer=inputs.proposer,
        attempts=inputs.attempts,
        decided_at_ms=inputs.decided_at_ms,
        resignations=[r for _, r in sorted(inputs.resignations.items())],
    )
    advanced = fragment_results(plan, dict(inputs.reports))
    if inputs.change.payload:
        record.change.CopyFrom(inputs.change)
    _add_fragments(record, inputs, advanced, policy)
    policy.assign(record, previous, inputs.ready)
    if not policy.open_tags:
        add_tallies(record, previous, inputs.ready)
    trained = [f.fragment for f in plan.fragments]
    is_first = previous is None
    record.outcome = pb.FOUNDED if is_first else outcome_of(list(advanced), trained, missing)
    return record


def _add_fragments(
    record: pb.RoundRecord,
    inputs: RecordInputs,
    advanced: Mapping[str, pb.FragmentVersion],
    policy: Policy,
) -> None:
    planned = {f.fragment: f for f in inputs.plan.fragments}
    before = {o.state.fragment: o for o in inputs.previous.fragments} if inputs.previous else {}
    for name in sorted({*policy.numel, *before, *advanced}):
        outcome = record.fragments.add(advanced=name in advanced)
        if name in advanced:
            outcome.state.CopyFrom(advanced[name])
            outcome.state.version = agreed(name, inputs.previous, policy).version + 1
            outcome.contributors.extend(planned[name].contributors)
            outcome.weights.extend(planned[name].weights)
            outcome.numel = planned[name].numel
            if policy.open_tags:
                outcome.operation = planned[name].operation
                outcome.codec = planned[name].codec
        else:
            outcome.state.CopyFrom(agreed(name, inputs.previous, policy))
            outcome.numel = before[name].numel if name in before else policy.numel[name]
            if policy.open_tags:  # who has to be there for the next operation
                outcome.contributors.extend(before[name].contributors)
                outcome.weights.extend(before[name].weights)
                outcome.operation = before[name].operation
                outcome.codec = before[name].codec


def _branch(plan: pb.Plan) -> bytes:
    """A founding names a new branch after its founders; other rounds stay in theirs."""
    if not plan.unanimous:
        return bytes(plan.branch)
    founders = ",".join(plan.electorate).encode()
    return hashlib.sha256(b"|".join((plan.run_id, plan.base_commit, founders))).digest()[:16]


def _missing(inputs: RecordInputs) -> list[pb.Suspect]:
    if inputs.previous is None:
        return []
    contributors: Collection[str] = set(inputs.contributors)
    reasons = {p: "not ready in time" for p in inputs.roster if p not in contributors}
    for peer in reasons.keys() & inputs.ready.keys():
        joining = inputs.ready[peer].joining
        reasons[peer] = "has just joined" if joining else "came after the plan"
    reasons.update({p: why for p, why in inputs.excluded.items() if p in reasons})
    reasons.update({p: why for p, why in inputs.dead.items() if p in reasons})
    return [pb.Suspect(peer=p, reason=reasons[p][:MAX_REASON]) for p in sorted(reasons)]


def _routed(inputs: RecordInputs) -> list[int]:
    rows = [r for p in inputs.contributors if (r := list(inputs.ready[p].routed_tokens))]
    return [sum(column) for column in zip(*rows, strict=True)]


def _mean_loss(inputs: RecordInputs, tokens: int) -> float:
    weighted = (inputs.ready[p].loss * inputs.ready[p].tokens for p in inputs.contributors)
    return sum(weighted) / max(1, tokens)
