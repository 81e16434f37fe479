"""Experts in a swarm that commits for real: a peer joins, leaves, an expert moves, is orphaned."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from swarm.collective.state import FragmentState
from swarm.experts.assignment import AssignmentRules
from swarm.experts.capability import Sizes
from swarm.experts.duties import DutyRules, assignment_of
from swarm.simulation.swarm import SimulatedPeer, SimulatedSwarm, toy_manifest
from swarm.wire import collective_pb2 as pb

RULES = DutyRules(
    assignment=AssignmentRules(num_experts=8, per_peer=2, orphan_rounds=1),
    inner_steps=1,
    sizes=Sizes(trunk=1, expert=1, num_experts=8, full=False),
)
ROOMY = 10**6  # bytes; more than all experts of these sizes need


def run(story: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(story, 60))


async def founded(
    domains: tuple[str, ...] = ("", "", "", ""), memory: int = ROOMY
) -> SimulatedSwarm:
    swarm = SimulatedSwarm(len(domains), duty_rules=RULES)
    for peer, domain in zip(by_id(swarm), domains, strict=True):
        peer.capability = pb.Capability(domain=domain, memory_bytes=memory)
    await swarm.start()
    return swarm


def by_id(swarm: SimulatedSwarm) -> list[SimulatedPeer]:
    return sorted(swarm.peers, key=lambda peer: peer.peer_id)


def record_of(swarm: SimulatedSwarm) -> pb.RoundRecord:
    record = swarm.peers[0].ledger.record
    assert record is not None
    return record


def experts_of(swarm: SimulatedSwarm, peer: SimulatedPeer) -> list[int]:
    return list(assignment_of(record_of(swarm), peer.peer_id).experts)


def state_of(swarm: SimulatedSwarm, expert: int) -> FragmentState:
    return swarm.peers[0].state.fragments[f"expert.{expert}"]


async def enter(swarm: SimulatedSwarm, newcomer: SimulatedPeer) -> None:
    """The newcomer enters with the round that the others commit meanwhile."""
    others = [p for p in swarm.peers if p is not newcomer]
    joining = asyncio.create_task(swarm.join(newcomer))
    while newcomer.ledger.record is None:
        await asyncio.sleep(0.02)
    while not joining.done():
        await asyncio.gather(*(p.round() for p in others))
        await asyncio.sleep(0.1)
    await joining


def test_a_peer_joins_and_is_drawn_to_the_experts_of_its_domain_while_the_others_keep_theirs():
    async def story() -> None:
        swarm = await founded(("law", "code", "maths", "law"))
        await swarm.round()
        before = {peer.peer_id: experts_of(swarm, peer) for peer in swarm.peers}
        coder = by_id(swarm)[1]
        newcomer = swarm.add()
        newcomer.capability = pb.Capability(domain="code", memory_bytes=ROOMY)
        await enter(swarm, newcomer)
        assert experts_of(swarm, newcomer) == before[coder.peer_id] == [2, 3]
        assert {p: list(assignment_of(record_of(swarm), p).experts) for p in before} == before
        records = await swarm.round()
        shared = next(o for o in records[0].fragments if o.state.fragment == "expert.2")
        assert sorted(shared.contributors) == sorted([coder.peer_id, newcomer.peer_id])
        swarm.assert_level()
        await swarm.close()

    run(story())


def test_a_peer_leaves_and_others_with_room_take_its_experts_over_one_each():
    async def story() -> None:
        swarm = await founded()
        await swarm.round()
        leaver = by_id(swarm)[1]
        lost = experts_of(swarm, leaver)
        await leaver.member.resign()
        await leaver.member.close()
        swarm.kill(leaver)
        await swarm.round()
        assert leaver.peer_id not in record_of(swarm).roster
        standing = {s.expert: s.orphaned_rounds for s in record_of(swarm).experts}
        assert [standing[e] for e in lost] == [1, 1]
        await swarm.round()
        taken = [e for p in swarm.peers for e in experts_of(swarm, p) if e in lost]
        assert sorted(taken) == lost
        assert max(len(experts_of(swarm, p)) for p in swarm.peers) == 3
        assert all(s.orphaned_rounds == 0 for s in record_of(swarm).experts)
        await swarm.close()

    run(story())


def test_what_the_codec_cut_off_an_expert_is_forgotten_with_the_expert(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def story() -> None:
        swarm = SimulatedSwarm(2, manifest=toy_manifest(min_peers=2, codec="int8"))
        await swarm.start()
        await swarm.round()
        peer = swarm.peers[0]
        lost, kept = (f"expert.{e}" for e in experts_of(swarm, peer))
        feedback = peer.member._feedback
        assert feedback.residual(lost) is not None
        monkeypatch.setattr(swarm.policy, "holds", lambda record, who: ["trunk.0", kept])
        await swarm.round()
        assert feedback.residual(lost) is None
        assert feedback.residual(kept) is not None and feedback.residual("trunk.0") is not None
        await swarm.close()

    run(story())


def test_the_last_holder_is_lost_and_the_expert_stays_bitwise_as_it_was_until_another_trains_it():
    async def story() -> None:
        swarm = await founded()
        await swarm.round()
        victim = by_id(swarm)[2]
        expert = experts_of(swarm, victim)[0]
        committed = state_of(swarm, expert)
        assert committed.version == 1 and committed.momentum.any()
        swarm.kill(victim)
        for _ in range(2):  # nobody holds it in these rounds: no step, no momentum, no version
            await swarm.round()
            kept = state_of(swarm, expert)
            assert kept.version == 1
            assert kept.theta.tobytes() == committed.theta.tobytes()
            assert kept.momentum.tobytes() == committed.momentum.tobytes()
        holder = next(p for p in swarm.peers if expert in experts_of(swarm, p))
        delta = holder.delta(f"expert.{expert}", record_of(swarm).round + 1)
        await swarm.round()
        # The momentum is the expert's, not its holder's: the new one's step continues it.
        expected = swarm.policy.apply(f"expert.{expert}", delta, committed, 1)
        moved = state_of(swarm, expert)
        assert moved.version == 2
        assert moved.theta.tobytes() == expected.theta.tobytes()
        assert moved.momentum.tobytes() == expected.momentum.tobytes()
        swarm.assert_level()
        await swarm.close()

    run(story())


def test_without_room_anywhere_an_orphan_waits_and_a_newcomer_gets_it_first():
    async def story() -> None:
        two_places = 2 * 16 * 10 // 8 + 20  # bytes: the trunk, two experts, a fifth for the rest
        swarm = await founded(memory=two_places)
        await swarm.round()
        victim = by_id(swarm)[0]
        lost = experts_of(swarm, victim)
        swarm.kill(victim)
        for _ in range(4):
            await swarm.round()
        standing = {s.expert: s.orphaned_rounds for s in record_of(swarm).experts}
        assert [standing[e] for e in lost] == [4, 4]
        newcomer = swarm.add()
        newcomer.capability = pb.Capability(memory_bytes=two_places)
        await enter(swarm, newcomer)
        assert experts_of(swarm, newcomer) == lost
        await swarm.round()
        assert {o.advanced for o in record_of(swarm).fragments} == {True}
        await swarm.close()

    run(story())


def test_what_a_peer_measures_reaches_the_record_and_decides_the_next_steps():
    async def story() -> None:
        swarm = SimulatedSwarm(2, duty_rules=replace(RULES, inner_steps=30, dynamic_steps=True))
        fast, slow = by_id(swarm)
        fast.capability = pb.Capability(seconds_per_step=0.1)
        slow.capability = pb.Capability(seconds_per_step=0.3)  # before its first round
        await swarm.start()
        assert [a.steps for a in record_of(swarm).assignments] == [30, 10]
        for peer, seconds in ((fast, 0.1), (slow, 1.0)):  # it is slower than it seemed
            plain = peer.offer

            def offer(
                fragments: Any = None,
                tokens: int = 100,
                plain: Any = plain,
                seconds: float = seconds,
            ) -> Any:
                return replace(plain(fragments, tokens), steps=10, train_seconds=10 * seconds)

            peer.offer = offer  # type: ignore[method-assign]
        await swarm.round()
        record = record_of(swarm)
        assert [a.steps for a in record.assignments] == [30, 3]
        assert np.allclose([a.seconds_per_step for a in record.assignments], [0.1, 0.93])
        await swarm.close()

    run(story())
