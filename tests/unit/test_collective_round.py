"""The round protocol end to end on a fake network, sunny and with one death at a time."""

import asyncio
import threading
import time

import numpy as np
import pytest
from polling import soon
from quick_swarm import QUICK, quick_swarm, run

from swarm.collective import offers
from swarm.collective.consensus import verify_commit
from swarm.collective.protocol.rollcall import straggler_deadline_s
from swarm.errors import Code, SwarmError
from swarm.identity import verify
from swarm.network.lane import Kind
from swarm.simulation.swarm import SimulatedSwarm, ToyPolicy, toy_manifest
from swarm.wire import collective_pb2 as pb


def asks_to_enter(newcomer, others):
    return any(newcomer.peer_id in p.member.machine.boundary.petitions for p in others)


def test_four_peers_found_a_run_and_commit_identical_rounds():
    async def story():
        swarm = SimulatedSwarm(4)
        await swarm.start()
        for expected_round in (1, 2, 3):
            records = await swarm.round()
            swarm.assert_level()
            assert {r.round for r in records} == {expected_round}
            assert {r.outcome for r in records} == {pb.FULL}
            assert all(
                o.advanced and o.state.version == expected_round for o in records[0].fragments
            )
        verify_commit(swarm.peers[0].ledger.commit, swarm.manifest.run_id, verify)
        await swarm.close()

    run(story())


def test_the_committed_trunk_is_the_outer_step_on_the_mean_of_all_updates():
    async def story():
        swarm = SimulatedSwarm(3)
        await swarm.start()
        base = swarm.peers[0].state.fragments["trunk.0"]
        deltas = [p.delta("trunk.0", 1) for p in sorted(swarm.peers, key=lambda p: p.peer_id)]
        await swarm.round()
        mean = np.mean(np.stack(deltas).astype(np.float64), axis=0)
        expected = swarm.policy.apply("trunk.0", mean.astype(np.float32), base, 3)
        got = swarm.peers[0].state.fragments["trunk.0"]
        np.testing.assert_allclose(got.theta, expected.theta, rtol=1e-5, atol=1e-6)
        await swarm.close()

    run(story())


@pytest.mark.parametrize("codec", ["bf16", "int8"])
def test_lossy_codecs_keep_all_peers_bit_identical(codec):
    async def story():
        swarm = SimulatedSwarm(4, manifest=toy_manifest(min_peers=4, codec=codec))
        await swarm.start()
        for _ in range(2):
            await swarm.round()
            swarm.assert_level()
        await swarm.close()

    run(story())


def test_each_expert_is_its_holders_own_update():
    async def story():
        swarm = SimulatedSwarm(4)
        await swarm.start()
        holders = {e: a.peer for a in swarm.peers[0].ledger.record.assignments for e in a.experts}
        assert sorted(holders) == list(range(8))
        record = (await swarm.round())[0]
        for outcome in record.fragments:
            if outcome.state.fragment.startswith("expert."):
                expert = int(outcome.state.fragment.split(".")[1])
                assert list(outcome.contributors) == [holders[expert]]
        await swarm.close()

    run(story())


@pytest.mark.parametrize("rank", range(4))
def test_member_killed_before_the_round_survivors_go_on(rank):
    """Rank 0 is the round's leader, rank 1 its successor."""

    async def story():
        swarm = SimulatedSwarm(4)
        await swarm.start()
        await swarm.round()
        order = swarm.peers[0].member.succession()
        victim = next(p for p in swarm.peers if p.peer_id == order[rank])
        swarm.kill(victim)
        records = await swarm.round()
        swarm.assert_level()
        assert victim.peer_id not in records[0].roster
        assert [m.peer for m in records[0].missing] == [victim.peer_id]
        assert records[0].outcome == pb.PARTIAL
        assert next(o for o in records[0].fragments if o.state.fragment == "trunk.0").advanced
        await swarm.close()

    run(story())


@pytest.mark.parametrize("rank", range(4))
def test_reducer_killed_mid_reduce_survivors_agree(rank):
    async def story():
        numel = {"trunk.0": 1_500_000, **{f"expert.{e}": 1000 for e in range(8)}}
        swarm = SimulatedSwarm(4, numel=numel)
        await swarm.start()
        order = swarm.peers[0].member.succession()
        victim = next(p for p in swarm.peers if p.peer_id == order[rank])
        loop = asyncio.get_running_loop()
        killed = asyncio.Event()

        def kill_on_first_chunk(source, target, kind, index):
            if kind is Kind.CHUNK and source == victim.peer_id and not killed.is_set():
                swarm.bulk.kill(victim.peer_id)
                loop.call_soon_threadsafe(killed.set)

        swarm.bulk.on_frame = kill_on_first_chunk
        dying = asyncio.create_task(victim.round())
        survivors = [p for p in swarm.peers if p is not victim]
        rounds = [asyncio.create_task(p.round()) for p in survivors]
        await asyncio.wait_for(killed.wait(), 20)
        swarm.kill(victim)
        dying.cancel()
        await victim.member.close()
        records = await asyncio.wait_for(asyncio.gather(*rounds), 30)
        swarm.assert_level()
        assert {r.round for r in records} == {1}
        trunk = next(o for o in records[0].fragments if o.state.fragment == "trunk.0")
        assert trunk.advanced and victim.peer_id not in trunk.contributors
        assert sorted(trunk.contributors) == sorted(p.peer_id for p in survivors)
        await swarm.close()

    run(story())


