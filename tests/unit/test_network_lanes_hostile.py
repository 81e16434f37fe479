"""Strangers at the data plane's port: garbage, lies about who they are, slowness, floods."""

from __future__ import annotations

import os
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from datetime import timedelta

import pytest
from lane_nodes import BLOB, BLOB_HASH, WAIT, Node, begin, error_of, exchange, token
from polling import until

from swarm.errors import Code
from swarm.identity import Identity
from swarm.network import lane_server
from swarm.network.data_plane import DataPlane
from swarm.network.framing import HEADER, SocketLane
from swarm.network.handshake import LENGTH, MAX_HELLO_BYTES
from swarm.network.lane import Kind
from swarm.network.sealing import Seals
from swarm.network.tls import SERVER_NAME, client_tls
from swarm.wire.data_pb2 import PLAIN, SEALED, LaneHello, LaneWelcome

LIMIT_S = 5.0
SECRET = b"s" * 32


@pytest.fixture
def alice() -> Iterator[Node]:
    node = Node()
    yield node
    node.plane.stop()


@pytest.fixture
def bob() -> Iterator[Node]:
    node = Node()
    yield node
    node.plane.stop()


def hung_up(connection: socket.socket) -> bool:
    """Wait for the other side to end the connection; whether it did in time."""
    connection.settimeout(LIMIT_S)
    with suppress(ConnectionError, ssl.SSLError):
        try:
            while connection.recv(4096):
                pass
        except TimeoutError:
            return False
    return True


def tls_to(node: Node) -> ssl.SSLSocket:
    context = client_tls(node.plane.certificate_pem)
    return context.wrap_socket(node.connect(), server_hostname=SERVER_NAME)


def answer_to(node: Node, hello: LaneHello) -> LaneWelcome:
    """What a client gets that speaks the protocol but is not ours."""
    with tls_to(node) as tls:
        data = hello.SerializeToString()
        tls.sendall(LENGTH.pack(len(data)) + data)
        tls.settimeout(LIMIT_S)
        (size,) = LENGTH.unpack(tls.recv(LENGTH.size))
        return LaneWelcome.FromString(tls.recv(size))


def still_serves(node: Node, client: Node) -> None:
    into = bytearray(len(BLOB))
    client.plane.download_blob([node.record], BLOB_HASH, memoryview(into), WAIT)
    assert bytes(into) == BLOB


# ---- who are you ----------------------------------------------------------------------------


def test_a_lane_without_a_proper_token_is_refused_and_counted(alice):
    assert answer_to(alice, LaneHello(secret=SECRET)).code == "MESSAGE_UNSIGNED"
    assert answer_to(alice, LaneHello(secret=SECRET, token=b"junk")).code == "MESSAGE_MALFORMED"
    until(lambda: alice.plane.refused == {"MESSAGE_UNSIGNED": 1, "MESSAGE_MALFORMED": 1})


def test_token_for_another_server_or_certificate_or_run_or_time_is_refused(alice, bob):
    client = Identity.generate()
    wrong = {
        "MESSAGE_MALFORMED": token(client, bob),  # taken by bob and replayed
        "SIGNATURE_INVALID": token(client, alice, certificate_sha256=b"x" * 32),
        "MESSAGE_WRONG_RUN": token(client, alice, run_id=b"s" * 32),
        "MESSAGE_EXPIRED": token(client, alice, now_ms=int(time.time() * 1000) - 120_000),
    }
    for code, sealed in wrong.items():
        assert answer_to(alice, LaneHello(secret=SECRET, token=sealed)).code == code
    until(lambda: alice.plane.refused == dict.fromkeys(wrong, 1))


def test_a_short_secret_is_refused(alice):
    hello = LaneHello(secret=b"short", token=token(Identity.generate(), alice))
    assert answer_to(alice, hello).code == "MESSAGE_MALFORMED"


def test_a_refused_client_of_ours_gets_the_code_as_a_swarm_error(alice):
    stranger = DataPlane(Identity.generate(), b"s" * 32)
    try:
        error = error_of(lambda: stranger.open_lane(alice.record, WAIT))
    finally:
        stranger.stop()
    assert error.code is Code.PEER_REFUSED
    assert "MESSAGE_WRONG_RUN" in error.message


def test_server_with_another_certificate_than_the_record_says_is_not_talked_to(alice, bob):
    record = alice.record
    record.tls_certificate = bob.plane.certificate_pem
    error = error_of(lambda: bob.plane.open_lane(record, WAIT))
    assert error.code is Code.PEER_UNREACHABLE and "certificate" in error.message
    assert alice.plane.refused == {}


@pytest.mark.parametrize("certificate", [b"", b"no certificate"])
def test_record_without_a_certificate_is_a_typed_error(alice, bob, certificate):
    record = alice.record
    record.tls_certificate = certificate
    assert error_of(lambda: bob.plane.open_lane(record, WAIT)).code is Code.MESSAGE_MALFORMED


