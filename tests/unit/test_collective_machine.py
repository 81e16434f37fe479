"""The pure protocol machine by itself: order of effects, halting, patience."""

import copy
import itertools

import pytest

from swarm.collective.consensus import resignation_text
from swarm.collective.plan import rendezvous_order, round_key
from swarm.collective.protocol import effects, events
from swarm.collective.protocol.leading import MAX_SPOILED
from swarm.errors import Code, SwarmError
from swarm.simulation.swarm import ToyPolicy
from swarm.wire import collective_pb2 as pb
from tests.unit.machine_net import ATTEMPT_S, HOP_S, NAMES, Net, leader_of


def next_leader(net):
    """Of the round after the open one."""
    setup, memory = net.machines["ann"].setup, net.machines["ann"].memory
    return rendezvous_order(round_key(setup.run_id, memory.branch, memory.next_round + 1), NAMES)[0]


@pytest.fixture
def net():
    net = Net(NAMES)
    assert list(net.round().roster) == sorted(NAMES)
    return net


def test_an_undisturbed_round_waits_for_nothing_but_messages(net):
    began = net.now
    record = net.round()
    assert record.outcome == pb.FULL and record.attempts == 1
    assert net.now - began < 12 * HOP_S + ATTEMPT_S


def test_a_ready_that_overtakes_the_commit_counts_when_the_commit_comes(net, monkeypatch):
    """As when one operation follows the other, and the next leader is the last to hear."""
    while len({leader_of(net), leader := next_leader(net)}) == 1:
        net.round()
    index, after = net.machines["ann"].memory.next_round, net.after

    def slowly(delay_s, name, event):
        commit = isinstance(event, events.Received) and isinstance(event.message, pb.Commit)
        after(delay_s + 5 * HOP_S * (commit and name == leader), name, event)

    monkeypatch.setattr(net, "after", slowly)
    waiting = set(NAMES)

    def both_are_committed():
        for name in [n for n in waiting if net.machines[n].memory.next_round > index]:
            waiting.remove(name)
            net.ready(name)
        return net.committed(index + 1)

    began = net.now
    for name in NAMES:
        net.ready(name)
    net.run_until(both_are_committed)
    assert net.now - began < 40 * HOP_S + 2 * ATTEMPT_S


def test_a_newcomer_whose_request_was_of_an_older_round_enters_with_what_it_said(net, monkeypatch):
    told = []
    monkeypatch.setattr(
        ToyPolicy, "assign", lambda self, record, previous, ready: told.append(dict(ready))
    )
    asked = pb.Ready(joining=True, capability=pb.Capability(domain="code"))
    net.killed.add("eve")  # is not heard of again
    for number, name in enumerate(NAMES, 10**6):
        net.calls[number] = ("eve", 0)
        net.feed(name, events.Received("eve", number, asked))
    record = net.round()
    assert list(record.joined) == ["eve"]
    assert told[-1]["eve"].capability.domain == "code"


def test_a_promise_and_a_vote_are_written_before_they_are_answered(net):
    net.done.clear()
    net.round()
    for name in NAMES:
        mine = [e for n, e in net.done if n == name]
        words = [i for i, e in enumerate(mine) if isinstance(e, effects.PersistWord)]
        assert len(words) == 2
        promised = [
            i
            for i, e in enumerate(mine)
            if isinstance(e, effects.StartAttempt)
            or (isinstance(e, effects.Answer) and isinstance(e.message, pb.Promise))
            or (isinstance(e, effects.Call) and isinstance(e.message, pb.Plan))
        ]
        voted = [
            i
            for i, e in enumerate(mine)
            if isinstance(e, effects.Answer) and isinstance(e.message, pb.AcceptReply)
        ]
        assert promised and words[0] < min(promised)
        assert all(words[1] < i for i in voted)
        kept = next(i for i, e in enumerate(mine) if isinstance(e, effects.PersistCommit))
        assert isinstance(mine[kept + 1], effects.Adopt)


def test_a_commit_that_could_not_be_kept_halts_the_peer_and_is_forgotten(net):
    machine = net.machines["bob"]
    before = machine.memory.commit_id
    net.round()
    kept = next(
        e for n, e in reversed(net.done) if n == "bob" and isinstance(e, effects.PersistCommit)
    )
    assert machine.handle(events.PersistFailed(kept), net.now) == []
    assert machine.memory.commit_id == before
    plan = pb.Plan(run_id=machine.setup.run_id, ballot=pb.Ballot(attempt=9, leader="ann"))
    assert machine.handle(events.Received("ann", 1, plan), net.now) == []


