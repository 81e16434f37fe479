"""Machines of the round protocol, joined in virtual time.

Calls take a millisecond each way, attempts ten.
"""

import heapq
import itertools
import random

from swarm.collective.protocol import effects, events
from swarm.collective.protocol.machine import PeerMachine
from swarm.collective.protocol.memory import Memory
from swarm.collective.protocol.setup import Setup
from swarm.config import TimeoutPolicy
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


def leader_of(net):
    return net.machines["ann"].succession()[0]
