"""What a leader writes: the plan of an attempt, and the record of its outcome."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from swarm.collective.plan import PlanInputs, make_plan
from swarm.collective.protocol.rollcall import RollCall
from swarm.collective.record import RecordInputs, agreed, build_record
from swarm.wire import collective_pb2 as pb

if TYPE_CHECKING:
    from swarm.collective.protocol.machine import PeerMachine


def plan_attempt(
    peer: PeerMachine,
    rollcall: RollCall,
    ballot: pb.Ballot,
    electorate: Sequence[str],
    unanimous: bool,
) -> pb.Plan:
    """The plan from what the leader knows; only updates from the newest commit count."""
    setup, memory = peer.setup, peer.memory
    offers = _offers(peer, rollcall)
    bandwidth: dict[str, float] = {}
    for name in offers:
        record = setup.note(rollcall.ready[name].record)
        if record is not None:
            bandwidth[name] = record.bandwidth_bps
    return make_plan(
        PlanInputs(
            run_id=setup.run_id,
            branch=memory.branch,
            round=memory.next_round,
            ballot=ballot,
            base_commit=memory.commit_id,
            electorate=electorate,
            unanimous=unanimous,
            offers=offers,
            numel=setup.policy.numel,
            records={p: rollcall.ready[p].record for p in offers},
            codec=setup.manifest.sync.codec,
            equal_weights=setup.manifest.sync.weights == "equal",
            readers_keep_all=setup.manifest.sync.forward == "full",
            attempt_timeout_ms=round(1000 * setup.timeouts.attempt_s),
            bandwidth=bandwidth,
        )
    )


def _offers(peer: PeerMachine, rollcall: RollCall) -> dict[str, dict[str, float]]:
    """peer -> fragment -> weight, of those who take part in the attempt."""
    policy, record = peer.setup.policy, peer.memory.record
    if record is None:
        return {}
    standing = rollcall.standing
    base = {f: agreed(f, record, policy).theta_sha256 for f in policy.numel}
    offers: dict[str, dict[str, float]] = {}
    for name, ready in rollcall.ready.items():
        left_out = name in standing.dead or name in standing.excluded or ready.joining
        if left_out or not ready.contributions:
            continue
        trains = set(policy.trains(record, name))
        offers[name] = {
            c.fragment: c.weight
            for c in ready.contributions
            if c.fragment in trains and base[c.fragment] == c.base_sha256
        }
    return offers


def record_of(
    peer: PeerMachine,
    rollcall: RollCall,
    plan: pb.Plan,
    reports: Mapping[str, pb.Report],
) -> pb.RoundRecord:
    """The record of the attempt of `plan`; `attempts` and `proposer` name its ballot."""
    standing = rollcall.standing
    return build_record(
        RecordInputs(
            plan=plan,
            previous=peer.memory.record,
            reports=reports,
            ready=rollcall.ready,
            # Who came to a founding after its plan has joined, and did not found.
            roster=plan.electorate if rollcall.founding else rollcall.roster(),
            joiners=rollcall.living_joiners(),
            dead=standing.dead,
            excluded=standing.excluded,
            resignations=peer.memory.resignations,
            proposer=peer.setup.me,
            attempts=plan.ballot.attempt,
            decided_at_ms=peer.setup.wall_ms(peer.now),
        ),
        peer.setup.policy,
    )
