"""How lanes stall and end, over real sockets: silence, failures, cancelling, closing."""

from __future__ import annotations

import select
import threading
import time
from contextlib import suppress
from datetime import timedelta

import pytest
from lane_nodes import SHORT, WAIT, both, error_of, lanes, sockets, take
from polling import until

from swarm.errors import Code, SwarmError
from swarm.network.framing import SocketLane
from swarm.network.lane import Kind


def seconds_of(work) -> float:
    began = time.monotonic()
    with suppress(SwarmError):
        work()
    return time.monotonic() - began


def is_full(lane: SocketLane) -> bool:
    """Whether a sender of this lane has to wait."""
    return not select.select([], [lane._socket._socket], [], 0)[1]


@both
def test_a_silent_peer_is_noticed_at_the_stall_limit(sealed):
    left, right = lanes(sealed, stall=timedelta(milliseconds=300))
    assert 0.25 < seconds_of(right.receive) < 1.0
    assert error_of(right.receive).code is Code.PEER_STALLED
    del left


@both
def test_a_peer_that_never_reads_is_noticed_at_the_stall_limit(sealed):
    left, right = lanes(sealed, stall=timedelta(milliseconds=300))
    payload = bytes(2**20)

    def send_for_ever() -> None:
        while True:
            left.send(Kind.CHUNK, 0, payload)

    began = time.monotonic()
    assert error_of(send_for_ever).code is Code.PEER_STALLED
    assert time.monotonic() - began < 5.0
    assert error_of(left.receive).code is Code.PEER_STALLED  # the other direction ends as well
    del right


def test_pulses_keep_a_waiting_receiver_and_a_held_back_sender_alive():
    left, right = lanes(True, stall=SHORT)
    done = threading.Event()
    got: list[int] = []

    def pulse() -> None:
        while not done.wait(0.05):
            right.send(Kind.PULSE)

    def receive() -> None:
        with suppress(SwarmError):
            got.append(left.receive().index)

    threads = [threading.Thread(target=work) for work in (pulse, receive)]
    for thread in threads:
        thread.start()

    def send_all() -> None:
        for index in range(40):  # far more than the buffers hold
            left.send(Kind.CHUNK, index, bytes(2**20))

    sender = threading.Thread(target=send_all)
    sender.start()
    sender.join(1.0)
    assert sender.is_alive() and not got  # five times the limit, and nobody gave up
    for _ in range(40):
        take(right)
    sender.join(5)
    assert not sender.is_alive()
    done.set()
    right.send(Kind.END, 9)
    for thread in threads:
        thread.join(5)
    assert got == [9]


@both
@pytest.mark.parametrize("kind", ["tcp", "unix"])
def test_cancel_from_another_thread_ends_both_directions_on_both_sides_at_once(sealed, kind):
    left, right = lanes(sealed, kind=kind)
    errors: list[SwarmError] = []

    def fill(lane: SocketLane) -> None:
        while True:
            lane.send(Kind.CHUNK, 0, bytes(2**20))

    def run(work, *arguments) -> None:
        errors.append(error_of(lambda: work(*arguments)))

    threads = [
        threading.Thread(target=run, args=(fill, left)),  # nobody reads: it blocks
        threading.Thread(target=run, args=(left.receive,)),
    ]
    for thread in threads:
        thread.start()
    until(lambda: left._receive_lock.locked() and is_full(left))  # both threads are inside
    began = time.monotonic()
    left.cancel()
    for thread in threads:
        thread.join(5)
    assert time.monotonic() - began < 1.0
    assert [error.code for error in errors] == [Code.PEER_UNREACHABLE] * 2

    def drain() -> None:
        while True:
            take(right)

    assert error_of(drain).code is Code.PEER_UNREACHABLE
    assert time.monotonic() - began < 2.0


def test_close_waits_for_threads_inside_and_may_be_repeated():
    left, right = lanes(True)
    waiting = threading.Thread(target=lambda: error_of(left.receive))
    waiting.start()
    left.close()
    left.close()
    waiting.join(5)
    assert not waiting.is_alive()
    assert error_of(right.receive).code is Code.PEER_UNREACHABLE
    right.close()


@pytest.mark.parametrize("kind", ["tcp", "unix"])
def test_the_reason_of_a_failure_is_read_although_the_peer_was_still_sending(kind):
    left, right = lanes(True, kind=kind)
    reasons: list[bytes] = []

    def send_all() -> None:
        with suppress(SwarmError):
            while True:
                left.send(Kind.CHUNK, 0, bytes(2**18))

    def listen() -> None:
        reasons.append(take(left)[2])
        left.close()

    threads = [threading.Thread(target=work) for work in (send_all, listen)]
    for thread in threads:
        thread.start()
    take(right)
    right.fail("ATTEMPT_FAILED: a newer ballot")
    for thread in threads:
        thread.join(5)
    assert reasons == [b"ATTEMPT_FAILED: a newer ballot"]


def test_a_failure_reaches_nobody_and_still_ends_in_time_when_the_peer_is_frozen():
    left, right = lanes(True)
    with suppress(SwarmError):
        left.set_stall(timedelta(milliseconds=50))
        while True:
            left.send(Kind.CHUNK, 0, bytes(2**20))
    assert seconds_of(lambda: left.fail("never read")) < 3.0
    fresh, frozen = lanes(True)
    assert seconds_of(lambda: fresh.fail("never read")) < 3.0
    del right, frozen


def test_a_lane_is_at_rest_only_when_both_sides_have_said_end():
    left, right = lanes(True)
    assert left.at_rest and right.at_rest
    left.send(Kind.CALL, 0, b"call")
    assert not left.at_rest
    take(right)
    left.send(Kind.END)
    right.send(Kind.CHUNK, 0, b"answer")
    assert not left.at_rest and not right.at_rest
    assert right.receive().kind is Kind.END
    right.send(Kind.PULSE)
    assert not right.at_rest
    right.send(Kind.END)
    assert right.at_rest and not left.at_rest
    take(left)
    assert left.receive().kind is Kind.END and left.at_rest
    assert not left.hung_up()
    right.close()
    until(left.hung_up)


def test_a_stall_limit_holds_for_tcp_timeouts_of_the_kernel_too():
    ours, theirs = sockets("tcp")
    lane = SocketLane(ours, "right", "direct", stall=WAIT)
    lane.set_stall(timedelta(milliseconds=100))
    assert seconds_of(lane.receive) < 1.0
    theirs.close()
