"""Room, pace, and what a record gives everybody to do: measured speeds, orphans, domains."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from swarm.experts.assignment import AssignmentRules
from swarm.experts.capability import (
    Machine,
    Sizes,
    places,
    places_in_memory,
    places_in_time,
)
from swarm.experts.duties import DutyRules, assignment_of, fill_duties, mean_steps, steps_of
from swarm.experts.pace import SAME_SPEED, smoothed_seconds, step_counts
from swarm.wire import collective_pb2 as pb

GB = 10**9
HELD = Sizes(trunk=100_000_000, expert=50_000_000, num_experts=64, full=False)
FULL = replace(HELD, full=True)
RULES = DutyRules(
    assignment=AssignmentRules(num_experts=4, per_peer=1), inner_steps=30, dynamic_steps=True
)


# ---- room -----------------------------------------------------------------------------------


def test_places_by_hand() -> None:
    # Held: (0.8 * 8 GB - 1.6 GB) / 0.8 GB = 6. Full: 12.8 GB are frozen in memory alone.
    assert places_in_memory(HELD, 8 * GB) == 6
    assert places_in_memory(FULL, 8 * GB) == 0
    assert places_in_memory(FULL, 24 * GB) == 8  # (19.2 - 1.6 - 12.8) / 0.6
    # In 100 s at 160 Mbit/s two copies of 250 million values go up; 100 million are the trunk.
    assert places_in_time(HELD, 160e6, 100.0) == 3


def test_room_is_the_smaller_of_memory_and_time_and_at_least_one_expert() -> None:
    assert places(HELD, Machine(8 * GB, 160e6, 100.0)) == 3
    assert places(HELD, Machine(8 * GB, 0.0, 100.0)) == 6  # the link is not measured yet
    assert places(HELD, Machine(8 * GB, 1e6, 100.0)) == 1
    assert places(HELD, Machine(0, 160e6, 100.0)) == 0  # nothing is known


@given(st.integers(0, 100 * GB), st.integers(0, 100 * GB), st.booleans())
def test_more_memory_never_means_fewer_places(one: int, other: int, full: bool) -> None:
    sizes = FULL if full else HELD
    less, more = sorted((one, other))
    assert 0 <= places_in_memory(sizes, less) <= places_in_memory(sizes, more) <= 64


# ---- pace -----------------------------------------------------------------------------------


def test_step_counts_by_hand() -> None:
    speeds = {"fast": 0.1, "near": 0.1029, "half": 0.21, "tenth": 1.0, "snail": 9.0, "new": 0.0}
    assert step_counts(speeds, 30, 2) == {
        "fast": 30, "half": 14, "near": 30, "new": 30, "snail": 2, "tenth": 3,
    }  # fmt: skip


seconds = st.floats(0.001, 10.0)


@given(st.dictionaries(st.sampled_from("abcdef"), seconds, min_size=1), st.integers(1, 1000))
def test_nobody_comes_later_than_the_fastest_by_more_than_its_tolerance(
    speeds: dict[str, float], inner_steps: int
) -> None:
    counts = step_counts(speeds, inner_steps, 1)
    fastest = min(speeds.values())
    for peer, steps in counts.items():
        assert 1 <= steps <= inner_steps
        assert steps == 1 or steps * speeds[peer] <= SAME_SPEED * inner_steps * fastest * (1 + 1e-9)
        whole = inner_steps * fastest / speeds[peer]
        assert steps > whole - 1 - 1e-9  # and no earlier than by one step
    assert counts[min(speeds, key=lambda p: speeds[p])] == inner_steps


def test_a_speed_follows_what_is_measured_and_keeps_a_little_of_the_past() -> None:
    assert smoothed_seconds(0.0, 0.0) == 0.0
    assert smoothed_seconds(0.0, 2.0) == 2.0
    assert smoothed_seconds(1.0, 0.0) == 1.0
    assert smoothed_seconds(1.0, 2.0) == pytest.approx(1.9)
    assert smoothed_seconds(1.0, float("nan")) == 1.0


# ---- records --------------------------------------------------------------------------------


def ready_of(
    seconds_per_step: float,
    steps: int = 30,
    domain: str = "",
    routed: dict[int, float] | None = None,
) -> pb.Ready:
    ready = pb.Ready(
        steps=steps,
        train_seconds=steps * seconds_per_step,
        capability=pb.Capability(domain=domain),
    )
    for expert, weight in (routed or {}).items():
        ready.contributions.add(fragment=f"expert.{expert}", weight=weight)
    return ready


def next_record(
    previous: pb.RoundRecord | None, ready: dict[str, pb.Ready], rules: DutyRules = RULES
) -> pb.RoundRecord:
    """A round in which everybody's update was counted."""
    record = pb.RoundRecord(
        round=previous.round + 1 if previous is not None else 0, roster=sorted(ready)
    )
    for expert in range(4):
        name = f"expert.{expert}"
        givers = [p for p, m in ready.items() if name in {c.fragment for c in m.contributions}]
        state = pb.FragmentVersion(fragment=name)
        record.fragments.add(state=state, advanced=bool(givers), contributors=sorted(givers))
    fill_duties(record, previous, ready, rules)
    return record


