"""The data plane on loopback, with real TLS and sealed lanes: calls, reuse, counts."""

from __future__ import annotations

import threading
import time
from datetime import timedelta

import pytest
from lane_nodes import (
    BLOB,
    BLOB_HASH,
    RUN,
    SHORT,
    WAIT,
    Node,
    begin,
    error_of,
    exchange,
    failure_after,
)
from polling import until

from swarm.errors import Code, SwarmError
from swarm.identity import Identity
from swarm.network.data_plane import DataPlane
from swarm.network.lane import Kind, Lane
from swarm.network.lane_pool import MAX_IDLE_PER_PEER
from swarm.wire.data_pb2 import PLAIN, Call, ReduceHello


def test_chunks_go_up_and_down_with_the_authenticated_sender(nodes):
    alice, bob = nodes
    seen = []

    def handler(peer: str, lane: Lane, hello: ReduceHello) -> None:
        seen.append((peer, lane.peer, lane.path, hello.round))
        while lane.receive().kind is Kind.CHUNK:
            lane.send(Kind.CHUNK, 0, lane.read()[::-1])
        lane.send(Kind.END)

    alice.plane.set_reduce_handler(handler)
    lane = bob.plane.open_lane(alice.record, WAIT)
    assert (lane.peer, lane.path) == (alice.peer_id, "direct")
    assert exchange(lane, b"abc", b"def") == [b"cba", b"fed"]
    bob.plane.release(lane)
    assert seen == [(bob.peer_id, bob.peer_id, "direct", 1)]


def test_a_lane_at_rest_serves_the_next_call_and_several_serve_at_once(nodes):
    alice, bob = nodes
    first, second = (bob.plane.open_lane(alice.record, WAIT) for _ in range(2))
    assert first is not second
    assert exchange(first, b"1") == [b"1"] and exchange(second, b"2") == [b"2"]
    bob.plane.release(first)
    bob.plane.release(second)
    again = {bob.plane.open_lane(alice.record, WAIT) for _ in range(2)}
    assert again == {first, second}
    for lane in again:
        assert exchange(lane, b"ab") == [b"ba"]
        bob.plane.release(lane)


def test_no_more_than_a_few_idle_lanes_are_kept(nodes):
    alice, bob = nodes
    opened = [bob.plane.open_lane(alice.record, WAIT) for _ in range(MAX_IDLE_PER_PEER + 3)]
    for lane in opened:
        bob.plane.release(lane)
    kept = [bob.plane.open_lane(alice.record, WAIT) for _ in range(MAX_IDLE_PER_PEER + 1)]
    assert len(set(kept) & set(opened)) == MAX_IDLE_PER_PEER


def test_a_lane_that_is_in_a_call_or_broken_is_not_used_again(nodes):
    alice, bob = nodes
    lane = bob.plane.open_lane(alice.record, WAIT)
    begin(lane)
    bob.plane.release(lane)
    broken = bob.plane.open_lane(alice.record, WAIT)
    assert broken is not lane
    broken.cancel()
    bob.plane.release(broken)
    fresh = bob.plane.open_lane(alice.record, WAIT)
    assert fresh is not broken
    assert exchange(fresh, b"ab") == [b"ba"]


def test_idle_lanes_are_closed_by_the_server_after_a_while_and_not_handed_out_then():
    alice, bob = Node(idle_limit=SHORT), Node()
    try:
        lane = bob.plane.open_lane(alice.record, WAIT)
        exchange(lane, b"a")
        bob.plane.release(lane)
        until(lane.hung_up)
        fresh = bob.plane.open_lane(alice.record, WAIT)
        assert fresh is not lane and exchange(fresh, b"ab") == [b"ba"]
    finally:
        bob.plane.stop()
        alice.plane.stop()


def test_pulses_do_not_keep_a_lane_without_a_call_open():
    alice, bob = Node(idle_limit=SHORT), Node()
    try:
        lane = bob.plane.open_lane(alice.record, WAIT)

        def pulse_for_ever() -> None:
            while True:
                lane.send(Kind.PULSE)
                time.sleep(0.02)

        began = time.monotonic()
        assert error_of(pulse_for_ever).code is Code.PEER_UNREACHABLE
        assert time.monotonic() - began < 3.0
    finally:
        bob.plane.stop()
        alice.plane.stop()


def test_error_of_the_reducer_reaches_the_opener_in_words(nodes):
    alice, bob = nodes

    def refuse(peer: str, lane: Lane, hello: ReduceHello) -> None:
        raise SwarmError(Code.ATTEMPT_FAILED, "a newer ballot")

    alice.plane.set_reduce_handler(refuse)
    lane = bob.plane.open_lane(alice.record, WAIT)
    begin(lane)
    assert failure_after(lane, (Kind.CHUNK, 0, bytes(10))) == "ATTEMPT_FAILED: a newer ballot"
    bob.plane.release(lane)
    assert bob.plane.open_lane(alice.record, WAIT) is not lane


def test_a_defect_in_the_handler_ends_the_call_and_not_the_server(nodes, caplog):
    alice, bob = nodes

    def crash(peer: str, lane: Lane, hello: ReduceHello) -> None:
        raise KeyError("secret detail")

    alice.plane.set_reduce_handler(crash)
    lane = bob.plane.open_lane(alice.record, WAIT)
    begin(lane)
    assert failure_after(lane) == "INTERNAL: KeyError"
    assert "secret detail" in caplog.text
    bob.plane.download_blob([alice.record], BLOB_HASH, memoryview(bytearray(len(BLOB))), WAIT)


