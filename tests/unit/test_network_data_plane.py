"""The data plane on loopback, with real TLS and real gRPC."""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Iterator
from datetime import timedelta

import grpc
import pytest

from swarm.errors import Code, SwarmError
from swarm.identity import Identity
from swarm.network import data_client
from swarm.network.auth import TOKEN_KEY, make_token
from swarm.network.data_client import CHANNEL_OPTIONS, channel_target
from swarm.network.data_plane import DataPlane
from swarm.network.data_server import CHUNK_BYTES, MAX_FRAME_BYTES
from swarm.network.tls import certificate_sha256
from swarm.wire.data_pb2 import DownloadRequest, ReduceChunk, ReduceFrame
from swarm.wire.data_pb2_grpc import DataPlaneStub
from swarm.wire.membership_pb2 import PeerRecord

RUN = b"r" * 32
WAIT = timedelta(seconds=10)
BLOB = bytes(range(256)) * 4096 * 3 + b"the end"  # three chunks and a rest
BLOB_SHA256 = hashlib.sha256(BLOB).digest()


class Node:
    """One peer's data plane, listening, with its record."""

    def __init__(self, **options) -> None:
        self.identity = Identity.generate()
        self.run_id = options.pop("run_id", RUN)
        self.plane = DataPlane(self.identity, self.run_id, **options)
        self.address = self.plane.start("127.0.0.1", 0)
        self.blobs = {BLOB_SHA256: BLOB}
        self.plane.set_blob_source(self.blob)
        self.plane.set_reduce_handler(echo)

    def blob(self, sha256: bytes) -> memoryview | None:
        return memoryview(self.blobs[sha256]) if sha256 in self.blobs else None

    @property
    def peer_id(self) -> str:
        return self.identity.peer_id

    @property
    def record(self) -> PeerRecord:
        return PeerRecord(
            peer_id=self.peer_id,
            data_addresses=[self.address],
            tls_certificate=self.plane.certificate_pem,
        )


def echo(peer: str, frames: Iterator[ReduceFrame]) -> Iterator[ReduceFrame]:
    yield from frames


def chunk(data: bytes) -> ReduceFrame:
    return ReduceFrame(chunk=ReduceChunk(job=1, data=data))


@pytest.fixture
def nodes() -> Iterator[tuple[Node, Node]]:
    alice, bob = Node(), Node()
    yield alice, bob
    bob.plane.stop()
    alice.plane.stop()


def error_of(stream) -> SwarmError:
    with pytest.raises(SwarmError) as caught:
        list(stream)
    return caught.value


def status_of(node: Node, metadata, certificate: bytes | None = None) -> grpc.StatusCode:
    """What a client gets that speaks gRPC but is not ours."""
    credentials = grpc.ssl_channel_credentials(certificate or node.plane.certificate_pem)
    with grpc.secure_channel(node.address, credentials, options=CHANNEL_OPTIONS) as channel:
        call = DataPlaneStub(channel).Download(
            DownloadRequest(sha256=BLOB_SHA256), metadata=metadata, timeout=5
        )
        with pytest.raises(grpc.RpcError) as caught:
            list(call)
    return caught.value.code()


def token(client: Identity, node: Node, **changes) -> tuple[tuple[str, bytes], ...]:
    fields = {
        "run_id": RUN,
        "server": node.peer_id,
        "certificate_sha256": certificate_sha256(node.plane.certificate_pem),
        "now_ms": int(time.time() * 1000),
    }
    return make_token(client, **{**fields, **changes})


def test_frames_go_up_and_down_with_the_authenticated_sender(nodes):
    alice, bob = nodes
    seen = []

    def handler(peer: str, frames: Iterator[ReduceFrame]) -> Iterator[ReduceFrame]:
        seen.append(peer)
        for frame in frames:
            yield chunk(frame.chunk.data[::-1])

    alice.plane.set_reduce_handler(handler)
    with bob.plane.reduce_stream(alice.record, iter([chunk(b"abc"), chunk(b"def")]), WAIT) as got:
        assert [frame.chunk.data for frame in got] == [b"cba", b"fed"]
    assert seen == [bob.peer_id]


def test_blob_is_downloaded_in_chunks_and_verified(nodes):
    alice, bob = nodes
    into = bytearray(len(BLOB))
    bob.plane.download_blob([alice.record], BLOB_SHA256, memoryview(into), WAIT)
    assert bytes(into) == BLOB
    sizes = [len(c.data) for c in bob.plane.download(alice.record, BLOB_SHA256, 0, WAIT)]
    assert max(sizes) == CHUNK_BYTES and sum(sizes) == len(BLOB)


