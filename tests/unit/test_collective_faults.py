"""The round protocol under faults that a review found: each story once broke it."""

import asyncio
import threading

import pytest
from polling import soon
from quick_swarm import QUICK, leader_of, quick_swarm, run, trunk_of

from swarm.collective.consensus import verify_commit
from swarm.errors import Code, SwarmError
from swarm.identity import verify
from swarm.network.lane import Kind

# ---- deaths between the votes -------------------------------------------------------------


def test_a_lone_survivor_that_had_voted_branches_all_the_same():
    async def story():
        swarm = quick_swarm(2)
        await swarm.start()
        leader = leader_of(swarm)
        survivor = next(p for p in swarm.peers if p is not leader)
        swarm.hub.drop = lambda source, target, kind: kind == "swarm.v1.Commit"
        rounds = [asyncio.create_task(p.round()) for p in swarm.peers]
        await soon(lambda: leader.ledger.record.round == 1)
        assert survivor.ledger.record.round == 0 and survivor.ledger.has_promised
        swarm.kill(leader)
        await leader.member.close()
        swarm.hub.drop = lambda source, target, kind: False
        record = await asyncio.wait_for(rounds[swarm_index(rounds, survivor, leader)], 30)
        assert record.unanimous and list(record.roster) == [survivor.peer_id]
        await swarm.close()

    def swarm_index(rounds, survivor, leader):
        return 0 if rounds[0].done() is False else 1

    run(story())


def test_a_founder_that_dies_between_the_votes_does_not_block_the_founding():
    async def story():
        swarm = quick_swarm(3, min_peers=2)
        victim = None

        def lose_accepts(source, target, kind):
            return kind == "swarm.v1.Accept"

        swarm.hub.drop = lose_accepts
        starts = {p.peer_id: asyncio.create_task(swarm.join(p, 40)) for p in swarm.peers}
        await soon(lambda: swarm.hub.calls["swarm.v1.Accept"] > 0)
        victim = next(p for p in swarm.peers if p.member.leader is not None)
        swarm.kill(victim)
        starts.pop(victim.peer_id).cancel()
        await victim.member.close()
        swarm.records.pop(victim.peer_id)
        swarm.hub.drop = lambda source, target, kind: False
        await asyncio.wait_for(asyncio.gather(*starts.values()), 30)
        assert sorted(swarm.peers[0].ledger.record.roster) == sorted(p.peer_id for p in swarm.peers)
        await swarm.close()

    run(story())


def test_a_leader_that_dies_after_the_quorum_its_decision_stands():
    async def story():
        swarm = quick_swarm(4)
        await swarm.start()
        leader = leader_of(swarm)
        swarm.hub.drop = lambda source, target, kind: kind == "swarm.v1.Commit"
        rounds = {p.peer_id: asyncio.create_task(p.round()) for p in swarm.peers}
        await soon(lambda: leader.ledger.record.round == 1)
        decided = leader.ledger.commit_id
        swarm.kill(leader)
        await leader.member.close()
        swarm.hub.drop = lambda source, target, kind: False
        rounds.pop(leader.peer_id)
        await asyncio.wait_for(asyncio.gather(*rounds.values()), 30)
        assert {p.ledger.commit_id for p in swarm.peers} == {decided}
        swarm.assert_level()
        await swarm.close()

    run(story())


# ---- leaving ------------------------------------------------------------------------------


async def stop(swarm, peer):
    await peer.member.resign()
    await peer.member.close()
    swarm.kill(peer)


@pytest.mark.parametrize("at_once", [True, False])
def test_a_swarm_that_was_stopped_whole_goes_on_when_it_is_started_again(at_once):
    async def story():
        swarm = quick_swarm(3)
        await swarm.start()
        await swarm.round()
        stopped = list(swarm.peers)
        if at_once:
            await asyncio.gather(*(stop(swarm, p) for p in stopped))
        else:
            for peer in stopped:
                await stop(swarm, peer)
        for peer in stopped:
            again = swarm.add(peer.identity, peer.ledger)
            again.state.fragments = peer.state.fragments
        await swarm.start()
        records = await swarm.round(15)
        assert {r.round for r in records} == {2} and not records[0].unanimous
        swarm.assert_level()
        await swarm.close()

    run(story())


def test_a_peer_that_resigned_and_came_back_in_the_same_round_has_no_vote_in_it():
    async def story():
        swarm = quick_swarm(3)
        await swarm.start()
        leaver = swarm.peers[0]
        await stop(swarm, leaver)
        back = swarm.add(leaver.identity, leaver.ledger)
        back.state.fragments = leaver.state.fragments
        assert back.ledger.abstains
        records = await swarm.round(20)
        assert len({r.round for r in records}) == 1
        voters = {v.voter for v in swarm.peers[0].ledger.commit.votes}
        assert back.peer_id not in voters
        verify_commit(swarm.peers[0].ledger.commit, swarm.manifest.run_id, verify)
        assert not back.ledger.abstains
        await swarm.close()

    run(story())


