"""Frames, sealed and plain, over real sockets: order, limits, and bytes that lie."""

from __future__ import annotations

import socket
import threading

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from lane_nodes import SHORT, both, error_of, lanes, take

from swarm.errors import Code, SwarmError
from swarm.network.framing import HEADER, SocketLane
from swarm.network.lane import MAX_PAYLOAD_BYTES, Kind
from swarm.network.sealing import RECORD_BYTES, TAG_BYTES, Seals

SECRETS = b"o" * 32, b"a" * 32


def sent_bytes(*frames: tuple, sealed: bool = True) -> bytes:
    """What a sender of these frames puts on the wire."""
    left, right = socket.socketpair()
    seals = Seals.of(*SECRETS, opener=True) if sealed else None
    lane = SocketLane(left, "right", "direct", seals=seals)
    for frame in frames:
        lane.send(*frame)
    lane.close()
    with right:
        return b"".join(iter(lambda: right.recv(2**16), b""))


def receiver(data: bytes, *, sealed: bool = True) -> SocketLane:
    """A lane whose peer sends `data` and hangs up."""
    left, right = socket.socketpair()
    with left:
        left.sendall(data)
    seals = Seals.of(*SECRETS, opener=False) if sealed else None
    return SocketLane(right, "left", "direct", seals=seals, stall=SHORT)


# ---- what goes over a lane ------------------------------------------------------------------


@both
def test_frames_arrive_as_they_were_sent(sealed):
    left, right = lanes(sealed)
    values = np.arange(1000, dtype=np.float32)
    left.send(Kind.CHUNK, 7, values.data, b"and", bytearray(b" the rest"))
    left.send(Kind.PULSE)
    left.send(Kind.END, 2**63)
    assert take(right) == (Kind.CHUNK, 7, values.tobytes() + b"and the rest")
    assert take(right) == (Kind.END, 2**63, b"")
    right.send(Kind.FAILURE, 0, b"reason")
    assert take(left) == (Kind.FAILURE, 0, b"reason")


