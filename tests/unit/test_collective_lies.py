"""What a member achieves that says impossible things: nothing that stops the others."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from swarm.collective.consensus import MAX_RECORD_BYTES, commit_id, parse_record, verify_commit
from swarm.collective.protocol import effects
from swarm.collective.record import MAX_REASON
from swarm.collective.selection_bias import check_bias
from swarm.collective.tallies import MAX_TALLIES, add_tallies, check_tallies
from swarm.collective.validate import MAX_SIGNED_BYTES, check_ready
from swarm.collective.validate_record import check_made_as_planned
from swarm.errors import Code, SwarmError
from swarm.experts.assignment import AssignmentRules
from swarm.experts.capability import Sizes
from swarm.experts.duties import DutyRules, fill_duties
from swarm.simulation.swarm import toy_manifest
from swarm.wire import collective_pb2 as pb
from tests.unit.machine_net import NAMES, Net, leader_of

MAX_TOKENS = 1000
RULES = DutyRules(
    assignment=AssignmentRules(num_experts=4, per_peer=2),
    inner_steps=8,
    dynamic_steps=True,
    sizes=Sizes(trunk=100, expert=100, num_experts=4, full=False),
)
anything = st.floats() | st.sampled_from([5e-324, 1e-300, 1e300, 1.7e308])
counts = st.integers(0, MAX_TOKENS) | st.just(2**64 - 1)


@pytest.fixture
def net():
    net = Net(NAMES)
    net.round()
    return net


def is_refused(check, *arguments, code=Code.MESSAGE_MALFORMED):
    with pytest.raises(SwarmError) as caught:
        check(*arguments)
    return caught.value.code is code


@given(anything, anything, anything, anything, counts, counts, counts)
def test_whatever_is_let_through_of_a_ready_a_leader_can_give_duties(
    upload, took, each, loss, memory, steps, tokens
):
    able = pb.Capability(memory_bytes=memory, seconds_per_step=each)
    said = pb.Ready(upload_bps=upload, train_seconds=took, loss=loss, steps=steps, tokens=tokens)
    said.capability.CopyFrom(able)
    try:
        check_ready(said, {}, 0, MAX_TOKENS)
    except SwarmError as error:
        assert error.code is Code.MESSAGE_MALFORMED
        return
    record = pb.RoundRecord(roster=["liar", "other"], round=1)
    fill_duties(record, None, {"liar": said}, RULES)
    for duty in record.assignments:
        assert 1 <= len(duty.experts) <= 4 and 1 <= duty.steps <= RULES.inner_steps
        assert math.isfinite(duty.seconds_per_step)


def test_an_infinite_upload_is_room_for_all_experts_and_not_an_error_of_the_leader():
    said = pb.Ready(upload_bps=1e308, train_seconds=1e308, steps=1)
    said.capability.memory_bytes = 1 << 40
    record = pb.RoundRecord(roster=["liar"], round=1)
    fill_duties(record, None, {"liar": said}, RULES)
    assert record.assignments[0].places == 4


@pytest.mark.parametrize("field", ["record", "suspects", "declined"])
def test_a_ready_that_would_fill_everybodys_plan_is_refused(field):
    said = pb.Ready(tokens=1)
    if field == "record":
        said.record.payload = bytes(MAX_SIGNED_BYTES)
    else:
        getattr(said, field).extend(["x"] * 5000)
    assert is_refused(check_ready, said, {}, 0, MAX_TOKENS)


def test_an_endless_reason_does_not_get_into_the_record(net):
    victim = next(n for n in NAMES if n != leader_of(net))
    net.attempt_fails = lambda name: "x" * 100_000 if name == victim else ""
    accused = net.carry_out

    def accuse_itself(name, effect):
        if isinstance(effect, effects.Call) and isinstance(effect.message, pb.Report):
            if effect.message.failure and not effect.message.suspects:
                effect.message.suspects.add(peer=victim, reason="y" * 100_000)
        accused(name, effect)

    net.carry_out = accuse_itself
    record = net.round()
    assert [m.peer for m in record.missing] == [victim]
    assert len(record.missing[0].reason) <= MAX_REASON


def test_a_record_larger_than_half_a_message_is_none():
    padded = pb.RoundRecord(round=1, branch=bytes(MAX_RECORD_BYTES)).SerializeToString()
    assert is_refused(parse_record, padded, code=Code.COMMIT_INVALID)


def test_a_commit_does_not_make_others_check_one_resignation_again_and_again():
    record = pb.RoundRecord(electorate=["a", "b"], outcome=pb.FULL)
    record.resignations.extend([pb.Resignation(peer="a")] * 3)
    asked = []

    def verify(peer, text, signature):
        asked.append(peer)
        return False

    commit = pb.Commit(record=record.SerializeToString())
    assert is_refused(verify_commit, commit, b"", verify, code=Code.COMMIT_INVALID)
    assert asked == ["a"]


def test_a_branch_may_name_more_who_resigned_than_found_it():
    record = pb.RoundRecord(electorate=["a"], unanimous=True, outcome=pb.SKIPPED, round=1)
    record.resignations.extend(pb.Resignation(peer=p) for p in "bcd")
    data = record.SerializeToString()
    vote = pb.Vote(voter="a", ballot=pb.Ballot(attempt=1), record_sha256=commit_id(data))
    commit = pb.Commit(record=data, votes=[vote])
    assert verify_commit(commit, b"", lambda *_: True) == record


# ---- an elector that lies --------------------------------------------------------------------


def promising(net, change):
    """One elector's promises are changed on their way to the leader."""
    carry_out, liar = net.carry_out, next(n for n in NAMES if n != leader_of(net))
    told = []

    def lie(name, effect):
        if isinstance(effect, effects.Answer) and isinstance(effect.message, pb.Promise):
            if name == liar:
                change(net.machines[liar], effect.message)
                told.append(effect.message)
        carry_out(name, effect)

    net.carry_out = lie
    return told


