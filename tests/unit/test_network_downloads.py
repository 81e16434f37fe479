"""Downloads on loopback, verified by hash: sources that lack, damage, delay or break off."""

from __future__ import annotations

import threading
import time
from datetime import timedelta

import pytest
from lane_nodes import (
    BLOB,
    BLOB_HASH,
    SHORT,
    WAIT,
    Node,
    error_of,
    exchange,
    failure_after,
)
from polling import until

from swarm.errors import Code, SwarmError
from swarm.hashing import bulk_hash
from swarm.network import calls, lane_pool
from swarm.network.calls import CHUNK_BYTES
from swarm.network.framing import HEADER, SocketLane
from swarm.network.lane import Kind, Lane
from swarm.wire.data_pb2 import Call, DownloadRequest


def test_blob_is_downloaded_and_verified(nodes):
    alice, bob = nodes
    into = bytearray(len(BLOB))
    bob.plane.download_blob([alice.record], BLOB_HASH, memoryview(into), WAIT)
    assert bytes(into) == BLOB
    assert bob.plane.traffic.received[alice.peer_id] >= len(BLOB)


def test_empty_blob_can_be_downloaded(nodes):
    alice, bob = nodes
    nothing = bulk_hash(b"")
    alice.blobs[nothing] = b""
    bob.plane.download_blob([alice.record], nothing, memoryview(bytearray()), WAIT)
    with pytest.raises(SwarmError):  # it was asked for, and not only taken as there
        bob.plane.download_blob([alice.record], b"x" * 32, memoryview(bytearray()), WAIT)


@pytest.mark.parametrize("blob_hash, offset", [(b"x" * 32, 0), (BLOB_HASH, len(BLOB) + 1)])
def test_unknown_blob_or_offset_is_unavailable(nodes, blob_hash, offset):
    alice, bob = nodes
    lane = bob.plane.open_lane(alice.record, WAIT)
    request = DownloadRequest(blob_hash=blob_hash, offset=offset, length=2**63)
    call = Call(download=request).SerializeToString()
    assert failure_after(lane, (Kind.CALL, 0, call), (Kind.END,)).startswith("FRAGMENT_UNAVAILABLE")


def test_nobody_having_the_blob_is_an_error_of_its_own(nodes):
    alice, bob = nodes
    into = memoryview(bytearray(4))
    error = error_of(lambda: bob.plane.download_blob([alice.record], b"x" * 32, into, WAIT))
    assert error.code is Code.FRAGMENT_UNAVAILABLE and alice.peer_id in error.message
    error = error_of(lambda: bob.plane.download_blob([], b"x" * 32, into, WAIT))
    assert error.code is Code.FRAGMENT_UNAVAILABLE


def test_blob_with_other_bytes_than_its_hash_is_refused_and_the_next_source_asked(nodes):
    alice, bob = nodes
    alice.blobs[BLOB_HASH] = BLOB[:-1] + b"!"
    into = bytearray(len(BLOB))

    def download(*sources: Node) -> None:
        records = [source.record for source in sources]
        bob.plane.download_blob(records, BLOB_HASH, memoryview(into), WAIT)

    assert error_of(lambda: download(alice)).code is Code.FRAGMENT_CORRUPT
    honest = Node()
    try:
        download(alice, honest)
    finally:
        honest.plane.stop()
    assert bytes(into) == BLOB


@pytest.mark.parametrize("size", [len(BLOB) - 1, len(BLOB) + 1])
def test_blob_of_another_size_than_expected_is_corrupt(nodes, size):
    alice, bob = nodes
    into = memoryview(bytearray(size))
    error = error_of(lambda: bob.plane.download_blob([alice.record], BLOB_HASH, into, WAIT))
    assert error.code is Code.FRAGMENT_CORRUPT


@pytest.mark.parametrize("whole", [False, True])
def test_source_that_dies_in_the_middle_is_replaced_where_it_stopped(nodes, whole, monkeypatch):
    """If the first part was a lie (`whole`), all of it is asked of the honest source."""
    alice, bob = nodes
    dying = Node()
    asked: list[tuple[str, int]] = []

    def serve(node: Node, limit: int | None):
        def send(lane: Lane, request: DownloadRequest, blob: memoryview) -> None:
            asked.append((node.peer_id, request.offset))
            end = len(blob) if limit is None else limit
            for offset in range(request.offset, end, CHUNK_BYTES):
                lane.send(Kind.CHUNK, offset, blob[offset : min(end, offset + CHUNK_BYTES)])
            if limit is not None:
                raise SwarmError(Code.PEER_UNREACHABLE, "dying")
            lane.send(Kind.END, len(blob))

        return send

    if whole:
        dying.blobs[BLOB_HASH] = b"!" + BLOB[1:]
    monkeypatch.setattr(dying.plane._service, "_send_blob", serve(dying, CHUNK_BYTES))
    monkeypatch.setattr(alice.plane._service, "_send_blob", serve(alice, None))
    into = bytearray(len(BLOB))
    try:
        sources = [dying.record, alice.record]
        bob.plane.download_blob(sources, BLOB_HASH, memoryview(into), WAIT)
    finally:
        dying.plane.stop()
    assert bytes(into) == BLOB
    expected = [(dying.peer_id, 0), (alice.peer_id, CHUNK_BYTES)]
    assert asked == ([*expected, (alice.peer_id, 0)] if whole else expected)