@both
@pytest.mark.parametrize("size", [1, RECORD_BYTES, RECORD_BYTES + 1, MAX_PAYLOAD_BYTES])
def test_payload_of_any_size_is_read_into_place(sealed, size):
    left, right = lanes(sealed)
    data = np.random.default_rng(size).bytes(size)
    parts = data[: size // 3], data[size // 3 :]
    sender = threading.Thread(target=left.send, args=(Kind.CHUNK, 0, *parts))
    sender.start()
    assert right.receive().size == size
    target = bytearray(size)
    right.read_into(memoryview(target))
    sender.join()
    assert target == data


@both
def test_both_directions_move_at_once(sealed):
    left, right = lanes(sealed)
    data = bytes(2**20)

    def send_all(lane: SocketLane) -> None:
        for index in range(20):
            lane.send(Kind.CHUNK, index, data)

    senders = [threading.Thread(target=send_all, args=(lane,)) for lane in (left, right)]
    for sender in senders:
        sender.start()
    for lane in (left, right):  # one after the other: the kernel's buffers hold neither
        target = memoryview(bytearray(2**20))
        for index in range(20):
            assert lane.receive().index == index
            lane.read_into(target)
    for sender in senders:
        sender.join()


@both
def test_pulses_of_another_thread_do_not_mix_with_chunks(sealed):
    left, right = lanes(sealed)
    stop = threading.Event()

    def pulse() -> None:
        while not stop.is_set():
            left.send(Kind.PULSE)

    def chunks() -> None:
        for index in range(50):
            left.send(Kind.CHUNK, index, bytes(100_000))
        stop.set()

    threads = [threading.Thread(target=work) for work in (pulse, chunks)]
    for thread in threads:
        thread.start()
    assert [take(right)[1] for _ in range(50)] == list(range(50))
    for thread in threads:
        thread.join()


# ---- limits ---------------------------------------------------------------------------------


@both
def test_frame_that_is_too_large_is_not_sent_and_not_let_in(sealed):
    left, right = lanes(sealed)
    error = error_of(lambda: left.send(Kind.CHUNK, 0, bytes(MAX_PAYLOAD_BYTES + 1)))
    assert error.code is Code.MESSAGE_OVERSIZED
    header = HEADER.pack(Kind.CHUNK, bytes(3), 2**32 - 1, 0)
    assert error_of(receiver(header, sealed=sealed).receive).code is Code.MESSAGE_OVERSIZED
    pulse = HEADER.pack(Kind.PULSE, bytes(3), 1, 0) + b"x"
    assert error_of(receiver(pulse, sealed=sealed).receive).code is Code.MESSAGE_OVERSIZED
    left.send(Kind.END)  # the lane of the sender that noticed is as it was
    assert right.receive().kind is Kind.END


@both
@pytest.mark.parametrize("kind, zeros", [(0, 0), (6, 0), (255, 0), (2, 1)])
def test_bytes_that_are_no_frame_break_the_lane(sealed, kind, zeros):
    header = HEADER.pack(kind, bytes([0, zeros, 0]), 0, 0)
    lane = receiver(header + bytes(TAG_BYTES), sealed=sealed)
    assert error_of(lane.receive).code is Code.MESSAGE_MALFORMED
    assert error_of(lambda: lane.send(Kind.END)).code is Code.MESSAGE_MALFORMED
    assert not lane.at_rest


@given(data=st.binary(max_size=200), sealed=st.booleans())
@settings(max_examples=100, deadline=None)
def test_no_bytes_at_all_do_more_than_a_typed_error(data, sealed):
    lane = receiver(data, sealed=sealed)
    with pytest.raises(SwarmError) as caught:
        for _ in range(100):
            take(lane)
    lane.close()
    assert caught.value.code in (
        Code.MESSAGE_MALFORMED, Code.MESSAGE_OVERSIZED, Code.PEER_UNREACHABLE,
    )  # fmt: skip


# ---- sealed records that were touched -------------------------------------------------------

CHUNK = (Kind.CHUNK, 3, b"payload of a chunk")
HEADER_BYTES = HEADER.size


@pytest.mark.parametrize("position", [0, 4, 8, 15, 16, 20, 16 + 18, 16 + 18 + 15])
def test_a_flipped_bit_anywhere_breaks_the_lane(position):
    data = bytearray(sent_bytes(CHUNK, (Kind.END,)))
    assert take(receiver(bytes(data))) == CHUNK
    data[position] ^= 1
    lane = receiver(bytes(data))
    assert error_of(lambda: take(lane)).code is Code.MESSAGE_MALFORMED
    assert not lane.at_rest


def test_a_header_without_payload_is_authenticated_too():
    data = bytearray(sent_bytes((Kind.END, 5)))
    data[8] ^= 1  # the index
    assert error_of(receiver(bytes(data)).receive).code is Code.MESSAGE_MALFORMED


def test_a_record_that_is_replayed_dropped_or_swapped_is_refused():
    first, second = CHUNK, (Kind.CHUNK, 4, b"another payload of it")
    data = sent_bytes(first, second)
    size = HEADER_BYTES + len(first[2]) + TAG_BYTES
    one, two = data[:size], data[size:]
    lane = receiver(one + one)
    assert take(lane) == first
    assert error_of(lambda: take(lane)).code is Code.MESSAGE_MALFORMED
    assert error_of(lambda: take(receiver(two))).code is Code.MESSAGE_MALFORMED
    assert error_of(lambda: take(receiver(two + one))).code is Code.MESSAGE_MALFORMED


def test_a_record_of_the_other_direction_is_refused():
    data = sent_bytes(CHUNK)
    left, right = socket.socketpair()
    lane = SocketLane(right, "left", "direct", seals=Seals.of(*SECRETS, opener=True), stall=SHORT)
    left.sendall(data)  # reflected to its own sender
    assert error_of(lambda: take(lane)).code is Code.MESSAGE_MALFORMED
    left.close()


def test_a_record_of_another_lane_is_refused():
    data = sent_bytes(CHUNK)
    left, right = socket.socketpair()
    seals = Seals.of(b"x" * 32, SECRETS[1], opener=False)
    left.sendall(data)
    assert error_of(lambda: take(SocketLane(right, "left", "direct", seals=seals))).code is (
        Code.MESSAGE_MALFORMED
    )
    left.close()


@pytest.mark.parametrize("cut", [1, HEADER_BYTES, HEADER_BYTES + 5, -1])
def test_a_stream_that_ends_in_the_middle_of_a_frame_is_a_broken_lane(cut):
    lane = receiver(sent_bytes(CHUNK)[:cut])
    assert error_of(lambda: take(lane)).code is Code.PEER_UNREACHABLE


def test_nothing_of_the_payload_is_readable_on_the_wire():
    assert b"payload" not in sent_bytes(CHUNK)
    assert b"payload" in sent_bytes(CHUNK, sealed=False)