def test_asking_for_a_plain_lane_gets_a_sealed_one_from_who_did_not_agree(alice):
    hello = LaneHello(secret=SECRET, token=token(Identity.generate(), alice), protection=PLAIN)
    welcome = answer_to(alice, hello)
    assert (welcome.code, welcome.protection, len(welcome.secret)) == ("", SEALED, 32)


def false_server(node: Node, welcome: LaneWelcome) -> socket.socket:
    """Answers one client with the node's certificate and this welcome."""
    server = socket.create_server(("127.0.0.1", 0))
    server.settimeout(LIMIT_S)

    def serve() -> None:
        with suppress(OSError):
            tls = node.plane._server._handshake.server_tls.wrap_socket(
                server.accept()[0], server_side=True
            )
            (size,) = LENGTH.unpack(tls.recv(LENGTH.size))
            tls.recv(size)
            data = welcome.SerializeToString()
            tls.sendall(LENGTH.pack(len(data)) + data)
            hung_up(tls)

    threading.Thread(target=serve, daemon=True).start()
    return server


@pytest.mark.parametrize(
    "welcome",
    [
        LaneWelcome(secret=SECRET, protection=PLAIN),  # a downgrade that nobody asked for
        LaneWelcome(secret=b"short"),
        LaneWelcome(),
    ],
)
def test_a_server_can_not_talk_its_client_out_of_protection(alice, bob, welcome):
    with false_server(alice, welcome) as server:
        record = alice.record
        record.data_addresses[:] = [f"127.0.0.1:{server.getsockname()[1]}"]
        error = error_of(lambda: bob.plane.open_lane(record, WAIT))
    assert error.code is Code.MESSAGE_MALFORMED


# ---- garbage --------------------------------------------------------------------------------


@pytest.mark.parametrize("garbage", [b"this is not TLS" * 10, b"\x16\x03\x01\xff\xff" * 9, b"\0"])
def test_garbage_instead_of_tls_is_hung_up_on(alice, bob, garbage, monkeypatch):
    monkeypatch.setattr(lane_server, "HANDSHAKE_LIMIT", timedelta(milliseconds=300))
    with alice.connect() as connection:
        connection.sendall(garbage)
        assert hung_up(connection)
    still_serves(alice, bob)


@pytest.mark.parametrize("size", [MAX_HELLO_BYTES + 1, 2**32 - 1])
def test_a_hello_that_announces_too_many_bytes_is_refused_before_they_come(alice, size):
    with tls_to(alice) as tls:
        tls.sendall(LENGTH.pack(size))
        assert hung_up(tls)
    until(lambda: alice.plane.refused == {"MESSAGE_OVERSIZED": 1})


def test_a_hello_that_is_none_is_refused(alice):
    with tls_to(alice) as tls:
        tls.sendall(LENGTH.pack(2) + b"\xff\xff")
        assert hung_up(tls)
    until(lambda: alice.plane.refused == {"MESSAGE_MALFORMED": 1})


def lane_of_hostile_peer(alice: Node, client: Identity, *, secret: bytes = SECRET) -> SocketLane:
    """A lane whose opener did the whole handshake, but may hold other keys."""
    tls = tls_to(alice)
    data = LaneHello(secret=SECRET, token=token(client, alice)).SerializeToString()
    tls.sendall(LENGTH.pack(len(data)) + data)
    (size,) = LENGTH.unpack(tls.recv(LENGTH.size))
    welcome = LaneWelcome.FromString(tls.recv(size))
    tls.unwrap()
    seals = Seals.of(secret, welcome.secret, opener=True)
    sock = socket.socket(fileno=tls.detach())
    return SocketLane(sock, alice.peer_id, "direct", seals=seals)


def test_records_under_other_keys_end_the_lane(alice):
    client = Identity.generate()
    honest = lane_of_hostile_peer(alice, client)
    assert exchange(honest, b"ab") == [b"ba"]
    lane = lane_of_hostile_peer(alice, client, secret=b"other" * 6 + b"!!")
    begin(lane)
    assert error_of(lane.receive).code is Code.PEER_UNREACHABLE
    until(lambda: alice.plane.refused == {"MESSAGE_MALFORMED": 1})


# ---- slowness and floods --------------------------------------------------------------------


def test_a_handshake_that_trickles_is_cut_at_its_deadline(alice, bob, monkeypatch):
    monkeypatch.setattr(lane_server, "HANDSHAKE_LIMIT", timedelta(milliseconds=400))
    began = time.monotonic()
    with tls_to(alice) as tls, suppress(OSError):
        tls.sendall(LENGTH.pack(1000))
        while time.monotonic() - began < LIMIT_S:
            tls.sendall(b"x")
            time.sleep(0.05)
    with alice.connect() as silent:
        assert hung_up(silent)
    assert time.monotonic() - began < 3.0
    still_serves(alice, bob)