def test_download_resumes_at_an_offset(nodes):
    alice, bob = nodes
    chunks = list(bob.plane.download(alice.record, BLOB_SHA256, len(BLOB) - 7, WAIT))
    assert [(c.offset, c.total_bytes, c.data) for c in chunks] == [
        (len(BLOB) - 7, len(BLOB), b"the end")
    ]


def test_empty_blob_can_be_downloaded(nodes):
    alice, bob = nodes
    nothing = hashlib.sha256(b"").digest()
    alice.blobs[nothing] = b""
    bob.plane.download_blob([alice.record], nothing, memoryview(bytearray()), WAIT)


def test_unknown_blob_is_unavailable(nodes):
    alice, bob = nodes
    error = error_of(bob.plane.download(alice.record, b"x" * 32, 0, WAIT))
    assert error.code is Code.FRAGMENT_UNAVAILABLE
    error = error_of(bob.plane.download(alice.record, BLOB_SHA256, len(BLOB) + 1, WAIT))
    assert error.code is Code.FRAGMENT_UNAVAILABLE


def test_blob_with_other_bytes_than_its_hash_is_refused_and_the_next_source_asked(nodes):
    alice, bob = nodes
    alice.blobs[BLOB_SHA256] = BLOB[:-1] + b"!"
    into = bytearray(len(BLOB))
    with pytest.raises(SwarmError) as caught:
        bob.plane.download_blob([alice.record], BLOB_SHA256, memoryview(into), WAIT)
    assert caught.value.code is Code.FRAGMENT_CORRUPT
    honest = Node()
    try:
        sources = [alice.record, honest.record]
        bob.plane.download_blob(sources, BLOB_SHA256, memoryview(into), WAIT)
    finally:
        honest.plane.stop()
    assert bytes(into) == BLOB


@pytest.mark.parametrize("size", [len(BLOB) - 1, len(BLOB) + 1])
def test_blob_of_another_size_than_expected_is_corrupt(nodes, size):
    alice, bob = nodes
    with pytest.raises(SwarmError) as caught:
        bob.plane.download_blob([alice.record], BLOB_SHA256, memoryview(bytearray(size)), WAIT)
    assert caught.value.code is Code.FRAGMENT_CORRUPT


def test_source_that_dies_in_the_middle_is_replaced_where_it_stopped(nodes):
    alice, bob = nodes
    dying = Node()
    asked = []

    def blob_then_death(sha256: bytes) -> memoryview:
        return memoryview(BLOB)

    dying.plane.set_blob_source(blob_then_death)
    real_download = bob.plane.download

    def download(record: PeerRecord, sha256: bytes, offset: int, timeout: timedelta):
        asked.append((record.peer_id, offset))
        stream = real_download(record, sha256, offset, timeout)
        if record.peer_id != dying.peer_id:
            return stream
        return cut_after_first(stream)

    class cut_after_first:  # noqa: N801
        def __init__(self, stream) -> None:
            self.stream, self.count = stream, 0

        def __iter__(self):
            return self

        def __next__(self):
            self.count += 1
            if self.count == 2:
                dying.plane.stop()
                self.stream.cancel()
            return next(self.stream)

        def __enter__(self):
            return self

        def __exit__(self, *error) -> None:
            self.stream.cancel()

    bob.plane.download = download
    into = bytearray(len(BLOB))
    sources = [dying.record, alice.record]
    bob.plane.download_blob(sources, BLOB_SHA256, memoryview(into), WAIT)
    assert bytes(into) == BLOB
    assert asked == [(dying.peer_id, 0), (alice.peer_id, CHUNK_BYTES)]


def test_server_with_another_certificate_than_the_record_says_is_not_talked_to(nodes):
    alice, bob = nodes
    record = alice.record
    record.tls_certificate = bob.plane.certificate_pem
    error = error_of(bob.plane.download(record, BLOB_SHA256, 0, timedelta(seconds=3)))
    assert error.code is Code.PEER_UNREACHABLE
    assert alice.plane.refused == {}


def test_record_without_a_certificate_or_address_is_a_typed_error(nodes):
    alice, bob = nodes
    record = alice.record
    record.tls_certificate = b"no certificate"
    with pytest.raises(SwarmError) as caught:
        bob.plane.download(record, BLOB_SHA256, 0, WAIT)
    assert caught.value.code is Code.MESSAGE_MALFORMED
    record = alice.record
    del record.data_addresses[:]
    with pytest.raises(SwarmError) as caught:
        bob.plane.download(record, BLOB_SHA256, 0, WAIT)
    assert caught.value.code is Code.PEER_UNREACHABLE


