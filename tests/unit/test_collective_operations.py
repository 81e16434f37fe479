"""Operations under tags: queueing, what peers offer, shared states as bytes."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from swarm.collective.offers import awaited_peers, collect_offers, contributions_of
from swarm.collective.operations import Operation, OperationQueue
from swarm.collective.shared_state import pack, unpack
from swarm.collective.state import FragmentState
from swarm.collective.tensors import NOTHING, TensorPolicy
from swarm.errors import Code, SwarmError
from swarm.wire import collective_pb2 as pb


class Waiting:
    """An operation's caller."""

    def __init__(self) -> None:
        self.results = []

    def operation(self, tag, operation=pb.MEAN):
        values = np.ones(4, np.float32)
        return Operation(tag, values, 1.0, operation, "fp32", self.results.append)


def record_of(round_index, **versions):
    record = pb.RoundRecord(round=round_index)
    for tag, version in sorted(versions.items()):
        outcome = record.fragments.add(advanced=True, numel=4)
        outcome.state.fragment, outcome.state.version = tag, version
        outcome.contributors.extend(["a", "b"])
        outcome.weights.extend([0.5, 0.5])
    return record


def state_of(value):
    return FragmentState.of(np.full(4, value, np.float32), NOTHING, 1)


def ready(peer_calls):
    """Ready messages of peers; each call is (tag, number[, operation[, revision, hash]])."""
    messages = {}
    for peer, calls in peer_calls.items():
        messages[peer] = pb.Ready()
        for tag, number, *rest in calls:
            operation, revision, sha256 = (*rest, *(pb.MEAN, 0, b"")[len(rest) :])
            messages[peer].contributions.add(
                fragment=tag,
                number=number,
                state_revision=revision,
                weight=1.0,
                numel=4,
                operation=operation,
                base_hash=sha256,
            )
    return messages


EMPTY = pb.RoundRecord(round=0, roster="abcd")


def test_operations_of_one_tag_follow_one_another_and_others_do_not_wait():
    queue, first, second, other = OperationQueue(TensorPolicy()), Waiting(), Waiting(), Waiting()
    queue.submit(first.operation("x"), 0)
    queue.submit(second.operation("x"), 0)
    queue.submit(other.operation("y"), 0)
    offer = queue.offer(b"base")
    assert {t: w.number for t, w in offer.wishes.items()} == {"x": 1, "y": 1}
    queue.resolve(record_of(1, x=1), {"x": state_of(1)}, "a")
    assert [len(w.results) for w in (first, second, other)] == [1, 0, 0]
    assert {t: w.number for t, w in queue.offer(b"base").wishes.items()} == {"x": 2, "y": 1}


def test_a_result_that_was_made_without_this_peer_still_reaches_it():
    queue, late = OperationQueue(TensorPolicy()), Waiting()
    queue.submit(late.operation("x"), 0)
    queue.resolve(record_of(5, x=1), {"x": state_of(3)}, "a")
    assert late.results[0].values.tolist() == [3.0] * 4 and not queue.pending


def test_a_peer_that_missed_two_operations_is_told_so():
    queue, late = OperationQueue(TensorPolicy()), Waiting()
    queue.submit(late.operation("x"), 0)
    queue.resolve(record_of(5, x=2), {"x": state_of(3)}, "a")
    assert isinstance(late.results[0], SwarmError)
    assert late.results[0].code is Code.OPERATION_MISSED


def test_a_newcomer_counts_from_where_the_group_is():
    queue, newcomer = OperationQueue(TensorPolicy()), Waiting()
    queue.submit(newcomer.operation("x"), 7)
    assert queue.offer(b"").wishes["x"].number == 8


def test_closing_completes_everything_with_an_error():
    queue, caller = OperationQueue(TensorPolicy()), Waiting()
    for _ in range(3):
        queue.submit(caller.operation("x"), 0)
    queue.fail(SwarmError(Code.PEER_UNREACHABLE, "closed"))
    assert len(caller.results) == 3 and not queue.pending


