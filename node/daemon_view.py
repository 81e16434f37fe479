"""What a daemon says about itself and its run: the status reply and the summary of a round.

Read-only views over the daemon's parts; nothing here changes anything.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import TYPE_CHECKING

from node.network_view import add_network
from node.next_event import next_event
from swarm import __version__
from swarm.experts.duties import assignment_of, steps_of
from swarm.model.fragments import state_root
from swarm.wire import collective_pb2 as pb
from swarm.wire import node_pb2

if TYPE_CHECKING:
    from node.daemon import Daemon


def outcome_name(record: pb.RoundRecord | None) -> str:
    """full, partial, skipped or founded; empty before the first commit."""
    return "" if record is None else pb.Outcome.Name(record.outcome).lower()


def round_summary(daemon: Daemon, seconds: float) -> node_pb2.RoundSummary:
    """The newest commit, with the hash of this node's own bits after it, which must be level."""
    ledger, member, traffic = daemon.ledger, daemon.member, daemon.data_plane.traffic
    record = ledger.record
    assert member is not None and record is not None and ledger.commit is not None
    return node_pb2.RoundSummary(
        round=record.round,
        outcome=outcome_name(record),
        seconds=seconds,
        contributors=sorted({p for o in record.fragments for p in o.contributors}),
        missing=[f"{m.peer}: {m.reason}" for m in record.missing],
        voters=[vote.voter for vote in ledger.commit.votes],
        commit_id=ledger.commit_id.hex(),
        state_root=state_root(member.state.hashes()).hex(),
        loss=record.loss,
        committed_tokens=record.committed_tokens,
        bytes_sent=sum(traffic.sent.values()),
        bytes_received=sum(traffic.received.values()),
        attempts=record.attempts,
        committed_at_ms=record.decided_at_ms,
        electorate=len(record.electorate),
    )


def status_reply(daemon: Daemon) -> node_pb2.StatusReply:
    """The state of a node now, from what it knows: nobody else is asked."""
    status, ledger, traffic = daemon.status, daemon.ledger, daemon.data_plane.traffic
    record = ledger.record
    reply = node_pb2.StatusReply(
        run_id=daemon.manifest.run_id.hex(),
        run_name=daemon.manifest.name,
        peer_id=daemon.identity.peer_id,
        display_name=daemon.config.name,
        domain=daemon.config.domain,
        state=status.state.value,
        reason=status.reason,
        since_ms=round(1000 * status.since_s),
        round=record.round if record is not None else 0,
        branch=ledger.branch.hex(),
        commit_id=ledger.commit_id.hex(),
        last_outcome=outcome_name(record),
        tokens_per_second=status.tokens_per_second,
        loss=status.loss,
        step=status.step,
        steps_per_round=_steps(daemon, daemon.identity.peer_id),
        held_experts=status.held_experts,
        bytes_sent=sum(traffic.sent.values()),
        bytes_received=sum(traffic.received.values()),
        tokens_trained=status.tokens_trained,
        committed_tokens=record.committed_tokens if record is not None else 0,
        pid=os.getpid(),
        worker_pid=status.worker_pid,
        version=__version__,
        last_counted_round=status.last_counted_round,
        data_report=status.data_report,
        device=status.device,
        role="peer",
    )
    steps = reply.steps_per_round
    reply.next_event, reply.next_event_s = next_event(
        status, daemon.manifest.training, ledger.next_round, steps
    )
    daemon.changes.add_to(reply)
    if daemon.network is not None:
        add_network(reply, daemon.network)
        rates = daemon.data_plane.rates
        reply.upload_bps, reply.download_bps = rates.upload_bps, rates.download_bps
        reply.refused.update(daemon.network.refused + daemon.data_plane.refused)
    reply.peers.extend(_peer_rows(daemon))
    if record is not None:
        reply.experts.extend(expert_rows(record))
        reply.contributions.extend(contribution_rows(record, reply.peers))
    return reply