def test_late_joiner_enters_at_a_boundary_and_changes_no_denominator():
    async def story():
        swarm = SimulatedSwarm(3)
        await swarm.start()
        await swarm.round()
        newcomer = swarm.add()
        others = [p for p in swarm.peers if p is not newcomer]
        joining = asyncio.create_task(swarm.join(newcomer))
        await soon(lambda: newcomer.ledger.record is not None and asks_to_enter(newcomer, others))
        records = await asyncio.gather(*(p.round() for p in others))
        await joining
        assert list(records[0].joined) == [newcomer.peer_id]
        for outcome in records[0].fragments:
            assert newcomer.peer_id not in outcome.contributors
        assert records[0].outcome == pb.FULL
        swarm.assert_level()
        records = await swarm.round()
        trunk = next(o for o in records[0].fragments if o.state.fragment == "trunk.0")
        assert newcomer.peer_id in trunk.contributors
        await swarm.close()

    run(story())


def test_killed_peer_restarts_gets_its_experts_back_and_votes_again():
    async def story():
        swarm = SimulatedSwarm(4)
        await swarm.start()
        await swarm.round()
        victim = swarm.peers[1]
        before = victim.trainable()
        swarm.kill(victim)
        await swarm.round()
        returned = swarm.add(victim.identity, victim.ledger)
        others = [p for p in swarm.peers if p is not returned]
        joining = asyncio.create_task(swarm.join(returned))
        await soon(lambda: asks_to_enter(returned, others))
        await asyncio.gather(*(p.round() for p in others))
        await joining
        assert returned.trainable() == before
        await swarm.round()
        swarm.assert_level()
        voters = {v.voter for v in swarm.peers[0].ledger.commit.votes}
        assert returned.peer_id in voters
        await swarm.close()

    run(story())


def test_peer_with_wrong_bits_is_given_the_agreed_ones():
    async def story():
        swarm = SimulatedSwarm(4)
        await swarm.start()
        liar = swarm.peers[0]

        class Wrong(ToyPolicy):
            def apply(self, fragment, mean, state, contributors, encoded=None, name=None):
                return super().apply(fragment, mean + np.float32(1e-3), state, contributors)

        liar.member.context.policy = Wrong(swarm.policy.numel)
        records = await swarm.round()
        swarm.assert_level()
        assert next(o for o in records[0].fragments if o.state.fragment == "trunk.0").advanced
        assert any(e.name == "resync" for e in liar.events)
        await swarm.close()

    run(story())


def test_update_of_another_size_than_its_fragment_is_refused_where_it_is_offered():
    async def story():
        swarm = SimulatedSwarm(2)
        await swarm.start()
        peer = swarm.peers[0]
        offer = peer.offer()
        offer.deltas["trunk.0"] = offer.deltas["trunk.0"][1:]
        with pytest.raises(SwarmError, match=r"trunk\.0") as caught:
            await peer.member.run_round(offer)
        assert caught.value.code is Code.USAGE
        await swarm.round()
        swarm.assert_level()
        await swarm.close()

    run(story())


def test_update_that_is_not_finite_is_refused_and_named():
    async def story():
        swarm = SimulatedSwarm(4)
        await swarm.start()
        bad = swarm.peers[2]
        delta = bad.delta

        def poisoned(fragment, round_index):
            values = delta(fragment, round_index)
            if fragment == "trunk.0":
                values[17] = np.nan
            return values

        bad.delta = poisoned
        records = await swarm.round()
        swarm.assert_level()
        assert [(m.peer, m.reason) for m in records[0].missing] == [
            (bad.peer_id, "its update is not finite")
        ]
        assert bad.peer_id in records[0].roster
        await swarm.close()

    run(story())


def test_survivors_without_a_majority_branch_after_the_lease_and_say_so():
    async def story():
        from swarm.config import TimeoutPolicy

        quick = TimeoutPolicy(
            heartbeat_s=0.3, chunk_s=0.5, attempt_s=1.0, round_s=1.5, join_s=2.0, lease_s=2.5
        )
        swarm = SimulatedSwarm(3, manifest=toy_manifest(min_peers=3, timeouts=quick))
        await swarm.start()
        first_branch = swarm.peers[0].ledger.branch
        for victim in list(swarm.peers[1:]):
            swarm.kill(victim)
        records = await swarm.round()
        assert records[0].branch != first_branch and records[0].unanimous
        assert list(records[0].roster) == [swarm.peers[0].peer_id]
        await swarm.close()

    run(story())


