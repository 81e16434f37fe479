"""Which way a lane takes: the announced addresses in order, then the tunnel, and what it learns."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from datetime import timedelta

import pytest
from lane_nodes import BLOB, BLOB_HASH, SHORT, WAIT, Node, begin, error_of, exchange
from polling import until

from swarm.errors import Code, SwarmError
from swarm.identity import Identity
from swarm.network import lane_pool, sockets
from swarm.network.handshake import LENGTH
from swarm.network.sockets import split_address
from swarm.wire.data_pb2 import LaneHello, LaneWelcome
from swarm.wire.membership_pb2 import PeerRecord

REFUSING = "127.0.0.1:9"


@pytest.fixture
def silent() -> Iterator[str]:
    """An address that takes connections and never says a word."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"127.0.0.1:{server.getsockname()[1]}"


def record_with(node: Node, *addresses: str) -> PeerRecord:
    record = node.record
    record.data_addresses[:] = addresses
    return record


class Tunnel:
    """Streams from bob to alice as libp2p would make them."""

    def __init__(self, alice: Node, bob: Node, *, claimed: str = "") -> None:
        self.alice, self.claimed = alice, claimed or bob.peer_id
        self.opened = 0
        bob.plane.set_tunnel(self.open)

    def open(self, record: PeerRecord, limit: timedelta) -> socket.socket:
        self.opened += 1
        ours, theirs = socket.socketpair()
        self.alice.plane.accept_tunnel(self.claimed, theirs)
        return ours


# ---- addresses ------------------------------------------------------------------------------


def test_second_address_is_used_when_the_first_refuses(nodes):
    alice, bob = nodes
    lane = bob.plane.open_lane(record_with(alice, REFUSING, alice.address), WAIT)
    assert exchange(lane, b"ab") == [b"ba"]


def test_a_silent_address_costs_its_time_limit_once(nodes, silent, monkeypatch):
    monkeypatch.setattr(lane_pool, "STEP_LIMIT", timedelta(milliseconds=300))
    alice, bob = nodes
    record = record_with(alice, silent, alice.address)
    times = []
    for _ in range(3):
        began = time.monotonic()
        bob.plane.open_lane(record, WAIT)
        times.append(time.monotonic() - began)
    assert times[0] >= 0.3 and max(times[1:]) < 0.25


def test_what_failed_is_tried_again_when_nothing_else_is_left(nodes):
    alice, bob = nodes
    again = record_with(alice, f"127.0.0.1:{alice.port}")
    alice.plane.stop()
    error = error_of(lambda: bob.plane.open_lane(again, SHORT))
    assert error.code is Code.PEER_UNREACHABLE and "refused" in error.message
    alice.plane = type(alice.plane)(alice.identity, alice.run_id)
    alice.plane.start("127.0.0.1", alice.port)
    assert bob.plane.open_lane(record_with(alice, *again.data_addresses), WAIT).path == "direct"


def test_a_peer_at_the_wrong_address_is_passed_over(nodes):
    """Somebody else listens there now: another certificate."""
    alice, bob = nodes
    carol = Node()
    try:
        lane = bob.plane.open_lane(record_with(alice, carol.address, alice.address), WAIT)
        assert lane.peer == alice.peer_id and exchange(lane, b"ab") == [b"ba"]
    finally:
        carol.plane.stop()


def test_a_refusal_is_final_and_no_other_way_is_tried(nodes):
    alice, _ = nodes
    stranger = Node(run_id=b"s" * 32)
    tunnel = Tunnel(alice, stranger)
    try:
        error = error_of(lambda: stranger.plane.open_lane(alice.record, WAIT))
    finally:
        stranger.plane.stop()
    assert error.code is Code.PEER_REFUSED and tunnel.opened == 0


def test_no_address_and_no_tunnel_is_unreachable(nodes):
    alice, bob = nodes
    error = error_of(lambda: bob.plane.open_lane(record_with(alice), WAIT))
    assert error.code is Code.PEER_UNREACHABLE and "no data address" in error.message


@pytest.mark.parametrize("address", ["", "host", "host:", ":1", "h:0", "h:65536", "h:1x", "h:²"])
def test_what_is_no_address_is_passed_over(nodes, address):
    alice, bob = nodes
    assert error_of(lambda: split_address(address)).code is Code.MESSAGE_MALFORMED
    assert bob.plane.open_lane(record_with(alice, address, alice.address), WAIT).path == "direct"


def test_names_and_ipv6_addresses_are_understood(nodes):
    alice, bob = nodes
    assert split_address("[::1]:5") == ("::1", 5)
    assert split_address("host.example:4700") == ("host.example", 4700)
    record = record_with(alice, f"localhost:{alice.port}")
    with suppress(SwarmError):  # localhost may be ::1 here
        assert bob.plane.open_lane(record, SHORT).path == "direct"


def test_a_name_server_that_does_not_answer_costs_no_more_than_the_limit(nodes, monkeypatch):
    alice, bob = nodes
    answer = threading.Event()

    def never(*arguments, **options):
        answer.wait(5)
        raise OSError("too late")

    monkeypatch.setattr(sockets.socket, "getaddrinfo", never)
    began = time.monotonic()
    error = error_of(lambda: bob.plane.open_lane(record_with(alice, "slow.example:1"), SHORT))
    assert time.monotonic() - began < 2.0
    answer.set()
    assert error.code is Code.PEER_UNREACHABLE


