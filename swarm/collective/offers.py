"""What the peers at a round's boundary offer, sorted out for the plan. Pure.

    offered = collect_offers(ready, left_out, previous, policy)
    plan = make_plan(PlanInputs(..., offers=offered.weights, norms=offered.norms, ...))

In a run the fragments are fixed and only peers that may train them contribute. Under open tags
(`Communicator`) each operation says itself what it is; only the same operations meet.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

import numpy as np

from swarm.collective.codecs import F32
from swarm.collective.context import Offer, Policy
from swarm.collective.plan import Wish
from swarm.collective.record import agreed
from swarm.collective.state import FragmentState
from swarm.collective.tags import MAX_TAGS
from swarm.wire import collective_pb2 as pb

NORM_BLOCK = 1 << 16
Spec = tuple[int, int, str]  # numel, operation, codec


@dataclass
class Offered:
    """Weights and declared norms by peer and fragment; sizes and wishes by fragment.

    A peer with no fragments is a member of the attempt all the same: it gets the results.
    """

    weights: dict[str, dict[str, float]] = field(default_factory=dict)
    norms: dict[str, dict[str, float]] = field(default_factory=dict)
    numel: dict[str, int] = field(default_factory=dict)
    wishes: dict[str, Wish] = field(default_factory=dict)


def collect_offers(
    ready: Mapping[str, pb.Ready],
    left_out: Collection[str],
    previous: pb.RoundRecord | None,
    policy: Policy,
) -> Offered:
    """The usable offers of all peers that are ready, members of the roster, and not left out."""
    offering = {
        peer: message
        for peer, message in sorted(ready.items())
        if message.contributions and not message.joining and peer not in left_out
    }
    if previous is None:
        return Offered()
    if policy.open_tags:
        return _collect_tags(offering, left_out, previous, policy)
    return _collect_fragments(offering, previous, policy)


def awaited_peers(
    ready: Mapping[str, pb.Ready],
    roster: Collection[str],
    dead: Collection[str],
    previous: pb.RoundRecord | None,
    policy: Policy,
) -> set[str]:
    """Living members without whom the round should not begin yet.

    In a run: all that are not ready. Under open tags nobody, as soon as one operation has all of
    those who took part in its last run, so that a newcomer with nothing to do holds up nobody.
    """
    living = set(roster) - set(dead)
    if previous is None or not policy.open_tags:
        return living - ready.keys()
    lacking = _lacking(ready, living, previous)
    if not lacking:
        return living - ready.keys()
    return set() if any(not peers for peers in lacking.values()) else set.union(*lacking.values())


def _lacking(
    ready: Mapping[str, pb.Ready], living: Collection[str], previous: pb.RoundRecord
) -> dict[str, set[str]]:
    """For each operation that somebody has begun: who of its usual members has not.

    An operation that nobody has done before is for all; but a newcomer that begins with what the
    others have behind them waits for their next turn, and they must not wait for it meanwhile.
    """
    outcomes = {o.state.fragment: o for o in previous.fragments}
    begun: dict[str, set[str]] = {}
    abreast: set[str] = set()
    behind: set[str] = set()
    for peer, message in ready.items():
        for c in message.contributions:
            known = outcomes.get(c.fragment)
            done = int(known.state.version) if known is not None else 0
            if not message.joining and int(c.number) == done + 1:
                begun.setdefault(c.fragment, set()).add(peer)
                new_to_it = known is not None and peer not in known.contributors
                (behind if new_to_it else abreast).add(peer)
    lacking = {}
    for tag, peers in begun.items():
        usual = set(outcomes[tag].contributors) & set(living) if tag in outcomes else set()
        lacking[tag] = (usual or set(living) - (behind - abreast)) - peers
    return lacking


def _collect_fragments(
    offering: Mapping[str, pb.Ready], previous: pb.RoundRecord, policy: Policy
) -> Offered:
    """Contributions to fixed fragments that their peers train, from what was agreed."""
    base = {name: agreed(name, previous, policy).theta_hash for name in policy.numel}
    offered = Offered(numel=dict(policy.numel))
    for peer, message in offering.items():
        trains = set(policy.trains(previous, peer))
        usable = [
            c
            for c in message.contributions
            if c.fragment in trains and base[c.fragment] == c.base_hash
        ]
        offered.weights[peer] = {c.fragment: c.weight for c in usable}
        offered.norms[peer] = {c.fragment: c.norm for c in usable}
    return offered


def _collect_tags(
    offering: Mapping[str, pb.Ready],
    left_out: Collection[str],
    previous: pb.RoundRecord,
    policy: Policy,
) -> Offered:
    """Operations that all of their usual members have begun; at the deadline, the most popular.

    Of peers that call an operation differently, the most stand (ties: the smaller form).
    """
    lacking = _lacking(offering, set(previous.roster) - set(left_out), previous)
    known = {o.state.fragment for o in previous.fragments}
    new = sorted(lacking.keys() - known)
    for tag in new[max(0, MAX_TAGS - len(known)) :]:  # a record can name no more
        del lacking[tag]
    tags = {tag for tag, peers in lacking.items() if not peers}
    if not tags and lacking:
        fewest = min(len(peers) for peers in lacking.values())
        tags = {tag for tag, peers in lacking.items() if len(peers) == fewest}
    offered = Offered(weights={p: {} for p in offering}, norms={p: {} for p in offering})
    calls = {
        peer: {c.fragment: c for c in message.contributions if _is_next(c, previous, policy)}
        for peer, message in offering.items()
    }
    for tag in sorted(tags):
        by_spec: dict[Spec, dict[str, pb.Contribution]] = {}
        for peer, own in calls.items():
            if tag in own:
                operation = int(own[tag].operation or pb.MEAN)
                spec = (own[tag].numel, operation, own[tag].codec or "fp32")
                by_spec.setdefault(spec, {})[peer] = own[tag]
        spec = min(by_spec, key=lambda s: (-len(by_spec[s]), s))
        same = by_spec[spec]
        if spec[1] == pb.AGREE:
            same = _elected(same)
        offered.numel[tag] = spec[0]
        offered.wishes[tag] = Wish(spec[1], spec[2], next(iter(same.values())).number)
        for peer, c in same.items():
            offered.weights[peer][tag] = c.weight
            offered.norms[peer][tag] = c.norm
    return offered


def _is_next(c: pb.Contribution, previous: pb.RoundRecord, policy: Policy) -> bool:
    """True for the operation that follows the agreed one under its tag."""
    return int(c.number) == int(agreed(c.fragment, previous, policy).version) + 1


def _elected(same: Mapping[str, pb.Contribution]) -> dict[str, pb.Contribution]:
    """Holders of the state that stands: highest revision, most popular, smallest hash."""
    votes = Counter((int(c.state_revision), bytes(c.base_hash)) for c in same.values())
    newest = max(revision for revision, _ in votes)
    hashes = {h: n for (revision, h), n in votes.items() if revision == newest}
    best = min(hashes, key=lambda h: (-hashes[h], h))
    return {
        peer: c
        for peer, c in same.items()
        if (int(c.state_revision), bytes(c.base_hash)) == (newest, best)
    }


def contributions_of(
    offer: Offer, fragments: Mapping[str, FragmentState], run_operation: int
) -> list[pb.Contribution]:
    """What a peer says of its offer before it sends any of it; `fragments` is what it began from.

    An update with NaN or infinity in it has no norm; it is offered with 0, and refused by whoever
    reduces it.
    """
    said = []
    for name, values in sorted(offer.deltas.items()):
        wish = offer.wishes.get(name)
        operation = wish.operation if wish else run_operation
        said.append(
            pb.Contribution(
                fragment=name,
                weight=offer.weights.get(name, 0.0),
                base_hash=wish.content_hash if wish else fragments[name].theta_hash,
                numel=values.size,
                norm=_norm(values) if operation == pb.CLIPPED_MEAN else 0.0,
                number=wish.number if wish else 0,
                state_revision=wish.state_revision if wish else 0,
                operation=pb.Operation.Name(wish.operation) if wish else None,
                codec=wish.codec if wish else "",
            )
        )
    return said


def _norm(values: F32) -> float:
    """Euclidean norm, summed in fp64 over blocks so that fp32 can not overflow."""
    blocks = (values[i : i + NORM_BLOCK] for i in range(0, values.size, NORM_BLOCK))
    squares = sum(float(np.dot(b, b)) for b in (block.astype(np.float64) for block in blocks))
    return math.sqrt(squares) if math.isfinite(squares) else 0.0