def test_cut_off_minority_cannot_commit_and_resyncs_when_the_cut_heals():
    async def story():
        swarm = SimulatedSwarm(4)
        await swarm.start()
        loner, majority = swarm.peers[0], swarm.peers[1:]
        swarm.hub.partition([loner.peer_id], [p.peer_id for p in majority])
        stuck = asyncio.create_task(loner.round())
        await asyncio.wait_for(asyncio.gather(*(p.round() for p in majority)), 30)
        assert loner.ledger.record.round == 0 and not stuck.done()
        swarm.hub.heal()
        record = await asyncio.wait_for(stuck, 20)
        assert record.round == 1
        swarm.assert_level()
        await swarm.close()

    run(story())


def test_members_who_leave_in_good_order_take_their_votes_with_them():
    """Three of five leave: the two who stay are no majority of five, and need not be."""

    async def story():
        swarm = SimulatedSwarm(5)
        await swarm.start()
        branch = swarm.peers[0].ledger.branch
        for leaver in list(swarm.peers[2:]):
            await leaver.member.resign()
            await leaver.member.close()
            swarm.kill(leaver)
        records = await swarm.round(timeout_s=10)
        assert list(records[0].roster) == sorted(p.peer_id for p in swarm.peers)
        assert records[0].branch == branch and len(records[0].resignations) == 3
        verify_commit(swarm.peers[0].ledger.commit, swarm.manifest.run_id, verify)
        swarm.assert_level()
        await swarm.close()

    run(story())


def test_a_member_who_rests_is_waited_for_by_nobody_and_comes_back_as_a_member_who_stays():
    async def story():
        swarm = SimulatedSwarm(3)
        await swarm.start()
        resting, *_ = swarm.peers
        awake = swarm.peers[1:]
        await resting.member.resign()
        began = time.monotonic()
        for _ in range(2):
            records = await asyncio.gather(*(peer.round() for peer in awake))
        assert time.monotonic() - began < 3.0  # it answers, yet nobody waits for it
        assert resting.peer_id not in records[0].roster

        await soon(lambda: resting.ledger.record.round == 2)  # it follows what the others decide
        resting.member.stay()
        joining = asyncio.create_task(swarm.join(resting))
        await soon(lambda: asks_to_enter(resting, awake))
        await asyncio.gather(joining, *(peer.round() for peer in awake))
        records = await swarm.round()
        trunk = [o for o in records[0].fragments if o.state.fragment == "trunk.0"]
        assert resting.peer_id in trunk[0].contributors
        # Only it is left to say that it stays, without which nobody resigns.
        swarm.kill(awake[1])
        await awake[0].member.resign()
        assert awake[0].ledger.memory.has_resigned
        await swarm.close()

    run(story())


def test_a_newcomer_in_mid_training_does_not_cut_the_round_short():
    async def story():
        swarm = quick_swarm(3)
        await swarm.start()
        for _ in range(3):  # so that the deadline is the adaptive one, not the ceiling
            await swarm.round()
        newcomer = swarm.add()
        others = [p for p in swarm.peers if p is not newcomer]
        joining = asyncio.create_task(swarm.join(newcomer))
        await soon(lambda: asks_to_enter(newcomer, others))
        await asyncio.sleep(3 * QUICK.heartbeat_s)  # they train on, past the adaptive deadline
        assert {p.ledger.record.round for p in others} == {3}
        records = await asyncio.gather(*(p.round() for p in others))
        await joining
        assert records[0].round == 4 and records[0].outcome == pb.FULL
        await swarm.close()

    run(story())


def test_straggler_deadline_follows_the_past_within_its_bounds():
    assert straggler_deadline_s([], 2.0, 60.0) == 60.0
    assert straggler_deadline_s([1.0, 1.0, 1.0], 2.0, 60.0) == 3.0
    assert straggler_deadline_s([1.0, 5.0, 3.0], 2.0, 60.0) == 11.0
    assert straggler_deadline_s([100.0] * 5, 2.0, 60.0) == 60.0


def test_norms_of_updates_are_computed_beside_the_event_loop(monkeypatch):
    threads, norm = set(), offers._norm

    def noted(values):
        threads.add(threading.current_thread())
        return norm(values)

    async def story():
        manifest = toy_manifest(aggregation="clipped_mean")
        swarm = SimulatedSwarm(2, manifest=manifest)
        await swarm.start()
        await swarm.round()
        swarm.assert_level()
        await swarm.close()

    monkeypatch.setattr(offers, "_norm", noted)
    run(story())
    assert threads and threading.main_thread() not in threads
