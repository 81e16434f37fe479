"""Attempts without a data plane: they end with results, or with suspects, as real ones do.

The result of a fragment is a hash of what a sum would depend on: the fragment's base, whose updates
were added, and with which weights. An attempt fails where a member dies, leaves, freezes, is cut
off, or never begins.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from rules import TIMEOUTS, digest, fragment_state

from swarm.collective.consensus import ballot_key
from swarm.collective.state import version_message
from swarm.wire import collective_pb2 as pb

if TYPE_CHECKING:
    from world import Peer, World

EXCHANGE_S = 0.02
NOTICE_S = 0.01  # a connection that breaks is noticed after


class Attempt:
    """One member's part in the attempt of a plan."""

    def __init__(self, plan: pb.Plan, ballot: tuple[int, str]) -> None:
        self.plan = plan
        self.ballot = ballot
        self.members = [m.peer for m in plan.members]
        self.over = False  # it has ended here


class Engine:
    """All attempts of a world."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.contents: dict[tuple[str, bytes], int] = {}  # (peer, base) -> life it was trained in
        self.computed: dict[bytes, set[tuple[object, ...]]] = {}  # hash -> what from, and by whom

    def start(self, peer: Peer, plan: pb.Plan) -> None:
        """`StartAttempt`."""
        ballot = ballot_key(plan.ballot)
        if peer.attempt is not None and peer.attempt.ballot == ballot:
            return
        self.leave(peer)
        attempt = peer.attempt = Attempt(plan, ballot)
        world = self.world
        waits = TIMEOUTS.chunk_s + world.ask(("stall", peer.id), 0.0, lambda r: r.random() * 0.2)
        world.after(waits, self._stalled, peer, peer.life, attempt)
        if all(self._of(m, attempt) is not None for m in attempt.members):
            for member in attempt.members:
                other = world.peers[member]
                delay = world.ask(("exchange", member), EXCHANGE_S, _exchange_time)
                world.after(delay, self._finish, other, other.life, self._of(member, attempt))

    def leave(self, peer: Peer) -> None:
        """A peer ends its attempt, or dies: those who still need it notice."""
        attempt, peer.attempt = peer.attempt, None
        if attempt is None:
            return
        for member in attempt.members:
            theirs = self._of(member, attempt)
            if (
                theirs is not None
                and not theirs.over
                and self.world.network.linked(member, peer.id)
            ):
                other = self.world.peers[member]
                after = self.world.ask(("reset", member), NOTICE_S, lambda r: r.random() * 0.1)
                self.world.after(after, self._fail, other, other.life, theirs, [peer.id], "lost")

    def _of(self, member: str, attempt: Attempt) -> Attempt | None:
        """A member's part in the same attempt, while it runs or serves there."""
        peer = self.world.peers.get(member)
        if peer is None or peer.attempt is None or peer.attempt.ballot != attempt.ballot:
            return None
        same = peer.attempt.plan.base_commit == attempt.plan.base_commit
        return peer.attempt if same else None

    def _absent(self, peer: Peer, attempt: Attempt) -> list[str]:
        world = self.world
        return [
            m
            for m in attempt.members
            if m != peer.id
            and (
                self._of(m, attempt) is None
                or world.peers[m].frozen
                or not world.network.joined(peer.id, m)
            )
        ]

    def _stalled(self, peer: Peer, life: int, attempt: Attempt) -> None:
        absent = self._absent(peer, attempt)
        if absent and not attempt.over:
            why = self.world.ask(
                ("why", peer.id), "stalled", lambda r: r.choice(("stalled", "PEER_UNREACHABLE"))
            )
            self._fail(peer, life, attempt, absent, why)

    def _fail(self, peer: Peer, life: int, attempt: Attempt, suspects: list[str], why: str) -> None:
        if peer.life != life or peer.attempt is not attempt or attempt.over:
            return
        attempt.over = True
        report = self._report(attempt)
        report.failure = f"{', '.join(suspects)}: {why}"
        report.suspects.extend(pb.Suspect(peer=s, reason=why) for s in suspects)
        self.world.attempt_ended(peer, report)

    def _finish(self, peer: Peer, life: int, attempt: Attempt) -> None:
        if peer.life != life or peer.attempt is not attempt or attempt.over:
            return
        if peer.frozen or self._absent(peer, attempt):
            self.world.after(TIMEOUTS.chunk_s, self._stalled, peer, life, attempt)
            return
        attempt.over = True
        report, shadow = self._report(attempt), {}
        for planned in attempt.plan.fragments:
            if peer.id in planned.receivers:
                base = peer.state.fragments[planned.fragment]
                made_of = (
                    planned.fragment,
                    base.theta_hash,
                    tuple(planned.contributors),
                    tuple(planned.weights),
                    tuple(self._content(c, attempt) for c in planned.contributors),
                )
                theta = digest(made_of, self._error(peer))
                facts = (*made_of[:4], tuple(planned.holders), peer.id)
                self.computed.setdefault(theta, set()).add(facts)
                result = fragment_state(base.version + 1, theta, digest(theta))
                shadow[planned.fragment] = result
                report.results.append(version_message(planned.fragment, result))
        sources = {f.fragment: list(f.contributors) for f in attempt.plan.fragments}
        peer.state.add_shadow(shadow, sources)
        self.world.attempt_ended(peer, report)

    def _error(self, peer: Peer) -> str:
        """A machine that is faulty computes other bits than the others, now and then."""
        world = self.world
        if peer.id != world.faulty or world.healed:
            return ""
        wrong = world.ask(("wrong bits", peer.id), False, lambda r: r.random() < 0.3)
        return peer.id if wrong else ""

    def _content(self, contributor: str, attempt: Attempt) -> int:
        """Which of its trainings a contributor brings: after a crash it may have trained anew."""
        return self.contents[(contributor, attempt.plan.base_commit)]

    @staticmethod
    def _report(attempt: Attempt) -> pb.Report:
        plan = attempt.plan
        return pb.Report(round=plan.round, branch=plan.branch, ballot=plan.ballot)


def _exchange_time(rng) -> float:
    return EXCHANGE_S if rng.random() < 0.5 else round(rng.expovariate(5), 3)
