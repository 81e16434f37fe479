"""What the tests of lanes share: pairs of connected lanes, and peers with a data plane."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable
from datetime import timedelta

import pytest

from swarm.errors import SwarmError
from swarm.hashing import bulk_hash
from swarm.identity import Identity
from swarm.network.auth import make_token
from swarm.network.data_plane import DataPlane
from swarm.network.framing import SocketLane
from swarm.network.lane import Kind, Lane
from swarm.network.sealing import Seals
from swarm.network.tls import certificate_sha256
from swarm.wire.data_pb2 import Call, ReduceHello
from swarm.wire.membership_pb2 import PeerRecord

RUN = b"r" * 32
WAIT = timedelta(seconds=10)
SHORT = timedelta(milliseconds=200)
both = pytest.mark.parametrize("sealed", [True, False], ids=["sealed", "plain"])
BLOB = bytes(range(256)) * 4096 * 3 + b"the end"  # three chunks and a rest
BLOB_HASH = bulk_hash(BLOB)


class Node:
    """One peer's data plane, listening, with its record; it answers chunks by their reverse."""

    def __init__(self, **options) -> None:
        self.identity = Identity.generate()
        self.run_id = options.pop("run_id", RUN)
        self.plane = DataPlane(self.identity, self.run_id, **options)
        self.address = self.plane.start("127.0.0.1", 0)
        self.blobs = {BLOB_HASH: BLOB}
        self.plane.set_blob_source(self.blob)
        self.plane.set_reduce_handler(reverse)

    def blob(self, blob_hash: bytes) -> memoryview | None:
        return memoryview(self.blobs[blob_hash]) if blob_hash in self.blobs else None

    @property
    def peer_id(self) -> str:
        return self.identity.peer_id

    @property
    def port(self) -> int:
        return int(self.address.rpartition(":")[2])

    @property
    def record(self) -> PeerRecord:
        return PeerRecord(
            peer_id=self.peer_id,
            data_addresses=[self.address],
            tls_certificate=self.plane.certificate_pem,
        )

    def connect(self) -> socket.socket:
        """A bare TCP connection to it."""
        return socket.create_connection(("127.0.0.1", self.port), 5)


def reverse(peer: str, lane: Lane, hello: ReduceHello) -> None:
    while (frame := lane.receive()).kind is Kind.CHUNK:
        lane.send(Kind.CHUNK, frame.index, lane.read()[::-1])
    lane.send(Kind.END)


def begin(lane: Lane, round_index: int = 1) -> None:
    """Open a reduce call."""
    call = Call(reduce=ReduceHello(branch=b"b", round=round_index, lanes=1))
    lane.send(Kind.CALL, 0, call.SerializeToString())


def exchange(lane: Lane, *chunks: bytes) -> list[bytes]:
    """A whole reduce call; what came back."""
    begin(lane)
    for index, data in enumerate(chunks):
        lane.send(Kind.CHUNK, index, data)
    lane.send(Kind.END)
    answers = []
    while (frame := lane.receive()).kind is Kind.CHUNK:
        answers.append(lane.read())
    assert frame.kind is Kind.END
    return answers


def token(client: Identity, node: Node, **changes) -> bytes:
    """A client's token for a node, with any field of it changed."""
    fields = {
        "run_id": RUN,
        "server": node.peer_id,
        "certificate_sha256": certificate_sha256(node.plane.certificate_pem),
        "now_ms": int(time.time() * 1000),
        "permission": b"",
    }
    return make_token(client, **{**fields, **changes})


def sockets(kind: str = "unix") -> tuple[socket.socket, socket.socket]:
    """Two connected sockets."""
    if kind == "unix":
        return socket.socketpair()
    with socket.create_server(("127.0.0.1", 0)) as server:
        left = socket.create_connection(server.getsockname())
        return left, server.accept()[0]


def lanes(
    sealed: bool, stall: timedelta = WAIT, kind: str = "tcp"
) -> tuple[SocketLane, SocketLane]:
    """The two ends of a lane."""
    left, right = sockets(kind)
    secrets = b"o" * 32, b"a" * 32
    ours = Seals.of(*secrets, opener=True) if sealed else None
    theirs = Seals.of(*secrets, opener=False) if sealed else None
    return (
        SocketLane(left, "right", "direct", seals=ours, stall=stall),
        SocketLane(right, "left", "direct", seals=theirs, stall=stall),
    )


def error_of(call: Callable[[], object]) -> SwarmError:
    with pytest.raises(SwarmError) as caught:
        call()
    return caught.value


def failure_after(lane: Lane, *frames: tuple) -> str:
    for frame in frames:
        lane.send(*frame)
    while lane.receive().kind is not Kind.FAILURE:
        lane.read()
    return lane.read().decode()


def take(lane: SocketLane) -> tuple[Kind, int, bytes]:
    frame = lane.receive()
    return frame.kind, frame.index, lane.read()
