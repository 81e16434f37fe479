"""What one member may do to the others by what it asks for, or plans, under tags."""

from __future__ import annotations

import math
from types import SimpleNamespace

import numpy as np
import pytest

from swarm.collective import offers
from swarm.collective.offers import awaited_peers, collect_offers
from swarm.collective.plan import normalized_weights
from swarm.collective.protocol.elector import Elector
from swarm.collective.record import RecordInputs, build_record
from swarm.collective.shared_state import pack, unpack
from swarm.collective.tags import MAX_TAG_WEIGHT, MAX_TAGS
from swarm.collective.tensors import TensorPolicy
from swarm.collective.validate import check_ready
from swarm.collective.validate_record import check_record
from swarm.errors import Code, SwarmError
from swarm.simulation.swarm import toy_manifest
from swarm.wire import collective_pb2 as pb

MAX_TOKENS = 1000


def ready(*tags, **fields):
    message = pb.Ready()
    for tag in tags:
        said = {"numel": 4, "number": 1, "weight": 1.0, "operation": pb.MEAN, "codec": "fp32"}
        message.contributions.add(fragment=tag, **{**said, **fields})
    return message


def check(message):
    check_ready(message, {}, 0, MAX_TOKENS, open_tags=True)


def refusal_of(call) -> SwarmError:
    with pytest.raises(SwarmError) as caught:
        call()
    return caught.value


def test_weights_under_tags_are_no_token_counts_but_bounded():
    check(ready("x", weight=MAX_TAG_WEIGHT))
    error = refusal_of(lambda: check(ready("x", weight=2 * MAX_TAG_WEIGHT)))
    assert error.code is Code.MESSAGE_MALFORMED


def test_a_weight_too_small_for_fp32_spoils_no_plan():
    weights = normalized_weights({"a": 1.0, "b": 1e-60}, math.inf)
    assert weights["a"] == 1.0 and 0 < weights["b"] < 1e-37


def test_more_tags_than_a_group_can_have_are_refused():
    check(ready(*(f"t{i}" for i in range(MAX_TAGS))))
    error = refusal_of(lambda: check(ready(*(f"t{i}" for i in range(MAX_TAGS + 1)))))
    assert error.code is Code.MESSAGE_MALFORMED


def test_a_group_that_has_all_its_tags_goes_on_with_those(monkeypatch):
    monkeypatch.setattr(offers, "MAX_TAGS", 3)
    previous = pb.RoundRecord(roster="ab")
    for tag in "xy":
        outcome = previous.fragments.add(numel=4, contributors="ab", weights=[0.5, 0.5])
        outcome.state.fragment = tag
    said = {"a": ready("x", "new1", "new2"), "b": ready("x", "new1", "new2")}
    offered = collect_offers(said, (), previous, TensorPolicy())
    assert sorted(offered.numel) == ["new1", "x"]


def group_that_has_agreed_on_a_state() -> pb.RoundRecord:
    record = pb.RoundRecord(roster="abn")  # n has just entered
    outcome = record.fragments.add(numel=4, contributors="ab", weights=[0.5, 0.5])
    outcome.state.CopyFrom(pb.FragmentVersion(fragment="state", version=1))
    return record


def awaited(said) -> set[str]:
    return awaited_peers(said, "abn", (), group_that_has_agreed_on_a_state(), TensorPolicy())


def test_a_newcomer_that_begins_where_the_others_began_does_not_hold_up_what_they_do_next():
    behind = ready("state", number=2)
    assert "b" in awaited({"a": ready("new"), "n": behind})
    assert not awaited({"a": ready("new"), "b": ready("new"), "n": behind})


def test_what_is_new_to_all_waits_for_a_newcomer_that_has_said_nothing_or_takes_part():
    duo = {"a": ready("new"), "b": ready("new")}
    assert awaited(duo) == {"n"}
    both = ready("other")
    both.MergeFrom(ready("state", number=2))
    assert awaited(duo | {"n": both}) == set("abn")


def test_what_a_group_has_reduced_gets_votes_without_sums_of_contributions():
    previous = pb.RoundRecord(roster="ab")
    record = pb.RoundRecord(roster="ab", electorate="ab", round=1, outcome=pb.FULL)
    outcome = record.fragments.add(advanced=True, numel=4, contributors="ab", weights=[0.5, 0.5])
    outcome.state.CopyFrom(
        pb.FragmentVersion(fragment="x", version=1, theta_hash=bytes(32), momentum_hash=bytes(32))
    )
    setup = SimpleNamespace(
        policy=TensorPolicy(), manifest=toy_manifest(), max_round_tokens=10, max_round_steps=10
    )
    elector = Elector(SimpleNamespace(setup=setup, memory=SimpleNamespace(record=previous)))
    elector.check_possible(record)
    outcome.weights[:] = [1.0]
    assert "weights" in refusal_of(lambda: elector.check_possible(record)).message