def test_call_without_a_token_is_refused_and_counted(nodes):
    alice, _ = nodes
    assert status_of(alice, ()) is grpc.StatusCode.UNAUTHENTICATED
    assert status_of(alice, ((TOKEN_KEY, b"junk"),)) is grpc.StatusCode.UNAUTHENTICATED
    assert alice.plane.refused == {"MESSAGE_UNSIGNED": 1, "MESSAGE_MALFORMED": 1}


def test_token_for_another_server_or_certificate_or_run_or_time_is_refused(nodes):
    alice, bob = nodes
    client = Identity.generate()
    for wrong in (
        token(client, bob),  # replayed by bob
        token(client, alice, certificate_sha256=b"x" * 32),
        token(client, alice, run_id=b"s" * 32),
        token(client, alice, now_ms=int(time.time() * 1000) - 120_000),
    ):
        assert status_of(alice, wrong) is grpc.StatusCode.UNAUTHENTICATED
    assert alice.plane.refused == {
        "MESSAGE_MALFORMED": 1,
        "SIGNATURE_INVALID": 1,
        "MESSAGE_WRONG_RUN": 1,
        "MESSAGE_EXPIRED": 1,
    }


def test_refused_client_of_ours_gets_the_code_as_a_swarm_error(nodes):
    alice, _ = nodes
    stranger = DataPlane(Identity.generate(), b"s" * 32)
    try:
        error = error_of(stranger.download(alice.record, BLOB_SHA256, 0, WAIT))
    finally:
        stranger.stop()
    assert error.code is Code.PEER_REFUSED
    assert "MESSAGE_WRONG_RUN" in error.message


def test_oversized_frame_is_not_sent_and_not_let_in(nodes, monkeypatch):
    alice, bob = nodes
    frames = [chunk(b"x" * (MAX_FRAME_BYTES + 1))]
    error = error_of(bob.plane.reduce_stream(alice.record, iter(frames), WAIT))
    assert error.code is Code.MESSAGE_OVERSIZED
    monkeypatch.setattr(data_client, "MAX_FRAME_BYTES", 2**30)
    error = error_of(bob.plane.reduce_stream(alice.record, iter(frames), WAIT))
    assert error.code is Code.PEER_REFUSED and "MESSAGE_OVERSIZED" in error.message
    assert alice.plane.refused == {"MESSAGE_OVERSIZED": 1}


def test_error_of_the_reducer_reaches_the_caller(nodes):
    alice, bob = nodes

    def refuse(peer: str, frames: Iterator[ReduceFrame]) -> Iterator[ReduceFrame]:
        yield next(frames)
        raise SwarmError(Code.ATTEMPT_FAILED, "a newer ballot")

    alice.plane.set_reduce_handler(refuse)
    error = error_of(bob.plane.reduce_stream(alice.record, iter([chunk(b"a")]), WAIT))
    assert error.code is Code.PEER_REFUSED
    assert "ATTEMPT_FAILED: a newer ballot" in error.message


def test_error_in_the_outgoing_frames_comes_out_of_the_stream_and_cuts_the_other_side(nodes):
    alice, bob = nodes
    began, cut = threading.Event(), threading.Event()

    def handler(peer: str, frames: Iterator[ReduceFrame]) -> Iterator[ReduceFrame]:
        try:
            yield next(frames)
            began.set()
            yield from frames
        except SwarmError as error:
            if error.code is Code.PEER_UNREACHABLE:
                cut.set()
            raise

    def frames() -> Iterator[ReduceFrame]:
        yield chunk(b"a")
        began.wait(5)
        raise SwarmError(Code.NON_FINITE, "fragment trunk.0")

    alice.plane.set_reduce_handler(handler)
    error = error_of(bob.plane.reduce_stream(alice.record, frames(), WAIT))
    assert error.code is Code.NON_FINITE
    assert cut.wait(5)


def open_ended(stop: threading.Event) -> Iterator[ReduceFrame]:
    yield chunk(b"first")
    stop.wait(20)


def test_server_that_dies_cuts_the_stream_promptly(nodes):
    alice, bob = nodes
    stop = threading.Event()
    with bob.plane.reduce_stream(alice.record, open_ended(stop), WAIT) as answers:
        answers.on_end(stop.set)
        assert next(answers).chunk.data == b"first"
        began = time.monotonic()
        threading.Thread(target=alice.plane.stop).start()
        assert error_of(answers).code is Code.PEER_UNREACHABLE
    assert time.monotonic() - began < 3
    assert stop.is_set()


