"""Links: whoever follows a history can show where it comes from, also when all others are gone."""

import random

import pytest

from swarm.collective.ledger import Ledger
from swarm.collective.protocol import effects, events
from swarm.collective.protocol.history import LINKS
from swarm.collective.protocol.machine import PeerMachine
from swarm.collective.protocol.memory import KEPT_COMMITS, Memory
from swarm.wire import collective_pb2 as pb
from swarm.wire.membership_pb2 import PeerRecord
from tests.unit.machine_net import NAMES, TIMEOUTS, Net, setup_of

LAST = 3


@pytest.fixture
def net():
    """`cyd` alone is left of a swarm that has committed up to round `LAST`."""
    return swarm_of_one_survivor(LAST)


def swarm_of_one_survivor(last):
    whole = Net(NAMES)
    for _ in range(last + 1):
        whole.round()
    net = Net(NAMES)
    net.killed.update(NAMES)
    start(net, "cyd", history_of(whole.machines["cyd"].memory))
    return net


def history_of(memory):
    return list(memory.history(1 << 40))[::-1]


def start(net, name, commits):
    """A peer starts with these commits on its disk."""
    memory = Memory()
    for commit in commits:
        memory.adopt(commit)
    net.machines[name] = PeerMachine(setup_of(name), memory, random.Random(1))
    net.killed.discard(name)
    net.feed(name, events.Started())


def look(net, name, source):
    """A peer sees in the directory what another follows."""
    record = net.machines[source].memory.record
    seen = PeerRecord(
        peer_id=source,
        branch=record.branch,
        round=record.round,
        committed_tokens=record.committed_tokens,
    )
    net.feed(name, events.RecordsSeen({source: seen}, True))


def round_of(net, name):
    record = net.machines[name].memory.record
    return record.round if record is not None else None


def requests(net):
    asked = [e for _, e in net.done if isinstance(e, effects.Call)]
    return [e.message for e in asked if isinstance(e.message, pb.GetCommit)]


def test_a_peer_that_jumped_ahead_shows_the_links_when_their_source_is_gone(net):
    """`bob` was up all the time, so it believes nobody without links."""
    commits = history_of(net.machines["cyd"].memory)
    start(net, "ann", commits[:1])
    look(net, "ann", "cyd")
    net.run_until(lambda: round_of(net, "ann") == LAST)
    net.stop("killed", "cyd")
    start(net, "bob", commits[:1])
    net.calls[0] = ("ann", 0)
    net.feed("bob", events.Received("ann", 0, commits[-1]))
    net.run_until(lambda: round_of(net, "bob") == LAST)
    kept = [e for n, e in net.done if n == "bob" and isinstance(e, effects.PersistCommit)]
    assert (kept[-1].commit, list(kept[-1].links)) == (commits[-1], commits[1:-1])


def test_a_newcomer_asks_for_the_links_before_it_follows(net):
    start(net, "ann", [])
    look(net, "ann", "cyd")
    net.run_until(lambda: round_of(net, "ann") == LAST)
    assert history_of(net.machines["ann"].memory) == history_of(net.machines["cyd"].memory)


def test_a_newcomer_believes_a_source_that_has_no_links_any_more(net):
    commits = history_of(net.machines["cyd"].memory)
    start(net, "cyd", commits[-1:])
    start(net, "ann", [])
    look(net, "ann", "cyd")
    net.run_until(lambda: round_of(net, "ann") == LAST)


def test_who_was_cut_off_for_a_lease_believes_where_the_links_end_and_before_it_does_not(net):
    commits = history_of(net.machines["cyd"].memory)
    start(net, "cyd", commits[-1:])
    start(net, "ann", commits[:1])
    net.calls[0] = ("cyd", 0)
    net.feed("ann", events.Received("cyd", 0, commits[1]))
    look(net, "ann", "cyd")
    net.run_until(lambda: not net.machines["ann"].discovering)
    assert round_of(net, "ann") == 1
    net.now += TIMEOUTS.lease_s
    look(net, "ann", "cyd")
    net.run_until(lambda: round_of(net, "ann") == LAST)


def test_rounds_longer_than_a_lease_do_not_make_a_peer_believe_what_is_not_linked():
    net, round_s = swarm_of_one_survivor(5), 2 * TIMEOUTS.lease_s
    commits = history_of(net.machines["cyd"].memory)
    start(net, "cyd", commits[-1:])
    start(net, "ann", commits[:1])
    for number, commit in enumerate(commits[1:3]):
        net.now += round_s
        net.calls[-number] = ("cyd", number)
        net.feed("ann", events.Received("cyd", -number, commit))
    for rounds_away, expected in ((2, 2), (KEPT_COMMITS, 5)):
        net.now += rounds_away * round_s
        look(net, "ann", "cyd")
        net.run_until(lambda: not net.machines["ann"].discovering)
        assert round_of(net, "ann") == expected


def test_a_newcomer_does_not_follow_a_source_that_dies_before_it_has_shown_its_links(net):
    start(net, "ann", [])
    look(net, "ann", "cyd")
    net.run_until(lambda: len(requests(net)) == 2)
    net.stop("killed", "cyd")
    net.run_until(lambda: not net.machines["ann"].discovering)
    assert round_of(net, "ann") is None


def test_a_link_that_a_quorum_did_not_vote_for_is_not_followed(net):
    memory = net.machines["cyd"].memory
    start(net, "ann", history_of(memory)[:1])
    unvoted = next(memory.history(LAST - 1))
    del unvoted.votes[1:]
    look(net, "ann", "cyd")
    net.run_until(lambda: not net.machines["ann"].discovering)
    assert round_of(net, "ann") == 0


def test_many_links_come_in_a_few_answers():
    net = swarm_of_one_survivor(2 * LINKS)
    start(net, "ann", history_of(net.machines["cyd"].memory)[:1])
    net.done.clear()
    look(net, "ann", "cyd")
    net.run_until(lambda: round_of(net, "ann") == 2 * LINKS)
    assert len(requests(net)) == 3


def test_a_restarted_peer_has_the_links_that_it_was_shown(net, tmp_path):
    commits = history_of(net.machines["cyd"].memory)
    ledger = Ledger(tmp_path)
    ledger.save_commit(commits[0])
    ledger.save_commit(commits[-1], commits[1:-1])
    assert history_of(Ledger(tmp_path).memory) == commits
