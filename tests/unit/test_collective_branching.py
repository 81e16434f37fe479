"""Those who are left go on in a branch, whatever they voted for before."""

import random

import pytest

from swarm.collective.ledger import Ledger
from swarm.collective.protocol import effects, events
from swarm.collective.protocol.machine import PeerMachine
from swarm.collective.protocol.memory import Memory
from swarm.errors import Code, SwarmError
from swarm.wire import collective_pb2 as pb
from tests.unit.machine_net import NAMES, TIMEOUTS, Net, setup_of


def founded(names):
    net = Net(names)
    net.round()
    return net


def restart(net, name, commits):
    """With these commits and the newest word on its disk."""
    words = [e.word for n, e in net.done if n == name and isinstance(e, effects.PersistWord)]
    memory = Memory()
    for commit in commits:
        memory.adopt(commit)
    memory.recall(words[-1])
    net._heap.clear()  # what the last life has waited for
    net.machines[name] = PeerMachine(setup_of(name), memory, random.Random(name))
    net.feed(name, events.Started())


@pytest.mark.parametrize("how", ["killed", "frozen"])
def test_a_voter_that_refuses_and_one_that_is_dead_leave_no_majority(how):
    """The two others have voted, so the record stands; each verdict on the dead one is an old one
    when the next attempt begins."""
    net = founded(NAMES)
    first, second, refuser, dead = net.machines["ann"].succession()
    check = net.machines[refuser].elector.on_accept

    def refuse(sender, accept, call_id):
        if not pb.RoundRecord.FromString(accept.record).unanimous:
            raise SwarmError(Code.MESSAGE_MALFORMED, "not this one")
        return check(sender, accept, call_id)

    net.machines[refuser]._serves[pb.Accept] = refuse
    began = net.now
    net.stop(how, dead)
    for name in net.living():
        net.ready(name)
    net.run_until(lambda: net.committed(1))
    assert TIMEOUTS.lease_s <= net.now - began < TIMEOUTS.lease_s + 12.0
    assert list(net.machines[first].memory.record.electorate) == sorted((first, second))


def test_a_founder_that_crashed_after_its_vote_counts_its_attempts_on():
    """Else a later attempt would have the ballot of the one in whose record it voted, and what it
    computed then, of other updates, would speak against that record for ever."""
    net = founded(("ann", "bob"))
    before = net.machines["ann"].memory.commit
    net.ready("ann")
    net.stop("killed", "bob")
    net.run_until(lambda: net.committed(1))
    voted = net.machines["ann"].memory.record
    restart(net, "ann", [before])

    def other_bits(name, plan):
        report = pb.Report(round=plan.round, branch=plan.branch, ballot=plan.ballot)
        report.results.add(fragment="trunk.0", theta_hash=b"o" * 32, momentum_hash=b"o" * 32)
        net.feed(name, events.AttemptEnded(report))

    net._end_attempt = other_bits
    net.done.clear()
    net.ready("ann")
    net.run_until(lambda: net.committed(1))
    assert net.machines["ann"].memory.record == voted
    plans = [e.plan for _, e in net.done if isinstance(e, effects.StartAttempt)]
    assert len(plans) > 1 and min(p.ballot.attempt for p in plans) > voted.attempts


def test_the_highest_attempt_outlives_a_restart_but_not_the_round(tmp_path):
    net = founded(("ann", "bob"))
    first, _ = (net.machines["ann"].memory.commit, net.round())
    ledger = Ledger(tmp_path)
    ledger.save_commit(first)
    ledger.memory.adopt(first)
    ledger.promise(b"majority", (3, "ann"))
    ledger.promise(b"founding", (7, "ann"))
    ledger.promise(b"majority", (4, "ann"))
    again = Ledger(tmp_path).memory
    assert again.highest_attempt == 7
    again.adopt(net.machines["ann"].memory.commit)
    assert again.highest_attempt == 0
    again.promise(b"the next", (1, "bob"))
    assert again.highest_attempt == 1
