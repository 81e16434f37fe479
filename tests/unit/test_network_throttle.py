"""Rates of all lanes together, on real sockets; they change in the middle of a transfer."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from swarm.network.framing import SocketLane
from swarm.network.lane import Kind
from swarm.network.throttle import BURST_S, LEAST_BPS, PIECE_S, Throttle
from swarm.network.traffic import Meter

MEGABYTE = 8e6  # bits


@contextmanager
def lanes(sender: Meter, receiver: Meter) -> Iterator[tuple[SocketLane, SocketLane]]:
    """Both ends of a connection over loopback TCP, with small buffers."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        ours = socket.create_connection(server.getsockname())
        theirs, _ = server.accept()
    for sock in (ours, theirs):
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 2**15)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2**15)
    near = SocketLane(ours, "far", "plain", meter=sender)
    far = SocketLane(theirs, "near", "plain", meter=receiver)
    try:
        yield near, far
    finally:
        near.close()
        far.close()


def move(near: SocketLane, far: SocketLane, size: int) -> float:
    """Seconds until `size` bytes have arrived."""
    started = time.monotonic()
    thread = threading.Thread(target=near.send, args=(Kind.CHUNK, 0, bytes(size)))
    thread.start()
    assert far.receive().size == size
    far.read()
    thread.join()
    return time.monotonic() - started


def test_bytes_are_paid_for_at_the_rate_and_a_burst_is_small() -> None:
    now = 100.0
    throttle = Throttle(lambda: now)
    throttle.set_rate(MEGABYTE)
    assert throttle.piece(10**9) == int(1e6 * PIECE_S)
    throttle.pay(int(1e6 * BURST_S))  # saved up: no wait, or this would never return
    throttle.set_rate(0.0)
    assert throttle.piece(10**9) == 10**9
    throttle.pay(10**9)
    throttle.set_rate(1.0)  # less would look like a stall
    assert throttle.piece(10**9) <= LEAST_BPS / 8


@pytest.mark.parametrize("way", ["uploads", "downloads"])
def test_a_lane_keeps_to_a_limit_either_way(way: str) -> None:
    sender, receiver = Meter(), Meter()
    meter = sender if way == "uploads" else receiver
    with lanes(sender, receiver) as (near, far):
        assert move(near, far, 500_000) < 0.4
        getattr(meter, way).set_rate(MEGABYTE)
        assert 0.35 < move(near, far, 500_000) < 1.0


def test_lanes_share_the_limit() -> None:
    sender = Meter()
    sender.uploads.set_rate(MEGABYTE)
    with lanes(sender, Meter()) as first, lanes(sender, Meter()) as second:
        started = time.monotonic()
        threads = [threading.Thread(target=move, args=(*pair, 250_000)) for pair in (first, second)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert 0.35 < time.monotonic() - started < 1.2


def test_a_limit_that_is_taken_away_holds_a_transfer_back_no_longer() -> None:
    sender = Meter()
    sender.uploads.set_rate(LEAST_BPS)  # 500 kB would take 40 s
    with lanes(sender, Meter()) as (near, far):
        timer = threading.Timer(0.2, sender.uploads.set_rate, (0.0,))
        timer.start()
        assert 0.15 < move(near, far, 500_000) < 2.0
        timer.join()


def test_a_lane_that_is_cancelled_does_not_wait_for_its_turn() -> None:
    sender = Meter()
    sender.uploads.set_rate(LEAST_BPS)
    with lanes(sender, Meter()) as (near, far):
        threading.Timer(0.2, near.cancel).start()
        started = time.monotonic()
        with pytest.raises(Exception, match="cancelled"):
            near.send(Kind.CHUNK, 0, bytes(500_000))
        assert time.monotonic() - started < 1.5
        far.cancel()