def test_a_peer_that_gave_its_word_in_the_open_round_does_not_resign():
    async def story():
        swarm = quick_swarm(3)
        await swarm.start()
        peer = swarm.peers[0]
        peer.ledger.promise(b"some decision of the open round", (1, "leader"))
        await peer.member.resign()
        assert not peer.ledger.abstains
        assert all(not p.ledger.resignations for p in swarm.peers)
        await swarm.close()

    run(story())


# ---- links --------------------------------------------------------------------------------


def test_a_leader_whose_data_port_is_closed_is_left_out_but_the_round_ends():
    async def story():
        swarm = quick_swarm(4)
        await swarm.start()
        leader = leader_of(swarm)

        def closed_port(source, target, kind, index):
            if target == leader.peer_id:
                raise SwarmError(Code.PEER_UNREACHABLE, "connection refused")

        swarm.bulk.on_frame = closed_port
        records = await swarm.round(40)
        assert leader.peer_id not in trunk_of(records[0]).contributors
        assert len(trunk_of(records[0]).contributors) == 3
        assert "link trouble" in next(m.reason for m in records[0].missing)
        assert leader.peer_id in records[0].roster
        swarm.assert_level()
        await swarm.close()

    run(story())


def test_a_contributor_that_stalls_is_named_and_left_out():
    async def story():
        swarm = quick_swarm(4)
        await swarm.start()
        slow = swarm.peers[1]
        release = threading.Event()

        def stall(source, target, kind, index):
            if source == slow.peer_id and kind is Kind.CHUNK:
                release.wait(10)

        swarm.bulk.on_frame = stall
        records = await swarm.round(40)
        release.set()
        assert [(m.peer, m.reason) for m in records[0].missing] == [
            (slow.peer_id, "its link moved nothing")
        ]
        swarm.assert_level()
        await swarm.close()

    run(story())


def test_a_member_whose_attempts_always_fail_does_not_hold_the_round_up():
    async def story():
        swarm = quick_swarm(4)
        await swarm.start()
        broken = swarm.peers[0]

        class Broken(type(swarm.policy)):
            def apply(self, fragment, mean, state, contributors, encoded=None):
                raise MemoryError("out of memory")

        broken.member.context.policy = Broken(swarm.policy.numel)
        records = await swarm.round(40)
        assert "its attempts fail" in next(
            m.reason for m in records[0].missing if m.peer == broken.peer_id
        )
        swarm.assert_level()
        await swarm.close()

    run(story())


def test_looking_for_a_better_history_outlives_a_dht_that_does_not_answer():
    async def story():
        swarm = quick_swarm(2)
        await swarm.start()
        peer = swarm.peers[0]

        async def no_answer():
            raise SwarmError(Code.PEER_UNREACHABLE, "no answer")

        peer.signed_records = no_answer
        await asyncio.sleep(3 * QUICK.heartbeat_s)
        assert len(await peer.directory.records()) == 2
        assert not any(e.name == "task_failed" for e in peer.events)
        await swarm.round()
        await swarm.close()

    run(story())


# ---- disks --------------------------------------------------------------------------------


@pytest.mark.parametrize("what", ["save_word", "save_commit"])
def test_a_peer_whose_disk_is_full_stops_and_the_others_go_on(what):
    async def story():
        swarm = quick_swarm(3)
        await swarm.start()
        full = swarm.peers[1]
        before = full.ledger.commit_id

        def no_space(*data):
            raise SwarmError(Code.DISK_FULL, "no space left")

        setattr(full.ledger, what, no_space)
        others = [p for p in swarm.peers if p is not full]
        rounds = [asyncio.create_task(p.round()) for p in others]
        with pytest.raises(SwarmError) as caught:
            await full.round()
        assert caught.value.code is Code.DISK_FULL
        assert full.ledger.commit_id == before and full.ledger.record.round == 0
        await full.member.close()
        swarm.kill(full)
        records = await asyncio.wait_for(asyncio.gather(*rounds), 20)
        assert {r.round for r in records} == {1}
        swarm.assert_level()
        await swarm.close()

    run(story())


# ---- defects ------------------------------------------------------------------------------


def breaks_once(machine, part, round_index):
    """This part of the machine raises, once, as soon as the machine has adopted that round."""
    step, broken = part.step, []

    def step_or_break():
        record = machine.memory.record
        if not broken and record is not None and record.round == round_index:
            broken.append(1)
            raise ZeroDivisionError("a defect")
        step()

    part.step = step_or_break
    return broken


@pytest.mark.parametrize("name", ["history", "health"])
def test_a_defect_in_the_middle_of_an_event_undoes_nothing_that_was_decided(name):
    async def story():
        swarm = quick_swarm(3)
        await swarm.start()
        machines = [p.member.machine for p in swarm.peers]
        broken = [breaks_once(m, getattr(m, name), round_index=1) for m in machines]
        assert {record.round for record in await swarm.round()} == {1}
        swarm.assert_level()
        assert all(broken)
        for peer in swarm.peers:
            assert [e.detail for e in peer.events if e.name == "task_failed"] == [
                "ZeroDivisionError: a defect"
            ]
        assert {record.round for record in await swarm.round()} == {2}
        swarm.assert_level()
        await swarm.close()

    run(story())
