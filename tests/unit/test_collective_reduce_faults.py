"""The reduce engine under faults: who is named, who is not, and that no thread is left behind."""

import gc
import threading
import time
import weakref
from datetime import timedelta

import numpy as np
import pytest

from swarm.collective.norms import exceeded_norms
from swarm.collective.reduce import GOODBYE_S, AttemptFailedError
from swarm.collective.standing import TOO_SLOW
from swarm.errors import Code, SwarmError
from swarm.network.lane import Kind
from swarm.wire import collective_pb2 as pb
from swarm.wire.data_pb2 import Call, ReduceHello

from reduce_peers import Group, suspects  # isort: skip

NUMEL = {"trunk.0": 30_000}
SHORT = timedelta(seconds=1.5)  # a busy machine holds a healthy thread up for less


def workers():
    return [t.name for t in threading.enumerate() if t.name.startswith(("exchange-", "reduce-"))]


def none_left(limit_s=GOODBYE_S + 3):
    deadline_s = time.monotonic() + limit_s
    while workers():
        assert time.monotonic() < deadline_s, f"left behind: {workers()}"
        time.sleep(0.02)


def accused(outcomes):
    return {peer: suspects(outcome) for peer, outcome in outcomes.items()}


# ---- bad contributions --------------------------------------------------------------------


@pytest.mark.parametrize("codec", ["fp32", "bf16", "int8", "int4"])
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite_are_named_and_their_sender_is_told(codec, bad):
    group = Group(NUMEL, codec=codec)
    group.deltas["b"]["trunk.0"][100] = bad  # in the part of a
    outcomes = group.run()
    assert suspects(outcomes["a"]) == {"b": "NON_FINITE"}
    assert suspects(outcomes["b"]) == suspects(outcomes["c"]) == {}
    assert "b" in outcomes["b"].message and "not finite" in outcomes["b"].message
    none_left()


@pytest.mark.parametrize("operation", [pb.MAX, pb.MIN, pb.MEDIAN, pb.TRIMMED_MEAN])
@pytest.mark.parametrize("bad", [np.inf, -np.inf])
def test_infinities_that_an_operation_would_hide_are_found(operation, bad):
    group = Group(NUMEL, operation=operation)
    group.deltas["c"]["trunk.0"][25_000] = bad
    outcomes = group.run()
    assert suspects(outcomes["c"]) == {"c": "NON_FINITE"}  # it reduces this part itself
    assert suspects(outcomes["a"]) == {}


def test_finite_updates_whose_sum_overflows_accuse_nobody():
    group = Group(NUMEL, operation=pb.SUM)
    for peer in group.names:
        group.deltas[peer]["trunk.0"][100] = 3e38
    outcomes = group.run()
    assert all(found == {} for found in accused(outcomes).values())
    assert "not finite" in outcomes["a"].message


def test_an_update_larger_than_declared_in_one_part_is_named_and_its_sender_is_told():
    group = Group(NUMEL, operation=pb.CLIPPED_MEAN, norms=[180.0, 10.0, 180.0])
    outcomes = group.run()
    assert {"b": "NORM_EXCEEDED"} in accused(outcomes).values()
    assert suspects(outcomes["b"]).keys() <= {"b"}
    told = [o.message for p, o in outcomes.items() if p == "b"]
    assert "larger than the norm it declared" in told[0]


def test_an_update_larger_than_declared_in_all_is_found_by_the_leader():
    norm = float(np.linalg.norm(Group(NUMEL).deltas["b"]["trunk.0"]))
    group = Group(NUMEL, operation=pb.CLIPPED_MEAN, norms=[180.0, 0.9 * norm, 180.0])
    assert all(isinstance(means, dict) for means in group.run().values())
    reports = {p: pb.Report(norms=group.exchanges[p].session.norms()) for p in group.names}
    assert list(exceeded_norms(group.plan, reports)) == ["b"]
    group.plan.fragments[0].norms[1] = 1.001 * norm
    assert exceeded_norms(group.plan, reports) == {}