def test_a_handler_that_returns_in_the_middle_of_a_call_ends_the_lane(nodes):
    alice, bob = nodes
    alice.plane.set_reduce_handler(lambda peer, lane, hello: None)
    lane = bob.plane.open_lane(alice.record, WAIT)
    begin(lane)
    assert failure_after(lane) == "INTERNAL: the call ended early"


@pytest.mark.parametrize(
    "frame, code",
    [
        ((Kind.CHUNK, 0, b"x"), Code.MESSAGE_MALFORMED),  # outside of a call
        ((Kind.END,), Code.MESSAGE_MALFORMED),
        ((Kind.CALL, 0, b"\xff\xff"), Code.MESSAGE_MALFORMED),
        ((Kind.CALL, 0, b""), Code.PEER_REFUSED),  # of no kind
        ((Kind.CALL, 0, bytes(2**16 + 1)), Code.MESSAGE_OVERSIZED),
    ],
)
def test_a_peer_that_breaks_the_rules_of_calls_is_told_and_counted(nodes, frame, code):
    alice, bob = nodes
    lane = bob.plane.open_lane(alice.record, WAIT)
    assert failure_after(lane, frame).startswith(code.value)
    bob.plane.release(lane)
    expected = {} if code is Code.PEER_REFUSED else {code.value: 1}
    until(lambda: alice.plane.refused == expected)


def test_a_node_that_does_not_reduce_says_so(nodes):
    _, bob = nodes
    quiet = DataPlane(Identity.generate(), RUN)
    try:
        record = bob.record
        record.peer_id = quiet._pool._handshake.identity.peer_id
        record.data_addresses[:] = [quiet.start("127.0.0.1", 0)]
        record.tls_certificate = quiet.certificate_pem
        lane = bob.plane.open_lane(record, WAIT)
        begin(lane)
        assert failure_after(lane).startswith("PEER_REFUSED")
    finally:
        quiet.stop()


def test_server_that_stops_cuts_its_lanes_promptly(nodes):
    alice, bob = nodes
    lane = bob.plane.open_lane(alice.record, WAIT)
    begin(lane)
    began = time.monotonic()
    threading.Timer(0.05, alice.plane.stop).start()
    assert error_of(lane.receive).code is Code.PEER_UNREACHABLE
    assert time.monotonic() - began < 2.0
    assert error_of(lambda: bob.plane.open_lane(alice.record, WAIT)).code is Code.PEER_UNREACHABLE


def test_stopping_ends_the_own_calls_too_and_leaves_no_thread(nodes):
    alice, _ = nodes
    before = threading.active_count()
    carol = Node()
    lane = carol.plane.open_lane(alice.record, WAIT)
    begin(lane)
    waiting = threading.Thread(target=lambda: error_of(lane.receive))
    waiting.start()
    carol.plane.stop()
    waiting.join(5)
    assert not waiting.is_alive()
    assert error_of(lambda: carol.plane.open_lane(alice.record, WAIT)).code is (
        Code.PEER_UNREACHABLE
    )
    carol.plane.release(lane)
    until(lambda: threading.active_count() <= before)


# ---- the rest -------------------------------------------------------------------------------


def test_restarted_peer_with_a_new_certificate_is_reached_by_its_new_record(nodes):
    alice, bob = nodes
    lane = bob.plane.open_lane(alice.record, WAIT)
    bob.plane.release(lane)
    alice.plane.stop()
    again = DataPlane(alice.identity, RUN)
    again.set_blob_source(alice.blob)
    again.start("127.0.0.1", alice.port)
    into = memoryview(bytearray(len(BLOB)))
    limit = timedelta(seconds=3)
    try:
        stale = error_of(lambda: bob.plane.download_blob([alice.record], BLOB_HASH, into, limit))
        assert stale.code is Code.PEER_UNREACHABLE
        record = alice.record
        record.tls_certificate = again.certificate_pem
        bob.plane.download_blob([record], BLOB_HASH, into, limit)
    finally:
        again.stop()


def test_taken_port_is_a_typed_error(nodes):
    alice, _ = nodes
    other = DataPlane(Identity.generate(), RUN)
    error = error_of(lambda: other.start("127.0.0.1", alice.port))
    other.stop()
    assert error.code is Code.PORT_IN_USE


def test_payload_bytes_are_counted_per_peer_on_both_ends(nodes):
    alice, bob = nodes
    lane = bob.plane.open_lane(alice.record, WAIT)
    call = Call(reduce=ReduceHello(branch=b"b", round=1, lanes=1)).ByteSize()
    exchange(lane, bytes(1000), bytes(1000))
    assert bob.plane.traffic.sent == {alice.peer_id: 2000 + call}
    assert bob.plane.traffic.received == {alice.peer_id: 2000}
    assert alice.plane.traffic.received == {bob.peer_id: 2000 + call}
    until(lambda: alice.plane.traffic.sent == {bob.peer_id: 2000})


def test_plain_lanes_only_where_both_sides_agree_to_them():
    paths = {}
    for pair in ((PLAIN, PLAIN), (PLAIN, None), (None, PLAIN)):
        alice, bob = (Node(**({} if p is None else {"protection": p})) for p in pair)
        try:
            lane = bob.plane.open_lane(alice.record, WAIT)
            assert exchange(lane, b"ab") == [b"ba"]
            paths[pair] = lane.path
        finally:
            bob.plane.stop()
            alice.plane.stop()
    assert paths == {(PLAIN, PLAIN): "plain", (PLAIN, None): "direct", (None, PLAIN): "direct"}
