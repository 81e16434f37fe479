"""The round protocol under faults that a review found: each story once broke it."""

import asyncio
import threading

import pytest

from swarm.collective.consensus import commit_id, verify_commit, vote_text
from swarm.collective.validate_record import check_as_computed, check_record
from swarm.config import TimeoutPolicy
from swarm.errors import Code, SwarmError
from swarm.identity import Identity, verify
from swarm.network.lane import Kind
from swarm.simulation.swarm import SimulatedSwarm, toy_manifest
from swarm.wire import collective_pb2 as pb

QUICK = TimeoutPolicy(
    heartbeat_s=0.4, chunk_s=0.8, attempt_s=2.0, round_s=2.5, join_s=6.0, lease_s=7.0
)


def run(story, limit_s=60):
    asyncio.run(asyncio.wait_for(story, limit_s))


def quick_swarm(peers, min_peers=None):
    manifest = toy_manifest(min_peers=min_peers or peers, timeouts=QUICK)
    return SimulatedSwarm(peers, manifest=manifest)


def leader_of(swarm):
    order = swarm.peers[0].member.succession()
    return next(p for p in swarm.peers if p.peer_id == order[0])


async def until(condition, limit_s=20.0):
    async def poll():
        while not condition():
            await asyncio.sleep(0.02)

    await asyncio.wait_for(poll(), limit_s)


def trunk_of(record):
    return next(o for o in record.fragments if o.state.fragment == "trunk.0")


# ---- deaths between the votes -------------------------------------------------------------


def test_a_lone_survivor_that_had_voted_branches_all_the_same():
    async def story():
        swarm = quick_swarm(2)
        await swarm.start()
        leader = leader_of(swarm)
        survivor = next(p for p in swarm.peers if p is not leader)
        swarm.hub.drop = lambda source, target, kind: kind == "swarm.v1.Commit"
        rounds = [asyncio.create_task(p.round()) for p in swarm.peers]
        await until(lambda: leader.ledger.record.round == 1)
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
        await until(lambda: swarm.hub.calls["swarm.v1.Accept"] > 0)
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
        await until(lambda: leader.ledger.record.round == 1)
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


# ---- lies ---------------------------------------------------------------------------------


def test_an_update_trained_from_an_older_commit_is_not_counted():
    async def story():
        swarm = quick_swarm(2)
        await swarm.start()
        stale = swarm.peers[0].offer()
        await swarm.round()
        record = await swarm.peers[0].member.run_round(stale)
        assert record.round == 1
        await swarm.close()

    run(story())


def test_strangers_can_not_lead_or_write_history():
    async def story():
        swarm = quick_swarm(3)
        await swarm.start()
        await swarm.round()
        member = swarm.peers[0].member
        stranger = swarm.hub.join(run_id=swarm.manifest.run_id)
        identity = stranger.endpoint.identity
        target, wait = swarm.peers[0].peer_id, QUICK.heartbeat
        plan = pb.Plan(
            run_id=member.run_id, branch=member.ledger.branch, round=2,
            ballot=pb.Ballot(attempt=2**32 - 1, leader=stranger.peer_id),
            base_commit=member.ledger.commit_id, electorate=sorted(member.roster()),
            chunk_elements=1, attempt_timeout_ms=1000,
        )  # fmt: skip
        assert not (await stranger.call(target, plan, pb.Promise, wait)).granted

        record = pb.RoundRecord()
        record.CopyFrom(member.ledger.record)
        record.previous, record.round = member.ledger.commit_id, 2
        accept = pb.Accept(
            ballot=pb.Ballot(attempt=1, leader=stranger.peer_id), record=record.SerializeToString()
        )
        reply = await stranger.call(target, accept, pb.AcceptReply, wait)
        assert not reply.vote.voter

        record.round, record.committed_tokens = 99, 2**40
        del record.electorate[:]
        record.electorate.append(stranger.peer_id)
        data = record.SerializeToString()
        ballot = pb.Ballot(attempt=1, leader=stranger.peer_id)
        vote = pb.Vote(
            voter=stranger.peer_id, ballot=ballot, record_sha256=commit_id(data),
            signature=identity.sign(vote_text(member.run_id, ballot, data)),
        )  # fmt: skip
        commit = pb.Commit(record=data, votes=[vote])

        async def serve_own_lie(sender, request):
            return pb.GetCommitReply(commit=commit)

        stranger.serve(pb.GetCommit, serve_own_lie)
        reply = await stranger.call(target, commit, pb.CommitReply, wait)
        assert not reply.adopted and member.ledger.record.round == 1
        await swarm.round(20)
        swarm.assert_level()
        await swarm.close()

    run(story())


