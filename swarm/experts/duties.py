"""What each member does after a round: its experts and its steps, from what the leader knows. Pure.

    fill_duties(record, previous, ready, rules)     # adds `assignments` and `experts` to a draft

Everything that must be remembered for it is in the record, so any leader goes on from there, and
every member can see why it got what it got.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from swarm.experts.assignment import AssignmentRules, ExpertFacts, Held, PeerFacts, assign_experts
from swarm.experts.capability import Machine, Sizes, places
from swarm.experts.pace import smoothed_seconds, step_counts
from swarm.wire import collective_pb2 as pb

NEWEST_SHARE = 0.25  # of the newest round in the smoothed figures of an expert
KEPT_DOMAINS = 4
EXPERT_PREFIX = "expert."


@dataclass(frozen=True, kw_only=True)
class DutyRules:
    """What a run wants. `sizes` None: the room of machines does not matter."""

    assignment: AssignmentRules
    inner_steps: int
    min_inner_steps: int = 1
    dynamic_steps: bool = False
    sizes: Sizes | None = None


def assignment_of(record: pb.RoundRecord | None, peer: str | None) -> pb.Assignment:
    """What the record gives a peer to do; nothing when it is not in it."""
    found = (a for a in record.assignments if a.peer == peer) if record is not None else iter(())
    return next(found, pb.Assignment())


def steps_of(record: pb.RoundRecord, peer: str | None, inner_steps: int) -> int:
    """Inner steps of a peer in the round after `record`."""
    return int(assignment_of(record, peer).steps) or inner_steps


def mean_steps(record: pb.RoundRecord, inner_steps: int) -> float:
    """Inner steps of a member in the round after `record`, on the average."""
    counts = [int(a.steps) or inner_steps for a in record.assignments]
    return sum(counts) / len(counts) if counts else float(inner_steps)


def fill_duties(
    record: pb.RoundRecord,
    previous: pb.RoundRecord | None,
    ready: Mapping[str, pb.Ready],
    rules: DutyRules,
) -> None:
    """Add the assignments of `record.roster`, and the standings of all experts, to a draft.

    The draft must have its roster, its round, and its fragments with their contributors.
    """
    before = {a.peer: a for a in previous.assignments} if previous is not None else {}
    peers = {
        peer: _facts(before.get(peer, pb.Assignment()), ready.get(peer, pb.Ready()), rules)
        for peer in record.roster
    }
    experts = _standings(record, previous, ready, rules.assignment.num_experts)
    held = assign_experts(rules.assignment, int(record.round), peers, experts)
    speeds = {peer: facts.seconds_per_step for peer, facts in peers.items()}
    steps = step_counts(speeds, rules.inner_steps, rules.min_inner_steps)
    for peer, own in held.items():
        record.assignments.add(
            peer=peer,
            experts=own.keys(),
            since=own.values(),
            steps=steps[peer] if rules.dynamic_steps else 0,
            seconds_per_step=peers[peer].seconds_per_step,
            places=peers[peer].places,
        )
    _add_standings(record, experts, held.values())


def _facts(before: pb.Assignment, ready: pb.Ready, rules: DutyRules) -> PeerFacts:
    """A member as its last assignment and its Ready show it; that of some is not here."""
    measured = ready.train_seconds / ready.steps if ready.steps else 0.0
    known = before.seconds_per_step or ready.capability.seconds_per_step
    seconds = smoothed_seconds(known, measured)
    room = int(before.places)
    if rules.sizes is not None and ready.capability.memory_bytes:
        machine = Machine(
            ready.capability.memory_bytes, ready.upload_bps, rules.inner_steps * seconds
        )
        room = places(rules.sizes, machine)
    # A record without `since` has the experts held from its beginning.
    since = list(before.since) or [0] * len(before.experts)
    held = {int(e): int(s) for e, s in zip(before.experts, since, strict=False)}
    return PeerFacts(held, room, seconds, ready.capability.domain)


def _standings(
    record: pb.RoundRecord,
    previous: pb.RoundRecord | None,
    ready: Mapping[str, pb.Ready],
    num_experts: int,
) -> list[ExpertFacts]:
    """The experts with what this round did to them, and how long nobody held them."""
    before = {int(s.expert): s for s in previous.experts} if previous is not None else {}
    kept = {int(e) for a in _staying(record, previous) for e in a.experts}
    trained = _trained(record, ready)
    facts = []
    for expert in range(num_experts):
        old = before.get(expert, pb.ExpertStanding())
        tokens = trained.get(expert, {})
        total = sum(tokens.values())
        served = {s.domain: s.share for s in old.served}
        if total > 0:
            shares = {domain: count / total for domain, count in tokens.items()}
            served = _mixed(served, shares) if served else shares
        smooth = (1 - NEWEST_SHARE) * old.trained_tokens + NEWEST_SHARE * total
        orphaned = 0 if expert in kept or previous is None else int(old.orphaned_rounds) + 1
        facts.append(ExpertFacts(smooth, orphaned, _largest(served)))
    return facts


def _staying(record: pb.RoundRecord, previous: pb.RoundRecord | None) -> list[pb.Assignment]:
    roster = set(record.roster)
    return [a for a in previous.assignments if a.peer in roster] if previous is not None else []


def _trained(record: pb.RoundRecord, ready: Mapping[str, pb.Ready]) -> dict[int, dict[str, float]]:
    """Routed tokens that advanced each expert in this round, by domain of the contributor."""
    trained: dict[int, dict[str, float]] = {}
    for outcome in record.fragments:
        kind, _, number = outcome.state.fragment.partition(".")
        if not outcome.advanced or f"{kind}." != EXPERT_PREFIX or not number.isdecimal():
            continue
        by_domain = trained.setdefault(int(number), {})
        for peer in outcome.contributors:
            message = ready.get(peer, pb.Ready())
            weights = {c.fragment: c.weight for c in message.contributions}
            domain, weight = message.capability.domain, weights.get(outcome.state.fragment, 0.0)
            by_domain[domain] = by_domain.get(domain, 0.0) + weight
    return trained


def _mixed(old: Mapping[str, float], new: Mapping[str, float]) -> dict[str, float]:
    return {
        domain: (1 - NEWEST_SHARE) * old.get(domain, 0.0) + NEWEST_SHARE * new.get(domain, 0.0)
        for domain in sorted({*old, *new})
    }


def _largest(shares: Mapping[str, float]) -> dict[str, float]:
    """The domains with the largest shares. Who says nothing of its data attracts nobody."""
    named = [(domain, share) for domain, share in shares.items() if domain]
    return dict(sorted(named, key=lambda item: (-item[1], item[0]))[:KEPT_DOMAINS])


def _add_standings(
    record: pb.RoundRecord, experts: Iterable[ExpertFacts], held: Iterable[Held]
) -> None:
    covered = {e for own in held for e in own}
    for expert, facts in enumerate(experts):
        record.experts.add(
            expert=expert,
            trained_tokens=facts.trained_tokens,
            orphaned_rounds=0 if expert in covered else facts.orphaned_rounds,
            served=[pb.DomainShare(domain=d, share=s) for d, s in facts.served.items()],
        )
