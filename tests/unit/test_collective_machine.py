"""The pure protocol machine by itself: order of effects, halting, patience, detection times.

`Net` joins a few machines in virtual time: calls take a millisecond each way, attempts ten.
"""

import copy
import heapq
import itertools
import random

import pytest

from swarm.collective.consensus import resignation_text
from swarm.collective.protocol import effects, events
from swarm.collective.protocol.leading import MAX_SPOILED
from swarm.collective.protocol.machine import PeerMachine
from swarm.collective.protocol.memory import Memory
from swarm.collective.protocol.setup import Setup
from swarm.config import TimeoutPolicy
from swarm.errors import Code, SwarmError
from swarm.simulation.swarm import ToyPolicy, toy_manifest
from swarm.wire import collective_pb2 as pb
from swarm.wire.control_pb2 import Ping, Pong
from swarm.wire.membership_pb2 import PeerRecord

TIMEOUTS = TimeoutPolicy(
    heartbeat_s=2.0, chunk_s=5.0, attempt_s=20.0, round_s=30.0, join_s=40.0, lease_s=60.0
)
POLICY = ToyPolicy({"trunk.0": 4})
HOP_S = 0.001
ATTEMPT_S = 0.01
NAMES = ("ann", "bob", "cyd", "dan")


def setup_of(name):
    return Setup(
        me=name,
        manifest=toy_manifest(min_peers=2, timeouts=TIMEOUTS),
        policy=POLICY,
        sign=lambda text: name.encode() + text,
        verify=lambda peer, text, signature: signature == peer.encode() + text,
    )


class Net:
    """Machines that hear one another at once, unless they are killed or frozen."""

    def __init__(self, names):
        self.now = 0.0
        self.machines = {n: PeerMachine(setup_of(n), Memory(), random.Random(n)) for n in names}
        self.killed, self.frozen = set(), set()
        self.calls = {}  # number -> (caller, its call id)
        self.open_calls = []  # (caller, its call id, called)
        self.done = []  # (who, effect) in order
        self.attempt_fails = lambda name: ""
        self._heap, self._numbers, self._plans = [], itertools.count(1), {}
        for name in names:
            self.feed(name, events.Started())

    def after(self, delay_s, name, event):
        heapq.heappush(self._heap, (self.now + delay_s, next(self._numbers), name, event))

    def feed(self, name, event):
        if name in self.killed:
            return
        if name in self.frozen:
            return self.after(1.0, name, event)
        for effect in self.machines[name].handle(event, self.now):
            self.done.append((name, effect))
            self.carry_out(name, effect)

    def carry_out(self, name, effect):
        match effect:
            case effects.Call(peer=peer) if peer in self.killed:
                self.after(2 * HOP_S, name, events.Replied(effect.call_id, None))
            case effects.Call(peer=peer):
                number = next(self._numbers)
                self.calls[number] = (name, effect.call_id)
                self.open_calls.append((name, effect.call_id, peer))
                self.after(effect.timeout_s, name, events.Replied(effect.call_id, None))
                if isinstance(effect.message, Ping):
                    if peer not in self.frozen:
                        self.after(2 * HOP_S, name, events.Replied(effect.call_id, Pong()))
                else:
                    self.after(HOP_S, peer, events.Received(name, number, effect.message))
            case effects.Answer():
                caller, call_id = self.calls[effect.call_id]
                self.after(HOP_S, caller, events.Replied(call_id, effect.message))
            case effects.Refuse():
                caller, call_id = self.calls[effect.call_id]
                self.after(HOP_S, caller, events.Replied(call_id, None, effect.error.message))
            case effects.StartAttempt(plan=plan):
                self._plans[name] = plan
                self.after(ATTEMPT_S, name, plan)
            case effects.EndAttempt():
                self._plans.pop(name, None)
            case effects.Adopt():
                self.feed(name, events.Adopted(()))
            case effects.LookUp():
                records = {n: PeerRecord(peer_id=n) for n in self.machines}
                self.after(HOP_S, name, events.RecordsSeen(records))
            case effects.WakeAt(time_s=float(time_s)):
                self.after(max(0.0, time_s - self.now), name, events.Tick())

    def _end_attempt(self, name, plan):
        report = pb.Report(round=plan.round, branch=plan.branch, ballot=plan.ballot)
        out = [m.peer for m in plan.members if m.peer in self.killed]
        report.failure = self.attempt_fails(name) or ("connection lost" if out else "")
        report.suspects.extend(pb.Suspect(peer=p, reason="connection lost") for p in out)
        if not report.failure:
            bits = str([m.peer for m in plan.members]).encode().ljust(32)[:32]
            report.results.add(fragment="trunk.0", theta_hash=bits, momentum_hash=bits)
        if self._plans.get(name) is plan and not self.frozen & {m.peer for m in plan.members}:
            self.feed(name, events.AttemptEnded(report))

    def run_until(self, condition, limit_s=120.0):
        end = self.now + limit_s
        while not condition():
            assert self._heap and self.now < end, "it does not happen"
            self.now, _, name, event = heapq.heappop(self._heap)
            if isinstance(event, pb.Plan):
                self._end_attempt(name, event)
            else:
                self.feed(name, event)

    def ready(self, name):
        machine = self.machines[name]
        ready = None
        if machine.memory.record is not None:
            ready = pb.Ready(tokens=10, steps=1)
            base = machine.memory.record.fragments[0].state.theta_hash
            ready.contributions.add(fragment="trunk.0", weight=10.0, base_hash=base)
        self.feed(name, events.Offered(machine.memory.commit_id, ready))

    def round(self, names=None):
        """Everybody (or `names`) comes to the boundary; returns once all living have committed."""
        index = self.machines[next(iter(self.living()))].memory.next_round
        for name in names or self.living():
            self.ready(name)
        self.run_until(lambda: self.committed(index))
        return self.machines[self.living()[0]].memory.record

    def stop(self, how, victim):
        """As by SIGKILL, which breaks connections, or by SIGSTOP, which does not."""
        if how == "frozen":
            self.frozen.add(victim)
            return
        self.killed.add(victim)
        for caller, call_id, called in self.open_calls:
            if called == victim:
                self.after(HOP_S, caller, events.Replied(call_id, None))

    def living(self):
        return [n for n in self.machines if n not in self.killed | self.frozen]

    def committed(self, index):
        records = [self.machines[n].memory.record for n in self.living()]
        return all(r is not None and r.round >= index for r in records)


@pytest.fixture
def net():
    net = Net(NAMES)
    assert list(net.round().roster) == sorted(NAMES)
    return net


def leader_of(net):
    return net.machines["ann"].succession()[0]


def test_an_undisturbed_round_waits_for_nothing_but_messages(net):
    began = net.now
    record = net.round()
    assert record.outcome == pb.FULL and record.attempts == 1
    assert net.now - began < 12 * HOP_S + ATTEMPT_S


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