def test_a_flood_of_silent_connections_pushes_out_the_oldest_and_peers_still_get_in(
    alice, bob, monkeypatch
):
    monkeypatch.setattr(lane_server, "MAX_HALF_OPEN", 4)
    with ExitStack() as stack:
        flood = [stack.enter_context(alice.connect()) for _ in range(20)]
        began = time.monotonic()
        still_serves(alice, bob)
        assert time.monotonic() - began < 2.0  # far below the handshake's limit
        assert all(hung_up(connection) for connection in flood[:10])
        assert len(alice.plane._server._half_open) <= 4


def test_lanes_of_one_peer_are_bounded_and_an_idle_one_makes_room(alice, bob, monkeypatch):
    monkeypatch.setattr(lane_server, "MAX_LANES_PER_PEER", 2)
    working, idle = (bob.plane.open_lane(alice.record, WAIT) for _ in range(2))
    begin(working)
    until(lambda: sum(lane.idle_since_s is None for lane in alice.plane._server._lanes) == 1)
    third = bob.plane.open_lane(alice.record, WAIT)
    until(idle.hung_up)
    begin(third)
    until(lambda: all(lane.idle_since_s is None for lane in alice.plane._server._lanes))
    error = error_of(lambda: bob.plane.open_lane(alice.record, WAIT))
    assert error.code is Code.PEER_REFUSED and "room" in error.message
    still_serves(bob, alice)
    other = Node()
    try:
        still_serves(alice, other)  # another peer has room of its own
    finally:
        other.plane.stop()


def test_lanes_of_all_peers_are_bounded_and_the_longest_idle_makes_room(alice, bob, monkeypatch):
    monkeypatch.setattr(lane_server, "MAX_LANES", 2)
    oldest = bob.plane.open_lane(alice.record, WAIT)
    until(lambda: len(alice.plane._server._lanes) == 1)
    lane = bob.plane.open_lane(alice.record, WAIT)
    until(lambda: len(alice.plane._server._lanes) == 2)
    carol = Node()
    try:
        still_serves(alice, carol)
    finally:
        carol.plane.stop()
    until(oldest.hung_up)
    assert exchange(lane, b"ab") == [b"ba"]


def test_who_keeps_more_busy_lanes_than_it_needs_shuts_nobody_out(alice, bob, monkeypatch):
    monkeypatch.setattr(lane_server, "MAX_LANES", 4)
    monkeypatch.setattr(lane_server, "ENOUGH_LANES", 2)
    held = [bob.plane.open_lane(alice.record, WAIT) for _ in range(4)]
    for lane in held:
        begin(lane)
    until(lambda: sum(lane.idle_since_s is None for lane in alice.plane._server._lanes) == 4)
    carol, dave = Node(), Node()
    try:
        for newcomers in (1, 2):  # each takes another lane's place
            begin(carol.plane.open_lane(alice.record, WAIT))
            until(lambda: sum(lane.hung_up() for lane in held) == newcomers)  # noqa: B023
        until(lambda: sum(alice.plane._server._admitted.values()) == 4)
        error = error_of(lambda: dave.plane.open_lane(alice.record, WAIT))
        assert error.code is Code.PEER_REFUSED  # nobody has more than enough now
    finally:
        carol.plane.stop()
        dave.plane.stop()


def test_a_lane_on_which_a_call_trickles_in_makes_room(alice, bob, monkeypatch):
    monkeypatch.setattr(lane_server, "MAX_LANES_PER_PEER", 1)
    trickling = bob.plane.open_lane(alice.record, WAIT)
    trickling._socket.write([memoryview(HEADER.pack(Kind.CALL, bytes(3), 2**16, 0) + b"x")])
    until(lambda: len(alice.plane._server._lanes) == 1)
    still_serves(alice, bob)
    until(trickling.hung_up)


def test_the_room_of_ended_lanes_is_given_back(alice, bob, monkeypatch):
    monkeypatch.setattr(lane_server, "MAX_LANES_PER_PEER", 2)
    for _ in range(6):
        lane = bob.plane.open_lane(alice.record, WAIT)
        begin(lane)
        bob.plane.release(lane)  # in a call: closed
        until(lambda: not alice.plane._server._admitted)
    assert not alice.plane._server._lanes and not alice.plane._server._half_open


def test_nothing_is_left_open_after_all_that(alice, bob):
    still_serves(alice, bob)
    before = len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else 0
    for _ in range(5):
        lane = bob.plane.open_lane(alice.record, WAIT)
        lane.cancel()
        bob.plane.release(lane)
        stranger = DataPlane(Identity.generate(), b"s" * 32)
        error_of(lambda: stranger.open_lane(alice.record, WAIT))  # noqa: B023
        stranger.stop()
    if before:
        until(lambda: len(os.listdir("/proc/self/fd")) <= before)
