"""The pure protocol machine when members die or freeze: who goes on, and how soon."""

import itertools

import pytest

from swarm.collective.protocol import effects, events
from swarm.wire import collective_pb2 as pb
from tests.unit.machine_net import NAMES, TIMEOUTS, Net, leader_of


@pytest.fixture
def net():
    net = Net(NAMES)
    assert list(net.round().roster) == sorted(NAMES)
    return net


@pytest.mark.parametrize("stop", ["killed", "frozen"])
@pytest.mark.parametrize("rank", [0, 1, 3])
@pytest.mark.parametrize("after_s", [0.5, 0.0015, 0.0025, 0.006, 0.0145, 0.0165])
def test_survivors_commit_soon_after_a_death_at_any_step(net, stop, rank, after_s):
    """Killed: 2 s; frozen: 7 s. At 0.5 s the victim has not come to the boundary."""
    victim = net.machines["ann"].succession()[rank]
    others = [n for n in NAMES if n != victim]
    at = net.now + after_s
    for name in others if after_s == 0.5 else NAMES:
        net.ready(name)
    net.after(after_s, victim, events.Tick())
    net.run_until(lambda: net.now >= at)
    net.stop(stop, victim)
    net.run_until(lambda: net.committed(1))
    assert net.now - at < (2.0 if stop == "killed" else 7.0)
    assert len({net.machines[n].memory.commit_id for n in others}) == 1


@pytest.mark.parametrize("survivors", [1, 2])
def test_those_who_are_left_go_on_in_a_branch_when_the_lease_is_over(net, survivors):
    """However long the pauses between the attempts in vain have become."""
    before = net.machines["ann"].memory.record
    began = net.now
    for name in NAMES:
        net.ready(name)
    for victim in NAMES[survivors:]:
        net.stop("killed", victim)
    net.run_until(lambda: net.committed(1))
    assert TIMEOUTS.lease_s <= net.now - began < TIMEOUTS.lease_s + 3.0
    record = net.machines["ann"].memory.record
    assert record.branch != before.branch and list(record.roster) == list(NAMES[:survivors])


@pytest.mark.parametrize("after_s", [0.0145, 0.015])
def test_a_leader_that_was_taken_for_dead_and_is_back_at_once_takes_part_in_the_next_round(
    net, after_s
):
    """It froze when the votes came; the record that its successor finds keeps it in the roster."""
    back = leader_of(net)
    at = net.now + after_s
    for name in NAMES:
        net.ready(name)
    net.run_until(lambda: net.now >= at)
    net.stop("frozen", back)
    net.run_until(lambda: net.committed(1))
    assert net.now - at > 1.0
    net.frozen.clear()
    net.run_until(lambda: net.committed(1))
    record = net.round()
    assert list(record.roster) == sorted(NAMES) and not record.missing


def test_a_dead_member_whose_calls_fail_at_once_is_asked_for_its_commit_a_few_times_only(net):
    victim = max(set(NAMES) - {leader_of(net)})
    net.stop("killed", victim)
    net.done.clear()
    net.round()
    asked = [
        e.peer
        for _, e in net.done
        if isinstance(e, effects.Call) and isinstance(e.message, pb.GetCommit)
    ]
    assert 1 <= asked.count(victim) <= 3


def test_a_member_found_dead_again_and_again_holds_up_no_attempt(net):
    """It was ready, and the verdict on it is old when the second plan in a row gets lost."""
    leader, dead, silent, _ = net.machines["ann"].succession()
    carry_out, losses = net.carry_out, itertools.count()

    def losing(name, effect):
        plan = isinstance(effect, effects.Call) and isinstance(effect.message, pb.Plan)
        if not plan or effect.peer != silent or next(losses) >= 2:
            return carry_out(name, effect)
        net.after(effect.timeout_s, name, events.Replied(effect.call_id, None))

    for name in NAMES:
        net.ready(name)
    began = net.now
    net.run_until(lambda: net.now >= began + 0.0025)
    net.carry_out = losing
    net.stop("killed", dead)
    net.run_until(lambda: net.committed(1))
    assert net.now - began < 12.0
    assert net.machines[leader].memory.record.left == [dead]


@pytest.mark.parametrize("rank", [1, 2, 3])
def test_a_contributor_that_dies_in_the_reduce_costs_one_attempt(net, rank):
    """It was heard of a moment ago, but found dead since."""
    victim = net.machines["ann"].succession()[rank]
    for name in NAMES:
        net.ready(name)
    at = net.now + 0.006
    net.run_until(lambda: net.now >= at)
    net.stop("killed", victim)
    net.run_until(lambda: net.committed(1))
    record = net.machines[next(iter(net.living()))].memory.record
    assert record.attempts == 2 and net.now - at < 0.5
    assert list(record.left) == [victim]


def test_a_leader_that_dies_in_the_reduce_is_replaced_when_the_reports_to_it_fail(net):
    """Not only when the next Ready is due."""
    leader = leader_of(net)
    for name in NAMES:
        net.ready(name)
    at = net.now + 0.006
    net.run_until(lambda: net.now >= at)
    net.stop("killed", leader)
    net.run_until(lambda: net.committed(1))
    record = net.machines[next(iter(net.living()))].memory.record
    assert list(record.left) == [leader] and net.now - at < 0.5


def die_before_the_round(net, late=()):
    """The first in the succession dies after all others are ready (`late` ones 10 ms later).

    Returns how long it takes the others to commit, from the boundary on.
    """
    leader, began = leader_of(net), net.now
    for name in set(NAMES) - {leader, *late}:
        net.ready(name)
    net.run_until(lambda: net.now >= began + 0.01)
    for name in late:
        net.ready(name)
    net.run_until(lambda: net.now >= began + 0.3)
    net.stop("killed", leader)
    net.run_until(lambda: net.committed(1))
    return net.now - began


def test_one_that_vouched_for_a_leader_lately_believes_those_who_find_it_dead_first(net):
    leader, second, third, _ = net.machines["ann"].succession()
    machine = net.machines[third]
    wrong = machine.boundary.ready()
    wrong.suspects.append(leader)
    net.calls[0] = (third, 0)
    net.feed(second, events.Received(third, 0, wrong))  # probes the leader, which lives
    net.after(0.02, leader, events.Tick())
    assert die_before_the_round(net, late=[second]) < 1.5


def test_a_suspect_that_turns_out_to_live_is_told_at_once_when_it_leads(net):
    _, second, _, last = net.machines["ann"].succession()
    net.after(0.2, last, events.Tick())
    net.run_until(lambda: net.now >= 0.2)  # what was under way has come
    net.machines[last].health.suspects[second] = "does not answer"
    assert die_before_the_round(net) < 1.5


def test_one_that_dies_before_its_report_is_missed_soon_after_the_others_have_reported(net):
    leader, carry_out = leader_of(net), net.carry_out
    victim = max(set(NAMES) - {leader})  # the last to get the plan

    def deadly(name, effect):
        if name == victim and isinstance(effect, effects.Call):
            if isinstance(effect.message, pb.Report):
                return net.stop("killed", victim)
        carry_out(name, effect)

    net.carry_out = deadly
    for name in NAMES:
        net.ready(name)
    began = net.now
    net.run_until(lambda: net.committed(1))
    assert victim in net.killed and net.now - began < 1.0
