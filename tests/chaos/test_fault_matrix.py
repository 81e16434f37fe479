"""Every role is killed and frozen at every step that exists for it; the survivors commit and agree.

One swarm of four real processes for all cells. In each cell the victim signals itself at the exact
step (faults.py), and afterwards it is brought back. What is checked, in `ChaosSwarm`: the survivors
commit in time, all with the same bits, with the values that follow from the recorded contributors;
no survivor's update is lost; the record names who was left out, and why; the victim returns,
fetches what it lacks, and matches. `--repetitions N` runs every cell N times.
"""

from __future__ import annotations

import pytest
from chaos_swarm import ChaosSwarm, SwarmPool
from faults import FREEZE, KILL, STOP, Fault
from peer_process import PeerProcess

pytestmark = [pytest.mark.heavy, pytest.mark.timeout(120)]

MEMBER_STEPS = {
    "after its ready": "after-call Ready",
    "plan received": "before-serve Plan",
    "promised": "after-serve Plan",
    "first chunk": "chunk first",
    "mid-reduce": "chunk mid",
    "last chunk": "chunk last",
    "before the report": "before-call Report",
    "after the report": "after-call Report",
    "before the vote": "before-serve Accept",
    "after the vote": "after-serve Accept",
    "commit received": "before-serve Commit",
    "commit adopted": "after-serve Commit",
}
MEAN_STEPS = {
    "first mean": "mean first",
    "half of the means": "mean mid",
    "last mean": "mean last",
}
LEADER_STEPS = {
    "another's ready noted": "after-serve Ready",
    "before the plan": "before-call Plan",
    "a promise came": "after-call Plan",
    "first chunk": "chunk first",
    "mid-reduce": "chunk mid",
    "last chunk": "chunk last",
    **MEAN_STEPS,
    "a report came": "before-serve Report",
    "before asking for votes": "before-call Accept",
    "a vote came": "after-call Accept",
    "quorum, nobody told": "before-call Commit",
    "quorum, one was told": "after-call Commit",
}
JOINER_STEPS = {
    "in a download": "download 5",
    "after its ready": "after-call Ready",
    "commit received": "before-serve Commit",
    "commit adopted": "after-serve Commit",
}
CELLS = [
    (role, name, step)
    for role, steps in (
        ("contributor", MEMBER_STEPS),
        ("reducer", {**MEMBER_STEPS, **MEAN_STEPS}),
        ("leader", LEADER_STEPS),
        ("joiner", JOINER_STEPS),
    )
    for name, step in steps.items()
]
each_cell = pytest.mark.parametrize(
    ("role", "step"),
    [(role, step) for role, _, step in CELLS],
    ids=[f"{role}, {name}" for role, name, _ in CELLS],
)


def limit_s(action: str, round_s: float) -> float:
    """How long the survivors may take: issue 3, "Done when"."""
    return 2.0 + 1.5 * round_s if action == KILL else 7.0 + round_s


def choose(swarm: ChaosSwarm, role: str, repetition: int) -> PeerProcess:
    """The peer that will have this role in the open round."""
    rank = 0 if role == "leader" else 1 + repetition % (len(swarm.peers) - 1)
    return swarm.by_id(swarm.succession[rank])


def disturb_member(
    swarm: ChaosSwarm, role: str, fault: Fault, repetition: int
) -> tuple[float, float]:
    """One round in which a member harms itself; then it comes back. Returns (seconds, bound)."""
    victim = choose(swarm, role, repetition)
    if role == "contributor":  # one that reduces nothing
        victim.ask("meek", True)
    bound = limit_s(fault.action, swarm.round_s)
    disturbed = swarm.round_with(victim, fault)
    if fault.step.startswith("chunk"):
        assert disturbed.reduced == (role != "contributor")
    back = swarm.bring_back(victim, fault)
    if role == "contributor" and fault.action != KILL:
        back.ask("meek", False)
    return disturbed.seconds, bound


def disturb_joiner(swarm: ChaosSwarm, fault: Fault, repetition: int) -> tuple[float, float]:
    """A peer that is out of the roster harms itself while it enters. Returns (seconds, bound)."""
    joiner = choose(swarm, "joiner", repetition)
    joiner.kill()
    swarm.round_of_survivors([joiner])  # takes it out of the roster
    joiner = swarm.restart(joiner)
    joiner.ask("arm", fault)
    joiner.pending, joiner.joining = joiner.send("join"), True
    bound = limit_s(fault.action, swarm.round_s)
    seconds = swarm.rounds_until_harmed(joiner)
    swarm.bring_back(joiner, fault).joining = False
    return seconds, bound


def disturb(
    pool: SwarmPool, role: str, fault: Fault, repetition: int, cell: list[tuple[float, float]]
) -> None:
    with pool.swarm() as swarm:
        if role == "joiner":
            seconds, bound = disturb_joiner(swarm, fault, repetition)
        else:
            seconds, bound = disturb_member(swarm, role, fault, repetition)
        cell.append((seconds, bound))
        swarm.round_after_a_return()
        assert seconds <= bound, f"the survivors took {seconds:.2f} s, allowed are {bound:.2f} s"


@each_cell
def test_one_is_killed_and_the_survivors_commit_in_time(
    pool: SwarmPool, role: str, step: str, repetition: int, cell: list[tuple[float, float]]
) -> None:
    disturb(pool, role, Fault(step, KILL), repetition, cell)


@each_cell
def test_one_is_frozen_and_the_survivors_commit_in_time(
    pool: SwarmPool, role: str, step: str, repetition: int, cell: list[tuple[float, float]]
) -> None:
    """Its process alone is stopped, so that the kernel and p2pd still answer for it, or, every
    other time, p2pd too, as when the machine hangs."""
    index = [(r, s) for r, _, s in CELLS].index((role, step))
    action = STOP if (index + repetition) % 2 == 0 else FREEZE
    disturb(pool, role, Fault(step, action), repetition, cell)