def test_only_operations_that_all_have_begun_are_planned():
    messages = ready({"a": [("x", 1), ("y", 1)], "b": [("x", 1)]})
    offered = collect_offers(messages, "cd", EMPTY, TensorPolicy())
    assert offered.weights == {"a": {"x": 1.0}, "b": {"x": 1.0}}


def test_different_first_operations_wait_for_one_another():
    policy, messages = TensorPolicy(), ready({"a": [("x", 1)], "b": [("y", 1)]})
    assert awaited_peers(messages, "ab", (), EMPTY, policy) == {"a", "b"}
    messages = ready({"a": [("x", 1), ("y", 1)], "b": [("y", 1)]})
    assert awaited_peers(messages, "ab", (), EMPTY, policy) == set()


def test_a_newcomer_with_another_operation_neither_waits_for_its_own_nor_holds_up_the_others():
    policy, previous = TensorPolicy(), record_of(4, gradient=6, state=6)
    previous.roster.extend("abc")
    messages = ready({"a": [("gradient", 7)], "b": [("gradient", 7)], "c": [("state", 7)]})
    assert awaited_peers(messages, "abc", (), previous, policy) == set()
    offered = collect_offers(messages, (), previous, policy)
    assert offered.weights == {"a": {"gradient": 1.0}, "b": {"gradient": 1.0}, "c": {}}
    messages = ready({p: [("state", 7)] for p in "abc"})
    assert len(collect_offers(messages, (), previous, policy).weights) == 3


def test_at_the_deadline_the_operation_that_lacks_the_fewest_is_planned():
    policy, messages = TensorPolicy(), ready({"a": [("x", 1)], "b": [("x", 1)], "c": [("y", 1)]})
    offered = collect_offers(messages, (), EMPTY, policy)
    assert offered.weights == {"a": {"x": 1.0}, "b": {"x": 1.0}, "c": {}}


def test_an_operation_that_is_out_of_step_does_not_meet_the_others():
    messages = ready({"a": [("x", 3)], "b": [("x", 2)]})
    previous = record_of(4, x=1)
    previous.roster.extend("ab")
    assert collect_offers(messages, (), previous, TensorPolicy()).weights == {
        "a": {},
        "b": {"x": 1.0},
    }


def test_of_different_calls_under_one_tag_the_most_stand():
    calls = {"a": [("x", 1, pb.SUM)], "b": [("x", 1)], "c": [("x", 1)]}
    offered = collect_offers(ready(calls), (), EMPTY, TensorPolicy())
    assert offered.weights == {"a": {}, "b": {"x": 1.0}, "c": {"x": 1.0}}
    assert offered.wishes["x"].operation == pb.MEAN


def test_result_names_who_is_not_in_it():
    waiting, queue = Waiting(), OperationQueue(TensorPolicy())
    queue.submit(waiting.operation("x"), 0)
    record = record_of(1, x=1)
    record.roster.extend(["a", "b", "called_max", "dead", "new"])
    record.joined.append("new")
    record.missing.add(peer="dead", reason="did not answer")
    queue.resolve(record, {"x": state_of(1.0)}, "a")
    [result] = waiting.results
    assert result.missing["dead"] == "did not answer"
    assert set(result.missing) == {"dead", "called_max"}


@given(st.permutations("abcd"))
def test_of_states_the_highest_revision_then_the_most_popular_stands(order):
    calls = {
        "a": [("s", 1, pb.AGREE, 9, b"old")],
        "b": [("s", 1, pb.AGREE, 10, b"rare")],
        "c": [("s", 1, pb.AGREE, 10, b"popular")],
        "d": [("s", 1, pb.AGREE, 10, b"popular")],
    }
    messages = ready({p: calls[p] for p in order})
    offered = collect_offers(messages, (), EMPTY, TensorPolicy())
    assert {p for p, tags in offered.weights.items() if tags} == {"c", "d"}


def test_an_offer_declares_its_norm_and_an_infinite_one_none():
    queue, caller = OperationQueue(TensorPolicy()), Waiting()
    queue.submit(caller.operation("x", pb.CLIPPED_MEAN), 0)
    (said,) = contributions_of(queue.offer(b""), {}, pb.MEAN)
    assert said.norm == 2.0 and said.numel == 4
    bad = caller.operation("y", pb.CLIPPED_MEAN)
    bad.values[0] = np.inf
    queue.submit(bad, 0)
    said = contributions_of(queue.offer(b""), {}, pb.MEAN)
    assert [c.norm for c in said] == [2.0, 0.0]


