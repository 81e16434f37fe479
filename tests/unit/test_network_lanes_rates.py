"""The measured rates: what counts as one, with a clock and sockets that the test controls."""

from __future__ import annotations

import socket
import threading
import time

import pytest
from lane_nodes import sockets

from swarm.network import rates
from swarm.network.rates import DOWNLOAD, SOFT_BYTES, UPLOAD, RateWindow
from swarm.network.traffic import Meter

MIB = 2**20


class Link:
    """A window over one lane without a kernel counter, and a clock."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, direction: str = UPLOAD) -> None:
        self.now_s = 100.0
        self.waiting = 0
        monkeypatch.setattr(RateWindow, "_waiting", lambda window, sock: self.waiting)
        self.window = RateWindow(direction, lambda: self.now_s)
        self.sock, self.other = socket.socketpair()
        self.window.add(self.sock)

    def transfer(self, mib_per_s: float, seconds: float, piece_s: float = 0.02) -> None:
        end_s = self.now_s + seconds
        while self.now_s < end_s:
            with self.window.busy():
                self.now_s += piece_s
                self.window.moved(self.sock, round(mib_per_s * MIB * piece_s))

    def warm_up(self, mib_per_s: float) -> None:
        self.transfer(mib_per_s, (SOFT_BYTES / MIB + 2) / mib_per_s + 1)

    @property
    def mib_per_s(self) -> float:
        return self.window.best_bps / 8 / MIB


@pytest.fixture
def link(monkeypatch) -> Link:
    return Link(monkeypatch)


def test_nothing_moved_is_not_measured(link):
    assert link.window.best_bps == 0.0


@pytest.mark.parametrize("mib_per_s", [1.0, 12.5, 400.0])
def test_a_steady_transfer_is_measured_as_it_is(link, mib_per_s):
    link.warm_up(mib_per_s)
    link.transfer(mib_per_s, 2.0)
    assert link.mib_per_s == pytest.approx(mib_per_s, rel=0.15)


def test_small_transfers_tell_nothing(link):
    for _ in range(200):
        link.transfer(500, 0.1)  # 50 MiB/s for less than a window each
        link.now_s += 1.0
    assert link.window.best_bps == 0.0


def test_a_burst_into_buffers_does_not_count(link):
    link.transfer(200, 0.04)  # 8 MiB at once, then the link takes 10 MiB/s
    link.transfer(10, 5.0)
    assert link.mib_per_s == pytest.approx(10, rel=0.15)


def test_what_waits_in_the_socket_was_not_delivered(link):
    link.warm_up(10)
    before = link.mib_per_s
    for _ in range(200):  # written at twice the link's rate, half of it waits
        link.waiting += round(0.01 * 10 * MIB)
        link.transfer(20, 0.01, piece_s=0.01)
    assert link.mib_per_s == pytest.approx(before, rel=0.15)


def test_pauses_do_not_make_a_link_slow(link):
    link.warm_up(20)
    for _ in range(3):
        link.now_s += 30.0
        link.warm_up(20)
    assert link.mib_per_s == pytest.approx(20, rel=0.15)


def test_the_best_counts_and_is_forgotten_after_minutes(link):
    link.warm_up(50)
    link.transfer(5, 10.0)
    assert link.mib_per_s == pytest.approx(50, rel=0.15)
    link.now_s += rates.MEMORY.total_seconds() - 5.0
    assert link.mib_per_s == pytest.approx(5, rel=0.15)
    link.now_s += rates.MEMORY.total_seconds()
    assert link.window.best_bps == 0.0


def test_the_first_window_after_a_pause_is_no_measure(link, monkeypatch):
    """A token bucket lets a burst pass above the rate that it keeps."""
    monkeypatch.setattr(rates, "SOFT_BYTES", 0)
    link.transfer(100, 0.1)
    link.transfer(10, 3.0)
    assert link.mib_per_s == pytest.approx(10, rel=0.15)


def test_lanes_of_one_link_are_taken_together(link, monkeypatch):
    monkeypatch.setattr(rates, "SOFT_BYTES", 0)
    second, other = socket.socketpair()
    link.window.add(second)
    for _ in range(200):
        with link.window.busy(), link.window.busy():
            link.now_s += 0.02
            link.window.moved(link.sock, MIB // 10)
            link.window.moved(second, MIB // 10)
    assert link.mib_per_s == pytest.approx(10, rel=0.15)
    link.window.remove(second)
    second.close()
    other.close()
    link.transfer(10, 1.0)
    assert link.mib_per_s == pytest.approx(10, rel=0.15)


def test_bytes_that_wait_to_be_read_had_arrived(monkeypatch):
    link = Link(monkeypatch, DOWNLOAD)
    link.warm_up(10)
    link.waiting = 6 * MIB  # the reader slept
    link.transfer(10, 0.5)
    before = link.mib_per_s
    link.waiting = 0  # and now takes it all at once
    with link.window.busy():
        link.now_s += 0.3
        link.window.moved(link.sock, 9 * MIB)  # 3 MiB of it came in this time
    assert link.mib_per_s == pytest.approx(before, rel=0.15)


def test_the_kernels_count_of_a_real_connection_is_used_where_there_is_one():
    meter = Meter()
    ours, theirs = sockets("tcp")
    meter.add_lane(ours)
    if meter.rates.upload._lanes[ours] is not None:
        pytest.skip("this system does not count for us")
    reader = threading.Thread(
        target=lambda: [None for _ in iter(lambda: theirs.recv(MIB), b"")], daemon=True
    )
    reader.start()
    began, sent = time.monotonic(), 0
    while time.monotonic() - began < 1.0:
        with meter.sending("peer", MIB):
            ours.sendall(bytes(MIB))
        sent += MIB
    spent_s = time.monotonic() - began
    average_bps = 8 * sent / spent_s
    assert 0.5 * average_bps < meter.rates.upload_bps < 4 * average_bps
    assert meter.rates.download_bps == 0.0
    assert meter.traffic.sent == {"peer": sent}
    meter.remove_lane(ours)
    ours.close()
    reader.join(5)
    theirs.close()