def test_the_record_says_who_does_how_many_steps_and_a_newcomer_is_measured_first() -> None:
    first = next_record(None, {"a": pb.Ready(), "b": pb.Ready()})
    assert [steps_of(first, p, 30) for p in "ab"] == [30, 30]
    second = next_record(first, {"a": ready_of(0.1), "b": ready_of(1.0)})
    assert [steps_of(second, p, 30) for p in "ab"] == [30, 3]
    assert mean_steps(second, 30) == 16.5
    able = pb.Capability(seconds_per_step=0.2)  # as measured when it started
    joining = {"a": ready_of(0.1), "b": ready_of(1.0, 3), "c": pb.Ready(capability=able)}
    third = next_record(second, joining)
    assert [steps_of(third, p, 30) for p in "abc"] == [30, 3, 15]
    assert steps_of(third, "stranger", 30) == 30


def test_with_equal_step_counts_everybody_does_all_of_them() -> None:
    rules = replace(RULES, dynamic_steps=False)
    record = next_record(None, {"a": ready_of(0.1), "b": ready_of(1.0)}, rules)
    assert [steps_of(record, p, 30) for p in "ab"] == [30, 30] and mean_steps(record, 30) == 30


def test_the_record_keeps_what_the_experts_were_trained_on_and_whose() -> None:
    first = next_record(None, {p: pb.Ready() for p in "abcd"})
    assert [list(a.experts) for a in first.assignments] == [[0], [1], [2], [3]]
    ready = {
        p: ready_of(0.1, domain=d) for p, d in zip("abcd", ("law", "law", "code", ""), strict=True)
    }
    for expert, peer in enumerate("abcd"):
        ready[peer].contributions.add(fragment=f"expert.{expert}", weight=1000.0)
    second = next_record(first, ready)
    assert [e.trained_tokens for e in second.experts] == [250.0] * 4
    assert [{s.domain: s.share for s in e.served} for e in second.experts] == [
        {"law": 1.0}, {"law": 1.0}, {"code": 1.0}, {},
    ]  # fmt: skip
    # Now somebody of another domain trains expert 1 too.
    ready["b"].capability.domain = "maths"
    third = next_record(second, ready)
    assert {s.domain: s.share for s in third.experts[1].served} == {"law": 0.75, "maths": 0.25}
    assert third.experts[1].trained_tokens == 437.5
    idle = next_record(third, {p: ready_of(0.1) for p in "abcd"})
    assert idle.experts[1].trained_tokens == 0.75 * 437.5
    assert idle.experts[1].served == third.experts[1].served


def test_rounds_without_a_holder_are_counted_until_somebody_takes_over() -> None:
    rules = replace(RULES, assignment=replace(RULES.assignment, orphan_rounds=2))
    records = [next_record(None, {p: pb.Ready() for p in "abcd"}, rules)]
    able = ready_of(0.1)
    for _ in range(3):
        records.append(next_record(records[-1], dict.fromkeys("abc", able), rules))
    assert [r.experts[3].orphaned_rounds for r in records] == [0, 1, 2, 3]  # nobody has room
    able.capability.memory_bytes = 1000
    rules = replace(rules, sizes=Sizes(trunk=1, expert=1, num_experts=4, full=True))
    taken = next_record(records[-1], dict.fromkeys("abc", able), rules)
    assert list(assignment_of(taken, "a").experts) == [0, 3]
    assert list(assignment_of(taken, "a").since) == [0, 4]
    assert taken.experts[3].orphaned_rounds == 0


def test_a_peer_ten_times_slower_costs_the_others_less_than_a_tenth_of_their_time() -> None:
    """On a fake clock: a round lasts until the last update is there, then everybody goes on."""

    def seconds_of(rounds: int, speeds: dict[str, float], rules: DutyRules) -> float:
        clock_s = 0.0
        record = next_record(None, {p: pb.Ready() for p in speeds}, rules)
        for _ in range(rounds):
            steps = {p: steps_of(record, p, rules.inner_steps) for p in speeds}
            clock_s += max(steps[p] * speeds[p] for p in speeds)
            record = next_record(record, {p: ready_of(speeds[p], steps[p]) for p in speeds}, rules)
        return clock_s

    alike = {"a": 0.1, "b": 0.1, "c": 0.1, "d": 0.1}
    uneven = {**alike, "d": 1.0}
    rounds = 200
    undisturbed = seconds_of(rounds, alike, RULES)
    assert seconds_of(rounds, uneven, RULES) < 1.1 * undisturbed
    # With equal counts all wait for the slowest.
    equal = replace(RULES, dynamic_steps=False)
    assert seconds_of(rounds, uneven, equal) == pytest.approx(10 * undisturbed)