def expert_rows(record: pb.RoundRecord) -> list[node_pb2.ExpertStatus]:
    """Every expert by a commit: who holds it, since when, what it was trained on."""
    rows = []
    loads, versions = _loads(record), {o.state.fragment: o.state.version for o in record.fragments}
    for standing in record.experts:
        held = {
            a.peer: int(since)
            for a in record.assignments
            for expert, since in zip(a.experts, a.since, strict=False)
            if expert == standing.expert
        }
        rows.append(
            node_pb2.ExpertStatus(
                expert=standing.expert,
                holders=sorted(held),
                held_since=min(held.values(), default=0),
                trained_tokens=standing.trained_tokens,
                orphaned_rounds=standing.orphaned_rounds,
                served=[f"{s.domain} {s.share:.0%}" for s in standing.served],
                version=versions.get(f"expert.{standing.expert}", 0),
                load=loads[standing.expert] if standing.expert < len(loads) else 0.0,
            )
        )
    return rows


def contribution_rows(
    record: pb.RoundRecord, peers: Iterable[node_pb2.PeerStatus]
) -> list[node_pb2.ContributionStatus]:
    """What every peer has given to the run by a commit, most tokens first."""
    names = {peer.peer_id: peer.display_name for peer in peers}
    return [
        node_pb2.ContributionStatus(
            peer_id=t.peer,
            display_name=names.get(t.peer, ""),
            tokens=t.tokens,
            rounds=t.rounds,
            served_bytes=t.served_bytes,
            relayed_bytes=t.relayed_bytes,
            last_round=t.last_round,
        )
        for t in sorted(record.tallies, key=lambda t: (-t.tokens, t.peer))
    ]


def _loads(record: pb.RoundRecord) -> list[float]:
    """Tokens routed to each expert over all layers, in even shares; empty where none were."""
    experts, total = len(record.experts), sum(record.routed_tokens)
    if not total or not experts:
        return []
    return [sum(record.routed_tokens[e::experts]) * experts / total for e in range(experts)]


def _steps(daemon: Daemon, peer: str) -> int:
    """Inner steps of a member in the open round."""
    record = daemon.ledger.record
    all_steps = daemon.policy.steps_per_round(record)
    return steps_of(record, peer, all_steps) if record is not None else all_steps


def _peer_rows(daemon: Daemon) -> list[node_pb2.PeerStatus]:
    if daemon.publisher is None or daemon.member is None:
        return []
    record, member, traffic = daemon.ledger.record, daemon.member, daemon.data_plane.traffic
    roster = set(record.roster) if record is not None else set()
    publisher = daemon.publisher
    sent, received = traffic.sent, traffic.received
    missing = {m.peer: m.reason for m in record.missing} if record is not None else {}
    counted = {t.peer: t.last_round for t in record.tallies} if record is not None else {}
    rows = []
    for peer in sorted({*publisher.known, *roster}):
        found = publisher.record_of(peer)
        path = "self" if peer == member.me else publisher.paths.get(peer, "none")
        # The record of a peer that was killed outlives it by its lease, which the roster does not
        # wait for; whoever is no member, as a relay or one that joins, is here if it is connected.
        here = peer in roster or path != "none"
        alive = found is not None and here and peer not in member.suspects
        absent = missing.get(peer, "" if peer in roster else "not a member")
        rows.append(
            node_pb2.PeerStatus(
                peer_id=peer,
                display_name=found.display_name if found is not None else "",
                domain=found.domain if found is not None else "",
                path=path,
                held_experts=assignment_of(record, peer).experts,
                steps=_steps(daemon, peer) if peer in roster else 0,
                places=assignment_of(record, peer).places,
                tokens_per_second=found.tokens_per_second if found is not None else 0.0,
                in_roster=peer in roster,
                alive=alive,
                round=found.round if found is not None else 0,
                bytes_sent=sent.get(peer, 0),
                bytes_received=received.get(peer, 0),
                device=found.device if found is not None else "",
                state=found.state if found is not None else "",
                nat=found.nat if found is not None else "",
                version=found.software_version if found is not None else "",
                last_counted_round=counted.get(peer, 0),
                absent=absent if alive or absent else "does not answer",
            )
        )
    return rows