def test_one_that_was_not_told_of_a_commit_asks_those_it_waits_for(net):
    """Its leader is dead, and the others are already training for the next round."""
    leader, untold, *_ = net.machines["ann"].succession()
    carry_out = net.carry_out

    def losing(name, effect):
        lost = isinstance(effect, effects.Call) and isinstance(effect.message, pb.Commit)
        if not lost or effect.peer != untold:
            carry_out(name, effect)

    net.carry_out = losing
    for name in NAMES:
        net.ready(name)
    told = [n for n in NAMES if n != untold]
    net.run_until(lambda: all(net.machines[n].memory.record.round == 1 for n in told))
    net.stop("killed", leader)
    began = net.now
    net.run_until(lambda: net.committed(1))
    assert net.now - began < 4.0


def test_one_that_nobody_serves_asks_whether_there_is_a_newer_commit(net):
    machine = net.machines["bob"]
    version = machine.memory.record.fragments[0].state
    net.feed("bob", events.Adopted((version,)))
    net.feed("bob", events.LevelAsked())
    net.done.clear()
    net.feed("bob", events.FetchFailed(version))
    assert any(
        isinstance(e, effects.Call) and isinstance(e.message, pb.GetCommit) for _, e in net.done
    )


def test_a_round_whose_attempts_are_spoiled_again_and_again_is_skipped(net):
    """Each time another peer fails and accuses another one, so nobody is soon left out."""
    turns = itertools.count()
    net.attempt_fails = lambda name: "out of luck" if next(turns) % 3 == 0 else ""
    record = net.round()
    assert record.outcome in (pb.SKIPPED, pb.PARTIAL) and record.attempts <= MAX_SPOILED + 1


def test_a_record_that_every_voter_refuses_ends_in_a_skipped_round(net):
    """Nobody is to blame, and the next attempt would only make the same record."""
    for name in NAMES:
        check = net.machines[name].elector.on_accept

        def refuse(sender, accept, call_id=0, check=check):
            record = pb.RoundRecord.FromString(accept.record)
            if record.outcome != pb.SKIPPED:
                raise SwarmError(Code.MESSAGE_MALFORMED, "not this one")
            return check(sender, accept, call_id)

        net.machines[name].elector.on_accept = refuse
        net.machines[name]._serves[pb.Accept] = refuse
    record = net.round()
    assert record.outcome == pb.SKIPPED and record.attempts == MAX_SPOILED + 1
    assert {m.reason for m in record.missing} == {f"given up after {MAX_SPOILED} attempts"}
    assert list(record.roster) == sorted(NAMES)


def test_a_resignation_is_on_disk_before_it_is_signed(net):
    net.done.clear()
    net.feed("cyd", events.LeaveAsked())
    net.run_until(lambda: any(isinstance(e, effects.Left) for n, e in net.done if n == "cyd"))
    mine = [e for n, e in net.done if n == "cyd"]
    word = next(i for i, e in enumerate(mine) if isinstance(e, effects.PersistWord))
    base = net.machines["cyd"].memory.commit_id
    signed = [
        i
        for i, e in enumerate(mine)
        if isinstance(e, effects.Call) and getattr(e.message, "signature", b"")
    ]
    assert mine[word].word.abstains_after == base and len(signed) == 3 and word < min(signed)
    text = resignation_text(net.machines["cyd"].setup.run_id, base)
    assert mine[signed[0]].message.signature == b"cyd" + text


def test_a_resignation_reaches_the_leader_through_somebody_else(net):
    leader = leader_of(net)
    others = [n for n in NAMES if n != leader]
    net.feed(others[0], events.LeaveAsked())
    net.run_until(lambda: net.machines[others[1]].memory.resignations)
    net.machines[leader].memory.resignations.clear()
    net.stop("killed", others[0])
    record = net.round()
    assert record.round == 1
    net.round()
    assert others[0] in net.machines[leader].memory.record.left or others[0] not in record.roster


def test_a_copy_of_a_machine_does_what_the_machine_does(net):
    name = leader_of(net)
    machine = net.machines[name]
    twin = copy.deepcopy(machine)
    base = machine.memory.record.fragments[0].state.theta_hash
    ready = pb.Ready(tokens=10)
    ready.contributions.add(fragment="trunk.0", weight=10.0, base_hash=base)
    event = events.Offered(machine.memory.commit_id, ready)
    assert twin.handle(event, net.now) == machine.handle(event, net.now)
    assert twin.memory is not machine.memory and twin.leading is not machine.leading