@pytest.mark.parametrize("dtype", ["f4", "f8", "i8", "u1", "?", "c16", "f2"])
def test_a_shared_state_of_any_dtype_survives_packing(dtype):
    rng = np.random.default_rng(0)
    state = {
        "weights": rng.integers(0, 2, (3, 5)).astype(dtype),
        "one": np.array(1, dtype),
        "none": np.zeros((0, 2), dtype),
    }
    values, header = pack(state, 12)
    again, revision = unpack(values, header)
    assert revision == 12
    for name, array in state.items():
        assert again[name].dtype == array.dtype and again[name].shape == array.shape
        assert np.array_equal(again[name], array)


def test_a_shared_state_of_another_layout_is_refused():
    values, _ = pack({"w": np.zeros(3)}, 1)
    _, header = pack({"w": np.zeros(4)}, 1)
    with pytest.raises(SwarmError) as caught:
        unpack(values, header)
    assert caught.value.code is Code.STATE_MISMATCH


def test_python_objects_are_no_shared_state():
    with pytest.raises(SwarmError) as caught:
        pack({"w": np.array([object()])}, 1)
    assert caught.value.code is Code.USAGE


def test_a_caller_is_told_when_the_group_did_something_else_under_its_tag():
    for group_did in ({"operation": pb.SUM}, {"numel": 5}):
        queue, caller = OperationQueue(TensorPolicy()), Waiting()
        queue.submit(caller.operation("x"), 0)
        record = record_of(1, x=1)
        record.fragments[0].MergeFrom(pb.FragmentOutcome(**group_did))
        queue.resolve(record, {"x": state_of(1)}, "c")
        assert isinstance(caller.results[0], SwarmError)
        assert caller.results[0].code is Code.OPERATION_MISSED


def test_values_that_are_not_finite_are_an_error_and_do_not_count_when_the_group_did_nothing():
    queue, broken, later = OperationQueue(TensorPolicy()), Waiting(), Waiting()
    operation = broken.operation("x")
    operation.values[0] = np.nan
    queue.submit(operation, 0)
    queue.submit(later.operation("x"), 0)
    skipped = record_of(1)
    skipped.missing.add(peer="a", reason="its update is not finite")
    queue.resolve(skipped, {}, "a")
    assert broken.results[0].code is Code.NON_FINITE
    assert queue.offer(b"").wishes["x"].number == 1 and not later.results


def test_a_state_whose_bytes_look_like_nan_is_no_broken_tensor():
    queue, caller = OperationQueue(TensorPolicy()), Waiting()
    operation = caller.operation("s", pb.AGREE)
    operation.values[:] = np.nan
    queue.submit(operation, 0)
    queue.resolve(record_of(1, s=1), {"s": state_of(1)}, "c")
    assert caller.results[0].version == 1


def test_one_that_missed_operations_goes_on_with_the_groups_next_one():
    queue, late, caller = OperationQueue(TensorPolicy()), Waiting(), Waiting()
    queue.submit(late.operation("x"), 0)
    queue.resolve(record_of(9, x=7), {"x": state_of(3)}, "c")
    assert late.results[0].code is Code.OPERATION_MISSED
    queue.submit(caller.operation("x"), 7)
    assert queue.offer(b"").wishes["x"].number == 8


def test_what_failed_undecided_is_the_same_operation_when_it_is_called_again():
    queue, caller = OperationQueue(TensorPolicy()), Waiting()
    for tag in ("decided", "open", "open"):
        queue.submit(caller.operation(tag), 0)
    queue.fail(SwarmError(Code.FRAGMENT_UNAVAILABLE, "gone"), record_of(1, decided=1))
    assert len(caller.results) == 3
    for tag in ("decided", "open"):
        queue.submit(caller.operation(tag), 0)
    numbers = {tag: wish.number for tag, wish in queue.offer(b"").wishes.items()}
    assert numbers == {"decided": 2, "open": 1}
