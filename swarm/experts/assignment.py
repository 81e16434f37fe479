"""Which peer holds and trains which experts. Pure.

Holders stay with their experts, since a move costs Adam state. A newcomer gets all its places at
once; a member gains, changes or gives up one expert in a round at most. What is assigned first:

1. free places go to the experts with the fewest holders, longest without one first, then to those
   that serve the peer's domain, then to those that were trained least;
2. an expert that has been without a holder for `orphan_rounds`, or has fewer than `replication`,
   is taken over by a peer with room for more than its share; an orphan also in place of an expert
   that others hold too, or, where no place is left in the whole swarm, by turns;
3. who holds more than its share gives up what has more than `replication` holders.

Nothing but 1 happens to an expert before it has been held for `min_dwell` rounds.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

Held = dict[int, int]  # expert -> round in which it was given


@dataclass(frozen=True, kw_only=True)
class AssignmentRules:
    """What a run wants; see `swarm.config.SyncConfig`."""

    num_experts: int
    per_peer: int
    replication: int = 1
    min_dwell: int = 10
    orphan_rounds: int = 2


@dataclass(frozen=True)
class PeerFacts:
    """What is known of a member: its experts, room for them (0 = not known), speed, domain."""

    held: Mapping[int, int] = field(default_factory=dict)
    places: int = 0
    seconds_per_step: float = 0.0
    domain: str = ""


@dataclass(frozen=True)
class ExpertFacts:
    """What is known of an expert: tokens it was trained on, rounds without holder, domains."""

    trained_tokens: float = 0.0
    orphaned_rounds: int = 0
    served: Mapping[str, float] = field(default_factory=dict)


def assign_experts(
    rules: AssignmentRules,
    round_index: int,
    peers: Mapping[str, PeerFacts],
    experts: Sequence[ExpertFacts] = (),
) -> dict[str, Held]:
    """Experts of each peer after round `round_index`; the order of `peers` does not matter.

    `experts` has the facts of each expert by index; none are known at the founding.
    """
    work = _Assignment(rules, round_index, peers, experts)
    work.fill_places()
    work.take_over()
    work.give_up()
    return work.held


class _Assignment:
    def __init__(
        self,
        rules: AssignmentRules,
        round_index: int,
        peers: Mapping[str, PeerFacts],
        experts: Sequence[ExpertFacts],
    ) -> None:
        self.rules, self.round, self.peers = rules, round_index, peers
        known = dict(enumerate(experts))
        self.experts = [known.get(e, ExpertFacts()) for e in range(rules.num_experts)]
        self.held: dict[str, Held] = {
            peer: {e: s for e, s in sorted(peers[peer].held.items()) if 0 <= e < rules.num_experts}
            for peer in sorted(peers)
        }
        self.holders = [sum(e in h for h in self.held.values()) for e in range(rules.num_experts)]
        self.moved: set[str] = set()

    def fill_places(self) -> None:
        """Newcomers get all their places, members with a free one another expert."""
        for peer in self.held:
            free = self._share(peer) - len(self.held[peer])
            for _ in range(min(free, 1) if self.held[peer] else free):
                lacking = [e for e in range(self.rules.num_experts) if e not in self.held[peer]]
                self._gain(peer, min(lacking, key=lambda e: self._urgency(peer, e)))

    def take_over(self) -> None:
        """Experts that lack holders, to peers that hold their share already."""
        lacking = [e for e in range(self.rules.num_experts) if self._is_lacking(e)]
        waited = {e: self.experts[e].orphaned_rounds for e in lacking}
        for expert in sorted(lacking, key=lambda e: (self.holders[e], -waited[e], e)):
            able = [p for p in self.held if p not in self.moved and expert not in self.held[p]]
            roomy = [p for p in able if self._room(p) > len(self.held[p])]
            if roomy:
                self._gain(min(roomy, key=lambda p: self._fitness(p, expert)), expert)
                continue
            if self.holders[expert]:
                continue  # it has a holder; nobody gives up another for a further one
            trades = [(p, e) for p in able for e in self.held[p] if self._may_go(p, e)]
            spare = [(p, e) for p, e in trades if self.holders[e] > 1]
            if not spare and waited[expert] < max(self.rules.min_dwell, 1):
                continue
            if spare or trades:
                peer, old = min(spare or trades, key=lambda t: self._cost(t[0], t[1], expert))
                self._lose(peer, old)
                self._gain(peer, expert)

    def give_up(self) -> None:
        """Who took over more than its share gives up what enough others hold."""
        for peer, held in self.held.items():
            if peer in self.moved or len(held) <= self._share(peer):
                continue
            held_enough = [e for e in held if self.holders[e] > self.rules.replication]
            spare = [e for e in held_enough if self._may_go(peer, e)]
            if spare:
                self._lose(peer, min(spare, key=lambda e: self._cost(peer, e, e)))

    # ---- judgement ------------------------------------------------------------------------

    def _share(self, peer: str) -> int:
        """Experts that a peer holds when nothing is lacking."""
        return min(self.rules.per_peer, self._room(peer))

    def _room(self, peer: str) -> int:
        """Experts that a peer can hold when it has to."""
        return min(self.peers[peer].places or self.rules.per_peer, self.rules.num_experts)

    def _is_lacking(self, expert: int) -> bool:
        if not self.holders[expert]:
            return self.experts[expert].orphaned_rounds > self.rules.orphan_rounds
        return self.holders[expert] < self.rules.replication

    def _may_go(self, peer: str, expert: int) -> bool:
        return self.round - self.held[peer][expert] >= self.rules.min_dwell

    def _affinity(self, peer: str, expert: int) -> float:
        """Share of the expert's tokens that were of the peer's domain, less where it is held."""
        served = self.experts[expert].served.get(self.peers[peer].domain, 0.0)
        return served / (1 + self.holders[expert])

    def _urgency(self, peer: str, expert: int) -> tuple[float, ...]:
        facts, holders = self.experts[expert], self.holders[expert]
        return (
            min(holders, self.rules.replication),
            -facts.orphaned_rounds if not holders else 0,
            -self._affinity(peer, expert),
            holders,
            facts.trained_tokens,
            expert,
        )

    def _fitness(self, peer: str, expert: int) -> tuple[object, ...]:
        """Who should take an expert over: of its domain, with little to do, and fast."""
        speed = self.peers[peer].seconds_per_step or float("inf")
        return (-self._affinity(peer, expert), len(self.held[peer]), speed, peer)

    def _cost(self, peer: str, old: int, new: int) -> tuple[object, ...]:
        """Which expert should be given up for another: held by many, and trained the most."""
        return (
            -self.holders[old],
            self._affinity(peer, old) - self._affinity(peer, new),
            -self.experts[old].trained_tokens,
            old,
            peer,
        )

    def _gain(self, peer: str, expert: int) -> None:
        self.held[peer] = dict(sorted({**self.held[peer], expert: self.round}.items()))
        self.holders[expert] += 1
        self.moved.add(peer)

    def _lose(self, peer: str, expert: int) -> None:
        del self.held[peer][expert]
        self.holders[expert] -= 1
        self.moved.add(peer)
