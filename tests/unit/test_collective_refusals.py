"""What members of a round refuse or pass over: lies, old updates, idle leaders."""

from dataclasses import replace

import pytest
from quick_swarm import QUICK, leader_of, quick_swarm, run

from swarm.collective.consensus import commit_id, vote_text
from swarm.collective.validate_record import check_as_computed, check_record
from swarm.errors import Code, SwarmError
from swarm.identity import Identity
from swarm.wire import collective_pb2 as pb


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
        # It is passed over after `round_s` and `attempt_s`.
        swarm = quick_swarm(3, timeouts=replace(QUICK, attempt_s=1.0, round_s=1.2))
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
