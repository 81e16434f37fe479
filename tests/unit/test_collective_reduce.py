"""The reduce engine: exact results whatever the timing, bounded memory, lanes given back."""

import dataclasses
import threading
import time
import tracemalloc
from datetime import timedelta

import numpy as np
import pytest

from swarm.collective import exchange as exchange_module
from swarm.collective.codecs import CODECS, decode, encode, get_codec
from swarm.collective.plan import reducer_jobs
from swarm.collective.reduce import SLOTS, ReduceSession
from swarm.network.lane import Kind
from swarm.wire import collective_pb2 as pb

from reduce_peers import Group, suspects  # isort: skip

NUMEL = {"trunk.0": 20_000, "trunk.1": 3_000}


def reference(group, fragment, codec="fp32"):
    """The weighted mean by its definition: in sorted order, chunk by chunk, coded both ways."""
    coder = get_codec(codec)
    plan = next(f for f in group.plan.fragments if f.fragment == fragment)
    mean = np.zeros(plan.numel, np.float32)
    jobs = [j for p in group.names for j in reducer_jobs(group.plan, p) if j.fragment == fragment]
    for job in jobs:
        total = np.zeros(job.elements, np.float32)
        for peer, weight in zip(job.contributors, job.weights, strict=True):
            offered = encode(coder, group.deltas[peer][fragment][job.begin : job.end])
            values = decode(coder, offered, job.elements)
            total = total + values * np.float32(weight)
        mean[job.begin : job.end] = decode(coder, encode(coder, total), total.size)
    return mean


@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize("peers", [2, 5])
def test_all_peers_get_the_same_bits_and_they_are_the_weighted_mean(codec, peers):
    weights = list(np.float32(range(1, peers + 1)) / np.float32(sum(range(1, peers + 1))))
    group = Group(NUMEL, peers=peers, codec=codec, weights=weights)
    means = group.run()
    for fragment in NUMEL:
        expected = reference(group, fragment, codec)
        for peer in group.names:
            assert np.array_equal(means[peer][fragment], expected)


def test_the_result_does_not_depend_on_the_order_of_arrival():
    expected = None
    for late in "abc":
        group = Group(NUMEL, weights=[0.2, 0.3, 0.5])

        def delay(source, target, kind, index, late=late):
            if source == late and kind is Kind.CHUNK and index < 3:
                time.sleep(0.05)

        group.hub.on_frame = delay
        means = group.run()
        expected = expected or means["a"]
        for peer in group.names:
            assert all(np.array_equal(means[peer][f], expected[f]) for f in NUMEL)


def test_a_fragment_with_one_contributor_is_handed_on_bit_by_bit():
    group = Group({"expert.0": 5000})
    fragment = group.plan.fragments[0]
    del fragment.contributors[:], fragment.weights[:], fragment.parts[:]
    fragment.contributors.append("b")
    fragment.weights.append(1.0)
    fragment.parts.add(begin=0, end=5000, reducer="b")
    means = group.run()
    for peer in group.names:
        assert np.array_equal(means[peer]["expert.0"], group.deltas["b"]["expert.0"])


def test_chunks_are_striped_over_several_lanes(monkeypatch):
    monkeypatch.setattr(exchange_module, "LANES", {"local": 3})
    group = Group(NUMEL)
    means = group.run()
    assert len(group.links["a"].opened) == 6
    for peer in group.names:
        assert np.array_equal(means[peer]["trunk.0"], reference(group, "trunk.0"))


def test_lanes_are_given_back_after_an_attempt_that_ended_well_and_only_then():
    group = Group(NUMEL)
    group.run()
    for links in group.links.values():
        assert len(links.opened) == 2 and set(links.released) == set(links.opened)
    assert group.exchanges["a"].bytes_sent == group.exchanges["a"].bytes_received > 0

    group = Group(NUMEL)
    group.deltas["b"]["trunk.0"][100] = np.nan
    group.run()
    released = [lane.peer for links in group.links.values() for lane in links.released]
    assert "a" not in released  # it found the value; calls to the others may have ended well


def test_buffers_for_the_means_can_be_given_and_what_is_returned_is_read_only():
    group = Group(NUMEL, peers=2)
    buffer = np.zeros(NUMEL["trunk.0"], np.float32)
    group.prepare("b")
    other = threading.Thread(target=group.exchanges["b"].run)
    other.start()
    exchange = exchange_module.Exchange(
        group.plan, "a", group.deltas["a"], group.links["a"], group.stall, {"trunk.0": buffer}
    )
    group.registries["a"].add(exchange)
    means = exchange.run()
    other.join()
    assert means["trunk.0"].base is buffer and np.array_equal(buffer, reference(group, "trunk.0"))
    with pytest.raises(ValueError, match="read-only"):
        means["trunk.0"][0] = 1