def test_a_reducer_that_hands_out_values_that_are_not_finite_is_accused():
    group = Group(NUMEL)
    publish = group.prepare("a").session.outbox.publish

    def poison(job, encoded=None):
        group.exchanges["a"].session.outbox.values(job)[0] = np.nan
        publish(job)

    group.exchanges["a"].session.outbox.publish = poison
    poisoned = group.exchanges["a"]
    group.prepare = lambda peer, prepare=group.prepare: poisoned if peer == "a" else prepare(peer)
    outcomes = group.run()
    assert {"a": "NON_FINITE"} in [suspects(outcomes[p]) for p in "bc"]


class Wrong:
    """A lane that sends something else in place of its chunk number 2."""

    def __init__(self, lane, change):
        self._lane, self._change = lane, change

    def __getattr__(self, name):
        return getattr(self._lane, name)

    def send(self, kind, index=0, *payload):
        if kind is Kind.CHUNK and index == 2:
            kind, index, payload = self._change(kind, index, payload)
        self._lane.send(kind, index, *payload)


@pytest.mark.parametrize(
    "change",
    [
        lambda kind, index, payload: (kind, 3, payload),
        lambda kind, index, payload: (kind, 2**63, payload),
        lambda kind, index, payload: (kind, index, ()),
        lambda kind, index, payload: (kind, index, (bytes(2**20),)),
        lambda kind, index, payload: (Kind.END, 0, ()),
        lambda kind, index, payload: (Kind.CALL, 0, (b"x",)),
    ],
)
def test_slices_that_are_not_the_expected_ones_are_named(change):
    group = Group(NUMEL)
    group.links["b"].wrap = lambda lane: Wrong(lane, change)
    outcomes = group.run()
    found = accused(outcomes)
    assert {"b": "protocol error"} in (found["a"], found["c"])
    assert all(set(who) <= {"b"} for peer, who in found.items() if peer != "b")
    none_left()


# ---- silence ------------------------------------------------------------------------------


def test_a_contributor_that_freezes_is_named_by_its_reducers_in_time():
    group = Group(NUMEL, stall=SHORT)
    thaw = threading.Event()

    def freeze(source, target, kind, index):
        if source == "b" and kind is Kind.CHUNK and index == 3:
            thaw.wait(20)

    group.hub.on_frame = freeze
    finish = group.start()
    begin_s = time.monotonic()
    frozen, threads = "b", [t for t in threading.enumerate() if t.name in ("run-a", "run-c")]
    for thread in threads:
        thread.join(10)
    assert time.monotonic() - begin_s < 2 * SHORT.total_seconds() + GOODBYE_S + 2
    thaw.set()
    found = accused(finish())
    assert {frozen: "stalled"} in (found["a"], found["c"])
    assert all(set(who) <= {frozen} for peer, who in found.items() if peer != frozen)
    none_left()


def test_a_reducer_that_never_answers_is_named_by_its_contributors():
    group = Group(NUMEL, stall=SHORT)
    stop = threading.Event()
    group.hub.attach("c", lambda peer, lane, hello: stop.wait(20), lambda blob_hash: None)
    found = accused(group.run(without=["c"]))
    stop.set()
    assert all(set(who) == {"c"} for who in found.values())
    assert set(found["a"].values()) <= {"PEER_STALLED", "did not connect"}
    none_left()


def test_a_peer_that_is_waited_for_for_long_makes_nobody_accuse_those_who_wait():
    """c sends a little in each stall limit; a and b are held back by each other meanwhile."""
    group = Group({"trunk.0": 36_000}, stall=SHORT, chunk=4096)  # three chunks in each part

    def slow(source, target, kind, index):
        if source == "c" and kind is Kind.CHUNK:
            time.sleep(0.7 * SHORT.total_seconds())

    group.hub.on_frame = slow
    outcomes = group.run()
    assert all(isinstance(means, dict) for means in outcomes.values())