@pytest.mark.parametrize(
    "lie",
    [{"numel": 5}, {"codec": "int8"}, {"contributors": "b"}, {"operation": pb.SUM}],
    ids=lambda lie: next(iter(lie)),
)
def test_a_result_that_did_not_advance_keeps_its_size_its_codec_and_whose_it_is(lie):
    def result(**said):
        of_a = {"numel": 4, "contributors": "a", "weights": [1.0], "operation": pb.MEAN}
        version = pb.FragmentVersion(fragment="x", version=1)
        return pb.FragmentOutcome(state=version, **(of_a | {"codec": "fp32"} | said))

    def vote(**said):
        record = pb.RoundRecord(roster="ab", electorate="ab", outcome=pb.SKIPPED)
        record.fragments.append(result(**said))
        check_record(record, previous, str, {}, MAX_TOKENS, open_tags=True)

    previous = pb.RoundRecord(roster="ab", fragments=[result(advanced=True)])
    vote()
    assert "without having advanced" in refusal_of(lambda: vote(**lie)).message


@pytest.mark.parametrize("weights", [[], [1.0], [0.5, math.nan]])
def test_a_record_that_does_not_say_whose_result_it_is_gets_no_vote(weights):
    previous = pb.RoundRecord(roster="ab")
    record = pb.RoundRecord(roster="ab", electorate="ab", outcome=pb.FULL)
    outcome = record.fragments.add(advanced=True, numel=4, contributors="ab", weights=weights)
    outcome.state.CopyFrom(
        pb.FragmentVersion(fragment="x", version=1, theta_hash=bytes(32), momentum_hash=bytes(32))
    )

    def unused(name):
        return pb.FragmentVersion(fragment=name)

    def vote():
        check_record(record, previous, unused, {}, MAX_TOKENS, open_tags=True)

    assert "weights" in refusal_of(vote).message
    outcome.weights[:] = [0.5, 0.5]
    vote()


@pytest.mark.parametrize(
    ("changed", "takes_part"),
    [({}, True), ({"operation": pb.MAX}, False), ({"codec": "int4"}, False), ({"numel": 5}, False)],
)
def test_a_plan_for_another_operation_than_this_peer_asked_for_is_refused(changed, takes_part):
    peer = SimpleNamespace(
        boundary=SimpleNamespace(offer=ready("x")), setup=SimpleNamespace(me="a")
    )
    fields = {"operation": pb.MEAN, "codec": "fp32", "numel": 4, **changed}
    plan = pb.Plan(fragments=[pb.FragmentPlan(fragment="x", contributors="ab", **fields)])
    assert Elector(peer)._offers_all(plan) is takes_part


def test_a_record_says_what_was_done_and_keeps_it_while_the_tag_rests():
    planned = pb.FragmentPlan(
        fragment="x", numel=4, contributors="a", weights=[1.0], holders="a", operation=pb.SUM
    )
    inputs = {
        "previous": pb.RoundRecord(roster="a"),
        "reports": {"a": pb.Report(results=[pb.FragmentVersion(fragment="x")])},
        "ready": {"a": ready("x")},
        "roster": "a",
        "joiners": (),
        "dead": {},
        "excluded": {},
        "resignations": {},
        "proposer": "a",
        "attempts": 1,
        "decided_at_ms": 0,
    }
    plan = pb.Plan(members=[pb.Member(peer="a")], electorate="a", fragments=[planned])
    record = build_record(RecordInputs(plan=plan, **inputs), TensorPolicy())
    assert record.fragments[0].advanced and record.fragments[0].operation == pb.SUM
    inputs["previous"] = record
    del plan.fragments[:]
    resting = build_record(RecordInputs(plan=plan, **inputs), TensorPolicy())
    assert not resting.fragments[0].advanced and resting.fragments[0].operation == pb.SUM


def test_a_shared_state_that_was_downloaded_can_not_be_written_to():
    values, header = pack({"w": np.arange(3.0), "none": np.zeros((0, 2))}, 7)
    state, revision = unpack(values.copy(), header)
    assert revision == 7 and state["w"].tolist() == [0, 1, 2] and state["none"].shape == (0, 2)
    assert not state["w"].flags.writeable


@pytest.mark.parametrize("cut", [slice(None, -1), slice(0, 3)])
def test_a_shared_state_that_is_too_short_is_another_state(cut):
    values, header = pack({"w": np.arange(3.0)}, 7)
    assert refusal_of(lambda: unpack(values[cut].copy(), header)).code is Code.STATE_MISMATCH