@pytest.mark.parametrize("codec", ["fp32", "int8"])
def test_memory_beyond_the_buffers_is_a_few_chunks_per_peer(codec):
    peers, chunk = 4, 16 * 1024
    group = Group({"trunk.0": 128 * chunk}, peers=peers, codec=codec, chunk=chunk)
    tracemalloc.start()
    try:
        finish = group.start()
        tracemalloc.reset_peak()
        before = tracemalloc.get_traced_memory()[0]
        finish()
        peak = tracemalloc.get_traced_memory()[1] - before
    finally:
        tracemalloc.stop()
    per_pair = SLOTS + 5  # slots, and what a sender and a receiver work with
    assert peak < peers * peers * per_pair * 4 * chunk
    assert peak < 128 * 4 * chunk * peers / 2  # far from the buffers themselves


class SlowReceiver:
    """A lane whose reader takes its time for each mean."""

    def __init__(self, lane, gate):
        self._lane, self._gate = lane, gate

    def __getattr__(self, name):
        return getattr(self._lane, name)

    def read_into(self, target):
        self._gate.wait(10)
        self._lane.read_into(target)


@pytest.mark.parametrize("codec", ["fp32", "int8"])
def test_a_slow_receiver_stops_nobody_else_and_gets_the_same_bits(codec):
    group = Group({"trunk.0": 500_000}, codec=codec, chunk=4096)
    gate = threading.Event()
    group.links["c"].wrap = lambda lane: SlowReceiver(lane, gate)
    finish = group.start()
    deadline_s = time.monotonic() + 10
    while sum(t.name in ("run-a", "run-b") for t in threading.enumerate()):
        assert time.monotonic() < deadline_s, "a slow receiver holds the others up"
        time.sleep(0.01)
    gate.set()
    means = finish()
    assert np.array_equal(means["c"]["trunk.0"], means["a"]["trunk.0"])


def test_means_wait_for_slices_but_not_for_slices_that_are_held_back():
    """a has a slice for c that c can not take: c waits for b, and b for the means of a."""
    group = Group({"trunk.0": 60 * 1024}, reducers=["a", "c"])
    go = threading.Event()

    def note(source, target, kind, index):
        if source == "b" and target == "c" and kind is Kind.CHUNK and index == 5:
            assert go.wait(10)

    group.hub.on_frame = note
    group.links["b"].wrap = lambda lane: Noticed(lane, go) if lane.peer == "a" else lane
    means = group.run()
    assert np.array_equal(means["b"]["trunk.0"], reference(group, "trunk.0"))


class Noticed:
    """A lane that sets an event when its last mean has come."""

    def __init__(self, lane, event):
        self._lane, self._event = lane, event

    def __getattr__(self, name):
        return getattr(self._lane, name)

    def receive(self):
        frame = self._lane.receive()
        if frame.kind is Kind.END:
            self._event.set()
        return frame


def test_an_agreement_has_nothing_to_exchange():
    group = Group({"state": 100})
    del group.plan.fragments[0].parts[:]
    group.plan.fragments[0].operation = pb.AGREE
    assert group.run() == {"a": {}, "b": {}, "c": {}}


def test_a_lane_that_comes_before_its_plan_waits_for_it():
    group = Group(NUMEL)
    late = group.prepare("c")
    group.registries["c"].remove(late)
    group.registries["c"]._over.clear()
    finish = group.start(without=["c"])
    deadline_s = time.monotonic() + 10
    while group.registries["c"]._early.total() < 2:
        assert time.monotonic() < deadline_s, "no lane has come"
        time.sleep(0.01)
    group.registries["c"].add(late)
    late.run()
    means = finish()
    assert np.array_equal(means["a"]["trunk.0"], reference(group, "trunk.0"))


@pytest.mark.parametrize("known", ["never", "over"])
def test_a_lane_of_an_unknown_attempt_is_refused_in_time(known):
    group = Group(NUMEL, stall=timedelta(seconds=1), reducers=["c"])
    if known == "over":
        group.registries["c"].remove(group.prepare("c"))
    begin_s = time.monotonic()
    outcome = group.run(without=["c"])["a"]
    assert "no such attempt" in outcome.message and outcome.suspects == {}
    assert time.monotonic() - begin_s < (1.0 if known == "over" else 4.0)


def test_one_peer_can_not_fill_a_reducer_with_lanes_that_wait():
    group = Group(NUMEL)
    group.registries["c"]._early["a"] = exchange_module.MAX_EARLY
    outcome = group.run(without=["c"])["a"]
    assert "too many lanes" in outcome.message
    assert suspects(outcome) == {}


def test_a_reducer_that_sums_by_arrival_would_be_seen(monkeypatch):
    """A deliberate bug: what the test of the order of arrival is there to catch."""
    results = []
    for late in "abc":
        group = Group(NUMEL)
        reduce = ReduceSession._reduce

        def by_arrival(session, job, late=late, reduce=reduce):
            order = sorted(job.contributors, key=lambda peer: (peer == late, peer))
            reduce(session, dataclasses.replace(job, contributors=tuple(order)))

        with monkeypatch.context() as bug:
            bug.setattr(ReduceSession, "_reduce", by_arrival)
            results.append(group.run()["a"]["trunk.0"].tobytes())
    assert len(set(results)) > 1