@pytest.mark.parametrize(
    "frame",
    [
        (Kind.CHUNK, 1, b"x"),  # not where the download stands
        (Kind.CHUNK, 0, bytes(101)),  # beyond the blob's end
        (Kind.CHUNK, 0, b""),  # no progress
        (Kind.CALL, 0, b""),
        (Kind.END, 99),
    ],
)
def test_a_source_that_sends_what_was_not_asked_for_is_corrupt(nodes, frame, monkeypatch):
    alice, bob = nodes

    def send(lane: Lane, request: DownloadRequest, blob: memoryview | None) -> None:
        lane.send(*frame)
        lane.receive()  # until the other one hangs up

    monkeypatch.setattr(alice.plane._service, "_send_blob", send)
    into = memoryview(bytearray(100))
    error = error_of(lambda: bob.plane.download_blob([alice.record], BLOB_HASH, into, WAIT))
    assert error.code is Code.FRAGMENT_CORRUPT


def test_a_source_that_trickles_is_given_up_at_the_time_limit(nodes, monkeypatch):
    alice, bob = nodes

    def trickle(lane: Lane, request: DownloadRequest, blob: memoryview) -> None:
        for offset in range(10**6):
            lane.send(Kind.CHUNK, offset, blob[offset : offset + 1])
            time.sleep(0.02)

    monkeypatch.setattr(alice.plane._service, "_send_blob", trickle)
    into = memoryview(bytearray(len(BLOB)))
    limit = timedelta(milliseconds=300)
    began = time.monotonic()
    error = error_of(lambda: bob.plane.download_blob([alice.record], BLOB_HASH, into, limit))
    assert error.code is Code.PEER_UNREACHABLE
    assert time.monotonic() - began < 3.0


@pytest.mark.parametrize("keeping_alive", ["pulses", "single bytes"])
def test_a_source_that_only_keeps_the_lane_alive_is_given_up_and_the_next_one_asked(
    nodes, monkeypatch, keeping_alive
):
    alice, bob = nodes
    with_it = Node()

    def keep_alive(lane: SocketLane, request: DownloadRequest, blob: memoryview) -> None:
        if keeping_alive == "single bytes":
            lane._socket.write([memoryview(HEADER.pack(Kind.CHUNK, bytes(3), 2**20, 0))])
        for _ in range(200):
            if keeping_alive == "pulses":
                lane.send(Kind.PULSE)
            else:
                lane._socket.write([memoryview(b"x")])
            time.sleep(0.02)

    monkeypatch.setattr(alice.plane._service, "_send_blob", keep_alive)
    into = bytearray(len(BLOB))
    limit = timedelta(milliseconds=500)
    began = time.monotonic()
    try:
        sources = [alice.record, with_it.record]
        bob.plane.download_blob(sources, BLOB_HASH, memoryview(into), limit)
    finally:
        with_it.plane.stop()
    assert bytes(into) == BLOB
    assert time.monotonic() - began < 3.0


def test_a_download_that_pulses_instead_of_ending_its_request_holds_no_lane(nodes, monkeypatch):
    alice, bob = nodes
    monkeypatch.setattr(calls, "CALL_STALL", SHORT)
    lane = bob.plane.open_lane(alice.record, WAIT)
    request = DownloadRequest(blob_hash=BLOB_HASH, length=5)
    lane.send(Kind.CALL, 0, Call(download=request).SerializeToString())

    def is_cut() -> bool:
        try:
            lane.send(Kind.PULSE)
        except SwarmError:
            return True
        return False

    until(is_cut)
    bob.plane.release(lane)


def test_an_idle_lane_that_its_server_may_be_ending_is_not_taken(nodes, monkeypatch):
    alice, bob = nodes
    lane = bob.plane.open_lane(alice.record, WAIT)
    exchange(lane, b"x")
    bob.plane.release(lane)
    monkeypatch.setattr(lane_pool, "IDLE_KEEP", timedelta(0))
    other = bob.plane.open_lane(alice.record, WAIT)
    assert other is not lane
    bob.plane.release(other)


def test_a_certificate_with_words_around_it_is_the_certificate(nodes):
    alice, bob = nodes
    record = alice.record
    record.tls_certificate = "grüße\n".encode() + record.tls_certificate
    bob.plane.release(bob.plane.open_lane(record, WAIT))


def test_a_source_that_freezes_is_given_up_at_the_time_limit(nodes):
    alice, bob = nodes
    frozen = threading.Event()

    def freeze(blob_hash: bytes) -> None:
        frozen.wait(5)

    alice.plane.set_blob_source(freeze)
    into = memoryview(bytearray(len(BLOB)))
    error = error_of(lambda: bob.plane.download_blob([alice.record], BLOB_HASH, into, SHORT))
    frozen.set()
    assert error.code is Code.PEER_STALLED