@pytest.mark.parametrize(
    "spoil",
    [
        lambda ready: setattr(ready.contributions[0], "weight", float("inf")),
        lambda ready: setattr(ready.contributions[0], "weight", float("nan")),
        lambda ready: setattr(ready.contributions[0], "fragment", "no such"),
        lambda ready: setattr(ready, "tokens", 2**64 - 1),
        lambda ready: setattr(ready, "loss", float("nan")),
        lambda ready: ready.routed_tokens.extend([1, 2, 3]),
    ],
)
def test_impossible_offers_are_refused(spoil):
    async def story():
        swarm = quick_swarm(2)
        await swarm.start()
        alice, bob = swarm.peers
        ready = alice.member._ready(alice.offer())
        spoil(ready)
        with pytest.raises(SwarmError) as caught:
            await alice.transport.call(bob.peer_id, ready, pb.ReadyReply, QUICK.heartbeat)
        assert Code.MESSAGE_MALFORMED.value in caught.value.message
        await swarm.close()

    run(story())


def test_an_offer_for_an_expert_that_the_peer_does_not_hold_is_ignored():
    async def story():
        swarm = quick_swarm(4)
        await swarm.start()
        liar = swarm.peers[0]
        others_expert = swarm.peers[1].trainable()[-1]
        honest_offer = liar.offer
        liar.offer = lambda tokens=100: honest_offer([*liar.trainable(), others_expert], tokens)
        records = await swarm.round()
        outcome = next(o for o in records[0].fragments if o.state.fragment == others_expert)
        assert list(outcome.contributors) == [swarm.peers[1].peer_id]
        await swarm.close()

    run(story())


def test_one_who_accuses_everybody_is_the_one_left_out():
    """The judgement itself: five members, one broken link set."""
    from swarm.collective.standing import Standing

    peers = [Identity.generate().peer_id for _ in range(5)]
    plan = pb.Plan(members=[pb.Member(peer=p) for p in sorted(peers)])
    bad, rest = peers[0], peers[1:]

    def report(suspects):
        return pb.Report(
            failure="x", suspects=[pb.Suspect(peer=p, reason="connection lost") for p in suspects]
        )

    reports = {bad: report(rest), **{p: report([bad]) for p in rest}}
    standing = Standing()
    standing.judge(reports, plan, alive=peers)
    assert not standing.excluded
    standing.judge(reports, plan, alive=peers)
    assert set(standing.excluded) == {bad} and not standing.dead
    standing.judge({rest[0]: report([rest[1]])}, plan, alive=[])
    assert set(standing.dead) == {rest[1]}


def test_a_leader_that_lives_but_makes_no_plan_is_passed_over():
    async def story():
        swarm = quick_swarm(3)
        await swarm.start()
        lazy = leader_of(swarm)

        class Lazy:
            def __init__(self, key):
                self.key, self.finished = key, False
                self.rollcall = self

            def note(self, sender, ready):
                pass

            def step(self):
                pass

        lazy.member.machine.leading = Lazy((lazy.ledger.commit_id, lazy.ledger.next_round))
        records = await swarm.round(40)
        assert {r.round for r in records} == {1}
        assert records[0].proposer != lazy.peer_id
        swarm.assert_level()
        await swarm.close()

    run(story())


def test_a_voter_compares_a_record_only_with_what_it_computed_from_the_same_updates():
    numel = {"a": 1, "b": 1, "c": 1}
    previous = pb.RoundRecord(roster=["p"], round=1)
    for name in numel:
        previous.fragments.add().state.CopyFrom(pb.FragmentVersion(fragment=name))
    record = pb.RoundRecord(roster=["p"], electorate=["p"], round=2, outcome=pb.FULL)
    for name in numel:
        outcome = record.fragments.add(advanced=True, contributors=["p", "q"], numel=1)
        outcome.state.CopyFrom(
            pb.FragmentVersion(
                fragment=name, version=1, theta_hash=b"t" * 32, momentum_hash=b"m" * 32
            )
        )

    def check(own):
        check_record(record, previous, lambda name: pb.FragmentVersion(), numel, 100)
        check_as_computed(record, own)

    other = (b"x" * 32, b"m" * 32)
    check({(name, ("p",)): other for name in numel})
    check({("a", ("p", "q")): other, ("b", ("p", "q")): (b"t" * 32, b"m" * 32)})
    with pytest.raises(SwarmError, match="not the outcome"):
        check({(name, ("p", "q")): other for name in numel})
    record.committed_tokens = 2**40
    with pytest.raises(SwarmError, match="token count"):
        check({})


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