def test_a_reducer_whose_means_wait_for_its_slices_is_not_taken_for_frozen():
    group = Group({"trunk.0": 60 * 1024}, stall=SHORT, reducers=["a"])
    slow = 2.5 * SHORT.total_seconds() / 60

    def trickle(source, target, kind, index):
        if source == "b" and kind is Kind.CHUNK:
            time.sleep(slow)

    group.hub.on_frame = trickle
    outbox = group.prepare("a").session.outbox
    exchange = group.exchanges["a"]
    group.prepare = lambda peer, prepare=group.prepare: exchange if peer == "a" else prepare(peer)
    outbox.press()
    finish = group.start()
    time.sleep(2 * SHORT.total_seconds())
    outbox.release()
    assert all(isinstance(means, dict) for means in finish().values())


def test_a_contributor_that_never_comes_is_named():
    group = Group(NUMEL, stall=SHORT)
    group.links["c"].open = lambda peer: time.sleep(4)
    found = accused(group.run(without=["c"]))
    assert set().union(*found.values()) == {"c"}  # one may hear of it from the other first


def test_a_peer_that_can_not_be_reached_is_named_with_the_reason():
    group = Group(NUMEL)
    group.hub.kill("c")
    found = accused(group.run(without=["c"]))
    assert found == {p: {"c": Code.PEER_UNREACHABLE.value} for p in "ab"}


@pytest.mark.parametrize("victim", "abc")
@pytest.mark.parametrize("chunk", [0, 5])
def test_a_peer_killed_in_mid_exchange_is_the_only_one_accused(victim, chunk):
    group = Group({"trunk.0": 60_000})

    def kill(source, target, kind, index):
        if source == victim and kind is Kind.CHUNK and index == chunk:
            group.hub.kill(victim)

    group.hub.on_frame = kill
    found = accused(group.run())
    survivors = [found[p] for p in group.names if p != victim]
    assert all(set(who) <= {victim} for who in survivors)
    assert any(victim in who for who in survivors)
    none_left()


# ---- ending -------------------------------------------------------------------------------


@pytest.mark.parametrize("after_s", [0.0, 0.005, 0.02, 0.06])
def test_cancel_frees_all_threads_at_any_time_and_accuses_nobody(after_s):
    group = Group({"trunk.0": 400_000}, chunk=1024)
    finish = group.start()
    time.sleep(after_s)
    begin_s = time.monotonic()
    group.exchanges["b"].cancel("a newer attempt began")
    outcomes = finish()
    assert time.monotonic() - begin_s < GOODBYE_S + 2
    group.close()
    none_left()
    for outcome in outcomes.values():
        if isinstance(outcome, AttemptFailedError):
            assert outcome.suspects == {} and "a newer attempt began" in outcome.message


def test_cancel_frees_threads_that_wait_for_a_frozen_peer_without_waiting_for_the_stall():
    group = Group(NUMEL, stall=timedelta(seconds=60))
    thaw = threading.Event()

    def freeze(source, target, kind, index):
        if source == "c":
            thaw.wait(20)

    group.hub.on_frame = freeze
    finish = group.start()
    time.sleep(0.2)
    begin_s = time.monotonic()
    for peer in "ab":
        group.exchanges[peer].cancel("the round is decided")
    for thread in [t for t in threading.enumerate() if t.name in ("run-a", "run-b")]:
        thread.join(10)
        assert not thread.is_alive()
    assert time.monotonic() - begin_s < GOODBYE_S + 3
    group.exchanges["c"].cancel("the round is decided")
    thaw.set()
    finish()
    none_left()


def not_finite(group):
    group.deltas["b"]["trunk.0"][100] = np.nan


def unreachable(group):
    def refuse(peer):
        raise SwarmError(Code.PEER_UNREACHABLE, f"{peer}: connection refused")

    group.links["a"].open = refuse


def killed(group):
    def kill(source, target, kind, index):
        if source == "c" and kind is Kind.CHUNK and index == 5:
            group.hub.kill("c")

    group.hub.on_frame = kill


def wrong_slices(group):
    group.links["b"].wrap = lambda lane: Wrong(
        lane, lambda kind, index, payload: (kind, 3, payload)
    )


def superseded(group):
    def supersede(source, target, kind, index):
        if source == "b" and kind is Kind.CHUNK and index == 5:
            group.exchanges["b"].cancel("a newer attempt began")

    group.hub.on_frame = supersede


