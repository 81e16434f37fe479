"""What a relay does with peers who ask and say nothing, and with those who go away too early."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from datetime import timedelta
from typing import cast

import pytest
from polling import until

from swarm.identity import Identity
from swarm.network.p2p import relay_service
from swarm.network.p2p.circuit import peer_message
from swarm.network.p2p.relay_service import MAX_HALF_OPEN_PER_PEER, RelayService
from swarm.network.p2p.streams import Streams, read_message, write_message
from swarm.network.relay_budget import RelayBudget, RelayMeter
from swarm.wire import circuit_pb2 as pb

ALICE, BOB, MALLORY = (Identity.generate().peer_id for _ in range(3))
WAIT_S = 5.0
RESERVE = pb.HopMessage(type=pb.HopMessage.RESERVE)
CALL_BOB = pb.HopMessage(type=pb.HopMessage.CONNECT, peer=peer_message(BOB))


class Hop:
    """In place of the streams that other peers open to the relay."""

    def serve(self, accept: Callable[[str, socket.socket], None]) -> None:
        self._accept = accept

    def stop(self) -> None:
        pass

    def opened_by(self, peer: str) -> socket.socket:
        near, far = socket.socketpair()
        near.settimeout(WAIT_S)
        self._accept(peer, far)
        return near


class Stop:
    """In place of the streams that the relay opens to the peers that are called."""

    def __init__(self) -> None:
        self.near, self.far = socket.socketpair()
        self.near.settimeout(WAIT_S)

    def open(self, peer: str, limit: timedelta) -> socket.socket:
        return self.far


@pytest.fixture
def hop() -> Hop:
    return Hop()


@contextmanager
def relay(hop: Hop, stop: Stop | None = None) -> Iterator[RelayService]:
    """A relay that serves, with a place for Bob."""
    meter = RelayMeter(RelayBudget())
    meter.reserve(BOB, time.monotonic())
    service = RelayService(cast(Streams, hop), cast(Streams, stop), meter, lambda peer: True)
    service.start()
    service.serving = True
    try:
        yield service
    finally:
        service.stop()


def asked(sock: socket.socket, request: pb.HopMessage) -> int:
    """The status of the relay's answer."""
    write_message(sock, request)
    return int(read_message(sock, pb.HopMessage(), time.monotonic() + WAIT_S).status)


def ended(sock: socket.socket) -> bool:
    try:
        return sock.recv(1) == b""
    except ConnectionResetError:
        return True


def test_a_peer_that_opens_streams_and_says_nothing_shuts_nobody_else_out(hop) -> None:
    with relay(hop) as service, ExitStack() as kept:
        silent = [kept.enter_context(hop.opened_by(MALLORY)) for _ in range(MAX_HALF_OPEN_PER_PEER)]
        assert ended(kept.enter_context(hop.opened_by(MALLORY)))
        assert asked(kept.enter_context(hop.opened_by(ALICE)), RESERVE) == pb.CIRCUIT_OK
        silent[0].close()
        until(lambda: service._half_open[MALLORY] < MAX_HALF_OPEN_PER_PEER)
        assert asked(kept.enter_context(hop.opened_by(MALLORY)), RESERVE) == pb.CIRCUIT_OK


def test_a_request_for_which_there_is_no_thread_takes_no_place(hop, monkeypatch) -> None:
    class NoMore(threading.Thread):
        def start(self) -> None:
            raise RuntimeError("can't start new thread")

    with relay(hop) as service:
        with monkeypatch.context() as patched:
            patched.setattr(relay_service.threading, "Thread", NoMore)
            with hop.opened_by(ALICE) as refused:
                assert ended(refused)
        assert not service._half_open
        with hop.opened_by(ALICE) as sock:
            assert asked(sock, RESERVE) == pb.CIRCUIT_OK


def test_the_called_peer_is_let_go_when_its_caller_is_gone_before_it_agrees(hop) -> None:
    stop = Stop()
    with relay(hop, stop) as service, stop.near:
        with hop.opened_by(ALICE) as caller:
            write_message(caller, CALL_BOB)
            request = read_message(stop.near, pb.StopMessage(), time.monotonic() + WAIT_S)
            assert request.type == pb.StopMessage.CONNECT
        write_message(stop.near, pb.StopMessage(type=pb.StopMessage.STATUS, status=pb.CIRCUIT_OK))
        assert ended(stop.near)
        until(lambda: not service._half_open)
        assert stop.far.fileno() == -1
        assert service._meter.circuits == 0


def test_who_has_a_place_hangs_up_first(hop) -> None:
    """p2pd loses what is still under way in a stream that its owner closes: here, the answer."""
    with relay(hop), hop.opened_by(ALICE) as sock:
        assert asked(sock, RESERVE) == pb.CIRCUIT_OK
        sock.settimeout(0.2)
        with pytest.raises(TimeoutError):
            sock.recv(1)
        sock.shutdown(socket.SHUT_WR)
        sock.settimeout(WAIT_S)
        assert ended(sock)
