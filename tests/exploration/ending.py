"""What must come about after all is healed: one swarm of all the living, which commits again.

The living follow one history, all are in its roster and level, and it has grown. Nothing better can
be expected where a majority is gone and the rule is to wait, where nobody is left who was a member,
and where a fragment is lost with the last that had it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from lives import find_fragment
from oracle import Violation, better

from swarm.wire import collective_pb2 as pb

if TYPE_CHECKING:
    from peer import Peer
    from world import World


def is_whole(world: World) -> bool:
    """True when it has come about."""
    living = [p for p in world.peers.values() if p.alive]
    names = {p.memory.commit_id for p in living}
    if not living:
        return True
    if len(names) != 1 or not names <= world.oracle.new:
        return False
    roster = set(world.oracle.records[names.pop()].roster)
    if not all(p.id in roster and p.machine.level for p in living):
        return False
    return world.steering.is_in_effect()


def explain(world: World) -> None:
    """Raise a `Violation` that says what has not come about, unless it is excused."""
    living = [p for p in world.peers.values() if p.alive]
    if excuse := _excuse(world, living):
        world.seen[f"excused: {excuse}"] += 1
        return
    follows = {p.memory.commit_id for p in living}
    if len(follows) > 1:
        rule = "the living do not come together in one history"
    elif not follows & world.oracle.new:
        rule = "no round ends though a majority lives"
    elif not all(p.machine.level for p in living):
        rule = "a peer does not get level"
    elif not world.steering.is_in_effect():
        rule = "a change that a living peer knows is not put into effect"
    else:
        rule = "a living peer does not get into the roster"
    raise Violation(rule, world)


def _excuse(world: World, living: list[Peer]) -> str:
    membership = living[0].setup.manifest.membership
    best: pb.RoundRecord | None = None
    for peer in living:
        record = peer.memory.record
        if record is not None and (best is None or better(record, best)):
            best = record
    if best is None:
        return "too few are left to found the run" * (len(living) < membership.min_peers)
    if not any(p.id in best.roster for p in living):
        return "no member of the newest roster is left"
    for outcome in best.fragments:
        if not any(find_fragment(p.state, outcome.state) for p in living):
            return "a fragment is lost with its last holder"
    voters = set(best.roster) - {r for p in living for r in p.memory.resignations}
    able = {p.id for p in living if p.id in voters and not p.memory.abstains}
    able.discard(world.faulty)  # it may refuse what it computed in another way
    if membership.on_majority_lost == "wait" and len(able) < len(voters) // 2 + 1:
        return "the majority is gone, and the rule is to wait"
    return ""