def has_promised_the_last_ballot(machine, promise):
    promise.granted = False
    promise.promised.attempt = 2**32 - 1


def has_voted_for_noise(machine, promise):
    promise.accepted_ballot.attempt = 1
    promise.accepted_record = b"noise"


def has_voted_in_a_later_ballot(machine, promise):
    promise.accepted_ballot.attempt = 2**32 - 1
    promise.accepted_record = machine.memory.commit.record


def has_voted_for_a_record_of_another_round(machine, promise):
    promise.accepted_ballot.attempt = 1
    promise.accepted_record = machine.memory.commit.record


def has_voted_for_the_impossible(machine, promise):
    record = pb.RoundRecord()
    record.CopyFrom(machine.memory.record)
    record.previous, record.round = machine.memory.commit_id, record.round + 1
    record.electorate[:] = record.roster
    record.unanimous, record.committed_tokens = False, 2**60
    promise.accepted_ballot.attempt = 1
    promise.accepted_ballot.leader = "a"
    promise.accepted_record = record.SerializeToString()


@pytest.mark.parametrize(
    "lie",
    [
        has_promised_the_last_ballot,
        has_voted_for_noise,
        has_voted_in_a_later_ballot,
        has_voted_for_a_record_of_another_round,
        has_voted_for_the_impossible,
    ],
)
def test_what_an_elector_can_not_have_promised_or_voted_for_does_not_stop_the_round(net, lie):
    told = promising(net, lie)
    began = net.now
    record = net.round()
    assert told and record.outcome != pb.SKIPPED and net.now - began < 20.0
    assert record.round == 1 and not record.unanimous


# ---- a leader that lies ---------------------------------------------------------------------


def lying(net, change):
    """The leader's records are changed before the others are asked to vote for them."""
    carry_out, leader = net.carry_out, leader_of(net)
    accepts = []

    def lie(name, effect):
        if isinstance(effect, effects.Call) and isinstance(effect.message, pb.Accept):
            record = pb.RoundRecord.FromString(effect.message.record)
            if name == leader and record.outcome != pb.SKIPPED:
                change(record)
                effect.message.record = record.SerializeToString()
                accepts.append(commit_id(effect.message.record))
        carry_out(name, effect)

    net.carry_out = lie
    return accepts


def other_contributors(record):
    record.fragments[0].contributors[:] = ["somebody else"]
    record.fragments[0].weights[:] = [1.0]
    record.fragments[0].state.theta_hash = b"x" * 32
    del record.tallies[:]
    record.tallies.add(peer="somebody else", rounds=1, last_round=record.round)


def other_weights(record):
    record.fragments[0].weights[0] *= 2


def other_outcome(record):
    record.outcome = pb.SKIPPED


def endless_work(record):
    record.assignments[0].steps = 1 << 50


def no_loss(record):
    record.loss = math.nan


def other_counts(record):
    record.routed_tokens.append(1)


@pytest.mark.parametrize(
    "lie", [other_contributors, other_weights, other_outcome, endless_work, no_loss, other_counts]
)
def test_a_record_that_is_not_of_its_attempt_gets_no_votes(net, lie):
    accepts = lying(net, lie)
    net.round()
    followed = {m.memory.commit_id for m in net.machines.values()}
    assert accepts and not followed & set(accepts)


def test_what_a_plan_names_is_what_a_record_of_it_may_name():
    record = pb.RoundRecord()
    made = record.fragments.add(advanced=True, contributors="ab", weights=[0.5, 0.5], codec="int8")
    made.state.fragment = "t"
    check_made_as_planned(record, {"t": (["a", "b"], [0.5, 0.5], "int8")})
    assert is_refused(check_made_as_planned, record, {"t": (["a", "b"], [0.5, 0.5], "fp32")})
    check_made_as_planned(record, None)  # a plan that did not come here
    assert is_refused(check_made_as_planned, record, {})


def test_sums_of_many_peers_are_bounded_and_only_the_smallest_go():
    before = pb.RoundRecord(round=1, committed_tokens=10**9)
    for number in range(MAX_TALLIES):
        before.tallies.add(peer=f"peer{number:05}", tokens=number + 1, rounds=1, last_round=1)
    record = pb.RoundRecord(round=2, committed_tokens=10**9 + 50)
    record.fragments.add(advanced=True, contributors=["new"])
    add_tallies(record, before, {"new": pb.Ready(tokens=50)})
    check_tallies(record, before, MAX_TOKENS)
    assert {t.peer for t in before.tallies} - {t.peer for t in record.tallies} == {"peer00000"}
    assert record.ByteSize() < 100_000
    del record.tallies[-1]
    assert is_refused(check_tallies, record, before, MAX_TOKENS)


def test_sums_do_not_grow_by_more_than_the_rounds_tokens():
    record = pb.RoundRecord(round=1, committed_tokens=10)
    record.fragments.add(advanced=True, contributors=["a"])
    add_tallies(record, None, {"a": pb.Ready(tokens=11)})
    assert is_refused(check_tallies, record, None, MAX_TOKENS)


def test_counts_of_another_width_are_a_typed_error():
    record = pb.RoundRecord(routed_tokens=[1, 2, 3])
    assert is_refused(check_bias, record, None, toy_manifest())
