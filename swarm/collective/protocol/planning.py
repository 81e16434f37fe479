"""What a leader writes: the plan of an attempt, and the record of its outcome."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING

from swarm.collective.changes import newest_change
from swarm.collective.offers import collect_offers
from swarm.collective.plan import PlanInputs, make_plan, operation_of
from swarm.collective.protocol.rollcall import RollCall
from swarm.collective.record import RecordInputs, build_record
from swarm.collective.selection_bias import bias_after
from swarm.collective.shares import Rates
from swarm.network.paths import relayed_parts
from swarm.wire import collective_pb2 as pb
from swarm.wire.membership_pb2 import PeerRecord

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
    standing = rollcall.standing
    left_out = {*standing.dead, *standing.excluded}
    if unanimous:  # it is not asked to promise, so nobody may wait for it
        left_out.update(rollcall.ready.keys() - set(electorate))
    offered = collect_offers(rollcall.ready, left_out, memory.record, setup.policy)
    rates = _rates(peer, rollcall, offered.weights)
    return make_plan(
        PlanInputs(
            run_id=setup.run_id,
            branch=memory.branch,
            round=memory.next_round,
            ballot=ballot,
            base_commit=memory.commit_id,
            electorate=electorate,
            unanimous=unanimous,
            offers=offered.weights,
            norms=offered.norms,
            wishes=offered.wishes,
            numel=offered.numel,
            records={p: rollcall.ready[p].record for p in offered.weights},
            operation=operation_of(setup.manifest.sync.aggregation),
            codec=setup.manifest.sync.codec,
            equal_weights=setup.manifest.sync.weights == "equal",
            readers_keep_all=not setup.policy.open_tags and setup.manifest.sync.forward == "full",
            timeouts=setup.timeouts,
            upload_bps=rates.upload_bps,
            download_bps=rates.download_bps,
            relayed=rates.relayed,
        )
    )


def _rates(peer: PeerMachine, rollcall: RollCall, members: Collection[str]) -> Rates:
    """What each member says of its own link, and what their records say of the paths."""
    upload: dict[str, float] = {}
    download: dict[str, float] = {}
    records: dict[str, PeerRecord] = {}
    for name in members:
        ready = rollcall.ready[name]
        records[name] = peer.setup.note(ready.record) or PeerRecord()
        upload[name] = ready.upload_bps or records[name].bandwidth_bps
        download[name] = ready.download_bps or records[name].bandwidth_bps
    return Rates(upload, download, relayed_parts(records))


def record_of(
    peer: PeerMachine,
    rollcall: RollCall,
    plan: pb.Plan,
    reports: Mapping[str, pb.Report],
) -> pb.RoundRecord:
    """The record of the attempt of `plan`; `attempts` and `proposer` name its ballot."""
    standing = rollcall.standing
    record = build_record(
        RecordInputs(
            plan=plan,
            previous=peer.memory.record,
            reports=reports,
            ready=rollcall.said(),
            # Who came to a founding after its plan has joined, and did not found.
            roster=plan.electorate if rollcall.founding else rollcall.roster(),
            joiners=rollcall.living_joiners(),
            dead=standing.dead,
            excluded=standing.excluded,
            resignations=peer.memory.resignations,
            proposer=peer.setup.me,
            attempts=plan.ballot.attempt,
            decided_at_ms=peer.setup.wall_ms(peer.now),
            change=newest_change(
                peer.memory.record,
                [peer.setup.change(), *(ready.change for ready in rollcall.ready.values())],
                peer.setup.manifest,
            ),
        ),
        peer.setup.policy,
    )
    record.selection_bias.extend(bias_after(record, peer.memory.record, peer.setup.manifest))
    return record