def test_a_record_with_many_addresses_is_not_followed_through_all_of_them(nodes, monkeypatch):
    alice, bob = nodes
    tried: list[str] = []

    def connect(address: str, limit_s: float) -> socket.socket:
        tried.append(address)
        raise OSError("refused")

    monkeypatch.setattr(lane_pool, "connect", connect)
    record = record_with(alice, *(f"127.0.0.1:{port}" for port in range(1, 1000)))
    error_of(lambda: bob.plane.open_lane(record, WAIT))
    assert len(tried) == lane_pool.MAX_ADDRESSES


# ---- the tunnel -----------------------------------------------------------------------------


def test_the_tunnel_is_used_when_no_address_works_and_first_from_then_on(nodes):
    alice, bob = nodes
    tunnel = Tunnel(alice, bob)
    record = record_with(alice, REFUSING)
    lane = bob.plane.open_lane(record, WAIT)
    assert lane.path == "tunnel"
    assert exchange(lane, b"ab") == [b"ba"]
    bob.plane.release(lane)
    assert bob.plane.open_lane(record, WAIT) is lane and tunnel.opened == 1
    assert bob.plane.open_lane(record, WAIT).path == "tunnel" and tunnel.opened == 2
    into = bytearray(len(BLOB))
    bob.plane.download_blob([record], BLOB_HASH, memoryview(into), WAIT)
    assert bytes(into) == BLOB


def test_a_direct_way_is_preferred_and_tried_again_after_a_while(nodes, monkeypatch):
    alice, bob = nodes
    tunnel = Tunnel(alice, bob)
    assert bob.plane.open_lane(alice.record, WAIT).path == "direct" and tunnel.opened == 0
    bob.plane._pool.close()
    bob.plane._pool = lane_pool.LanePool(bob.plane._pool._handshake)
    Tunnel(alice, bob)
    monkeypatch.setattr(lane_pool, "AVOID_FAILED", timedelta(milliseconds=100))
    record = record_with(alice, alice.address)
    working = lane_pool.connect
    monkeypatch.setattr(lane_pool, "connect", lambda *a: working(REFUSING, 1.0))
    assert bob.plane.open_lane(record, WAIT).path == "tunnel"
    monkeypatch.setattr(lane_pool, "connect", working)
    until(lambda: bob.plane.open_lane(record, WAIT).path == "direct", 2.0)


def test_in_a_tunnel_the_token_must_be_of_the_peer_that_libp2p_knows(nodes):
    alice, bob = nodes
    Tunnel(alice, bob, claimed=Identity.generate().peer_id)
    error = error_of(lambda: bob.plane.open_lane(record_with(alice), WAIT))
    assert error.code is Code.PEER_REFUSED and "SIGNATURE_INVALID" in error.message
    until(lambda: alice.plane.refused == {"SIGNATURE_INVALID": 1})


def test_a_tunnel_to_another_run_is_refused_in_words(nodes):
    alice, _ = nodes
    stranger = Node(run_id=b"s" * 32)
    Tunnel(alice, stranger)
    try:
        error = error_of(lambda: stranger.plane.open_lane(record_with(alice), WAIT))
    finally:
        stranger.plane.stop()
    assert error.code is Code.PEER_REFUSED and "MESSAGE_WRONG_RUN" in error.message


def test_who_refuses_a_tunnel_lets_the_other_side_hang_up_first(nodes):
    """p2pd loses what is still under way in a stream that its owner closes: here, the reason."""
    alice, _ = nodes
    ours, theirs = socket.socketpair()
    with ours:
        hello = LaneHello(token=b"of nobody", secret=bytes(32)).SerializeToString()
        ours.sendall(LENGTH.pack(len(hello)) + hello)
        alice.plane.accept_tunnel(Identity.generate().peer_id, theirs)
        ours.settimeout(5)
        (size,) = LENGTH.unpack(ours.recv(LENGTH.size, socket.MSG_WAITALL))
        assert LaneWelcome.FromString(ours.recv(size, socket.MSG_WAITALL)).code
        ours.settimeout(0.2)
        with pytest.raises(TimeoutError):
            ours.recv(1)
        ours.shutdown(socket.SHUT_WR)
        ours.settimeout(0.5)
        assert ours.recv(1) == b""


def test_a_tunnel_that_breaks_is_a_broken_lane(nodes):
    alice, bob = nodes
    Tunnel(alice, bob)
    lane = bob.plane.open_lane(record_with(alice), WAIT)
    begin(lane)
    alice.plane.stop()
    assert error_of(lane.receive).code is Code.PEER_UNREACHABLE


def test_a_tunnel_to_a_node_that_stops_is_hung_up(nodes):
    alice, _ = nodes
    alice.plane.stop()
    ours, theirs = socket.socketpair()
    alice.plane.accept_tunnel(Identity.generate().peer_id, theirs)
    with ours:
        ours.settimeout(5)
        assert ours.recv(1) == b""


def test_a_tunnel_that_can_not_be_opened_is_unreachable(nodes):
    alice, bob = nodes

    def no_way(record: PeerRecord, limit: timedelta) -> socket.socket:
        raise SwarmError(Code.PEER_UNREACHABLE, f"{record.peer_id}: no relay knows it")

    bob.plane.set_tunnel(no_way)
    error = error_of(lambda: bob.plane.open_lane(record_with(alice, REFUSING), WAIT))
    assert error.code is Code.PEER_UNREACHABLE
    assert "refused" in error.message and "no relay knows it" in error.message