@pytest.mark.parametrize("harm", [not_finite, unreachable, killed, wrong_slices, superseded])
def test_a_failed_attempt_frees_its_buffers_without_the_garbage_collector(harm):
    def fail():
        group = Group({"trunk.0": 200_000})
        harm(group)
        outcomes = group.run()
        assert not all(isinstance(outcome, dict) for outcome in outcomes.values())
        group.close()
        none_left()
        group.hub.on_frame = None  # it may refer to the group
        for peer, exchange in group.exchanges.items():
            group.registries[peer].remove(exchange)
            assert getattr(exchange.session.failure, "__traceback__", None) is None
        return [weakref.ref(exchange) for exchange in group.exchanges.values()]

    gc.collect()
    gc.disable()
    try:
        exchanges = fail()
        deadline_s = time.monotonic() + 3  # threads of lanes end a little later
        while any(exchange() is not None for exchange in exchanges):
            assert time.monotonic() < deadline_s, "kept by a circle"
            time.sleep(0.02)
    finally:
        gc.enable()


def test_a_reason_reaches_those_who_wait_for_other_things():
    group = Group(NUMEL)
    group.deltas["a"]["trunk.0"][0] = np.nan
    outcomes = group.run()
    assert all("trunk.0 of a is not finite" in o.message for o in outcomes.values())


# ---- strangers ----------------------------------------------------------------------------


def call(group, source, target, **hello):
    lane = group.hub.connect(source, target)
    plan = group.plan
    said = ReduceHello(branch=plan.branch, round=plan.round, ballot=plan.ballot, **hello)
    lane.send(Kind.CALL, 0, Call(reduce=said).SerializeToString())
    frame = lane.receive()
    assert frame.kind is Kind.FAILURE
    return lane.read().decode()


def test_lanes_without_business_are_refused_and_harm_nobody():
    group = Group(NUMEL)
    group.hub.attach("x", lambda peer, lane, hello: None, lambda blob_hash: None)
    hold = threading.Event()
    begun = threading.Event()

    def wait(source, target, kind, index):
        if kind is Kind.CHUNK:
            begun.set()
            hold.wait(10)

    group.hub.on_frame = wait
    finish = group.start()
    begun.wait(10)
    deadline_s = time.monotonic() + 5
    while not {("b", 0), ("c", 0)} <= group.exchanges["a"].session._served:
        assert time.monotonic() < deadline_s
        time.sleep(0.01)
    assert "PEER_REFUSED" in call(group, "x", "a", lane=0, lanes=1)
    assert "here already" in call(group, "b", "a", lane=0, lanes=1)
    assert "PEER_REFUSED" in call(group, "b", "a", lane=1, lanes=2)
    assert "PEER_REFUSED" in call(group, "b", "a", lane=5, lanes=3)
    assert "PEER_REFUSED" in call(group, "b", "a", lane=10**6, lanes=2**31)
    hold.set()
    assert all(isinstance(means, dict) for means in finish().values())


def test_an_error_of_the_links_is_no_hang():
    group = Group(NUMEL)

    def refuse(peer):
        raise SwarmError(Code.PEER_REFUSED, f"{peer} does not know this run")

    group.links["a"].open = refuse
    found = accused(group.run())
    assert set(found["a"].values()) <= {"PEER_REFUSED", "did not connect"} and found["a"]
    none_left()


def test_at_the_deadline_reducers_name_the_contributor_that_they_wait_for():
    group = Group(NUMEL)
    go_on = threading.Event()

    def crawl(source, target, kind, index):
        if source == "b" and kind is Kind.CHUNK and index >= 2:
            go_on.wait(20)

    group.hub.on_frame = crawl
    finish = group.start()
    deadline_s = time.monotonic() + 10
    while not all(e.session._awaited == "b" for p, e in group.exchanges.items() if p != "b"):
        assert time.monotonic() < deadline_s, "nobody waits for b"
        time.sleep(0.01)
    for exchange in list(group.exchanges.values()):
        exchange.expire_slices()
    go_on.set()
    found = accused(finish())
    assert {"b": TOO_SLOW} in found.values()
    assert all(set(who) <= {"b"} for peer, who in found.items() if peer != "b")
    none_left()