def test_cancelled_stream_ends_on_both_sides(nodes):
    alice, bob = nodes
    stop, cut = threading.Event(), threading.Event()

    def handler(peer: str, frames: Iterator[ReduceFrame]) -> Iterator[ReduceFrame]:
        try:
            yield from frames
        except SwarmError:
            cut.set()
            raise

    alice.plane.set_reduce_handler(handler)
    answers = bob.plane.reduce_stream(alice.record, open_ended(stop), WAIT)
    answers.on_end(stop.set)
    next(answers)
    threading.Timer(0.05, answers.cancel).start()
    assert error_of(answers).code is Code.PEER_UNREACHABLE
    assert cut.wait(5) and stop.wait(5)


def test_call_ends_at_its_time_limit(nodes):
    alice, bob = nodes
    stop = threading.Event()
    answers = bob.plane.reduce_stream(alice.record, open_ended(stop), timedelta(milliseconds=300))
    answers.on_end(stop.set)
    error = error_of(answers)
    assert error.code is Code.PEER_UNREACHABLE and "deadline" in error.message


def test_silent_client_is_cut_off_at_the_idle_limit():
    alice, bob = Node(idle_limit=timedelta(milliseconds=300)), Node()
    stop = threading.Event()
    try:
        answers = bob.plane.reduce_stream(alice.record, open_ended(stop), WAIT)
        answers.on_end(stop.set)
        assert next(answers).chunk.data == b"first"
        began = time.monotonic()
        assert error_of(answers).code is Code.PEER_UNREACHABLE
        assert time.monotonic() - began < 3
    finally:
        bob.plane.stop()
        alice.plane.stop()


def test_restarted_peer_with_a_new_certificate_is_reached_by_its_new_record(nodes):
    alice, bob = nodes
    list(bob.plane.download(alice.record, BLOB_SHA256, 0, WAIT))
    port = int(alice.address.rsplit(":", 1)[1])
    alice.plane.stop()
    again = DataPlane(alice.identity, RUN)
    again.set_blob_source(alice.blob)
    again.start("127.0.0.1", port)
    try:
        stale = error_of(bob.plane.download(alice.record, BLOB_SHA256, 0, timedelta(seconds=3)))
        assert stale.code is Code.PEER_UNREACHABLE
        record = alice.record
        record.tls_certificate = again.certificate_pem
        chunks = list(bob.plane.download(record, BLOB_SHA256, 0, WAIT))
        assert sum(len(c.data) for c in chunks) == len(BLOB)
    finally:
        again.stop()


def test_taken_port_is_a_typed_error(nodes):
    alice, _ = nodes
    other = DataPlane(Identity.generate(), RUN)
    with pytest.raises(SwarmError) as caught:
        other.start("127.0.0.1", int(alice.address.rsplit(":", 1)[1]))
    other.stop()
    assert caught.value.code is Code.PORT_IN_USE


def test_bytes_are_counted_per_peer_on_both_ends(nodes):
    alice, bob = nodes
    frame = chunk(b"x" * 1000)
    list(bob.plane.reduce_stream(alice.record, iter([frame] * 3), WAIT))
    size = 3 * frame.ByteSize()
    assert bob.plane.traffic.sent == {alice.peer_id: size}
    assert bob.plane.traffic.received == {alice.peer_id: size}
    assert alice.plane.traffic.received == {bob.peer_id: size}
    assert alice.plane.traffic.sent == {bob.peer_id: size}


def test_sender_is_held_back_by_a_reader_that_does_not_read(nodes):
    alice, bob = nodes
    go, drawn = threading.Event(), []

    def slow(peer: str, frames: Iterator[ReduceFrame]) -> Iterator[ReduceFrame]:
        go.wait(10)
        for _ in frames:
            pass
        yield ReduceFrame(failure="done")

    def frames() -> Iterator[ReduceFrame]:
        for number in range(100):
            drawn.append(number)
            yield chunk(b"x" * CHUNK_BYTES)

    alice.plane.set_reduce_handler(slow)
    answers = bob.plane.reduce_stream(alice.record, frames(), timedelta(seconds=30))
    deadline = time.monotonic() + 1.0
    while time.monotonic() < deadline and len(drawn) < 100:
        time.sleep(0.05)
    held_at = len(drawn)
    go.set()
    assert [a.failure for a in answers] == ["done"]
    assert held_at < 50 and len(drawn) == 100


def test_addresses_are_tried_in_order_and_names_work_too():
    peer = Identity.generate().peer_id
    assert channel_target(peer, ["10.0.0.1:1", "127.0.0.1:2"]) == "ipv4:10.0.0.1:1,127.0.0.1:2"
    assert channel_target(peer, ["host.example:1"]) == "dns:///host.example:1"


def test_second_address_is_used_when_the_first_refuses(nodes):
    alice, bob = nodes
    record = alice.record
    record.data_addresses.insert(0, "127.0.0.1:9")
    assert list(bob.plane.download(record, BLOB_SHA256, len(BLOB), WAIT))
