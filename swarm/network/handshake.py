"""How a connected socket becomes a lane: TLS, who are you, keys, then TLS steps aside.

    lane = Handshake(identity, run_id, ...).open_direct(sock, record, deadline_s)
    lane = handshake.accept_direct(sock, deadline_s)
    lane = handshake.open_tunnel(sock, record, deadline_s)        # a libp2p stream: no TLS in it
    lane = handshake.accept_tunnel(sock, peer, deadline_s)

Direct: a TLS 1.3 handshake in which the opener pins the certificate of the acceptor's signed peer
record; inside it a `LaneHello` with the opener's sealed token and a `LaneWelcome`, each with half
of the secret; then both close TLS and go on over the bare socket with sealed records. In a tunnel
libp2p has authenticated and encrypts both ends, so hello and welcome only settle run and refusal.
Deadlines are of the monotonic clock and hold for the whole handshake, however slowly bytes trickle.
"""

from __future__ import annotations

import secrets
import socket
import ssl
import struct
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import TypeVar

from google.protobuf.message import DecodeError, Message

from swarm.errors import Code, SwarmError
from swarm.identity import Identity
from swarm.network.admission import Admission
from swarm.network.auth import check_token, make_token
from swarm.network.framing import LINGER, SocketLane
from swarm.network.sealing import SECRET_BYTES, Seals
from swarm.network.tls import SERVER_NAME, certificate_sha256, client_tls
from swarm.network.traffic import Meter
from swarm.network.transport import Clock
from swarm.wire.data_pb2 import PLAIN, SEALED, LaneHello, LaneWelcome, Protection
from swarm.wire.membership_pb2 import PeerRecord

MAX_HELLO_BYTES = 2**13
MAX_SEEN = 80  # characters of "host:port"
LENGTH = struct.Struct("<I")
Told = TypeVar("Told", bound=Message)
Admit = Callable[[str], None]  # raises a SwarmError when there is no room for another lane


@dataclass(frozen=True)
class Handshake:
    """One node's side of every handshake.

    Attributes:
        certificate_digest: SHA-256 of the own certificate, DER.
        server_tls: context with the own certificate.
        protection: PLAIN if this node agrees to lanes without encryption.
        meter: what the lanes report to.
    """

    identity: Identity
    run_id: bytes
    certificate_digest: bytes
    server_tls: ssl.SSLContext
    protection: Protection
    meter: Meter
    now: Clock
    admission: Admission

    # ---- opening --------------------------------------------------------------------------

    def open_direct(self, sock: socket.socket, record: PeerRecord, deadline_s: float) -> SocketLane:
        """A lane over a TCP connection to the peer of a verified record.

        Raises `PEER_UNREACHABLE` (also for another certificate), `PEER_REFUSED` with the peer's
        code, or `MESSAGE_MALFORMED`. The socket is closed then.
        """
        peer = record.peer_id
        with _closing_on_error(sock, peer):
            sock.settimeout(left(deadline_s))
            tls = client_tls(record.tls_certificate).wrap_socket(sock, server_hostname=SERVER_NAME)
        with _closing_on_error(tls, peer):
            hello, welcome = self._greet(tls, record, deadline_s)
            sock = _leave_tls(tls, deadline_s)
        plain = welcome.protection == PLAIN
        seals = None if plain else Seals.of(hello.secret, welcome.secret, opener=True)
        lane = SocketLane(sock, peer, "plain" if plain else "direct", seals=seals, meter=self.meter)
        lane.seen = welcome.seen[:MAX_SEEN]
        return lane

    def open_tunnel(self, sock: socket.socket, record: PeerRecord, deadline_s: float) -> SocketLane:
        """A lane over a libp2p stream to the peer of a verified record; errors as above."""
        with _closing_on_error(sock, record.peer_id):
            self._greet(sock, record, deadline_s)
        return SocketLane(sock, record.peer_id, "tunnel", meter=self.meter)

    def _greet(
        self, stream: socket.socket, record: PeerRecord, deadline_s: float
    ) -> tuple[LaneHello, LaneWelcome]:
        token = make_token(
            self.identity,
            run_id=self.run_id,
            server=record.peer_id,
            certificate_sha256=certificate_sha256(record.tls_certificate),
            now_ms=int(self.now() * 1000),
            permission=self.admission.own,
        )
        secret = secrets.token_bytes(SECRET_BYTES)
        hello = LaneHello(token=token, secret=secret, protection=self.protection)
        _tell(stream, hello, deadline_s)
        welcome = _hear(stream, LaneWelcome, deadline_s)
        if welcome.code:
            words = f"{welcome.code[:80]}: {welcome.message[:300]}"
            raise SwarmError(Code.PEER_REFUSED, f"{record.peer_id}: {words}")
        if len(welcome.secret) != SECRET_BYTES or welcome.protection not in (
            SEALED,
            self.protection,
        ):
            raise SwarmError(Code.MESSAGE_MALFORMED, f"{record.peer_id}: not a fit welcome")
        return hello, welcome

    # ---- accepting ------------------------------------------------------------------------

    def accept_direct(self, tls: socket.socket, admit: Admit, deadline_s: float) -> SocketLane:
        """A lane of whoever connected, authenticated. Raises what is wrong with it.

        `tls` is the connection wrapped in `server_tls` but before its TLS handshake.
        """
        assert isinstance(tls, ssl.SSLSocket)
        with _closing_on_error(tls, "a caller"):
            tls.settimeout(left(deadline_s))
            tls.do_handshake()
            peer, hello, welcome = self._welcome(tls, "", admit, deadline_s)
            sock = _leave_tls(tls, deadline_s)
        if welcome.protection == PLAIN:
            return SocketLane(sock, peer, "plain", meter=self.meter)
        seals = Seals.of(hello.secret, welcome.secret, opener=False)
        return SocketLane(sock, peer, "direct", seals=seals, meter=self.meter)

    def accept_tunnel(
        self, sock: socket.socket, peer: str, admit: Admit, deadline_s: float
    ) -> SocketLane:
        """A lane over a libp2p stream that `peer` opened, as libp2p knows it."""
        with _closing_on_error(sock, peer):
            self._welcome(sock, peer, admit, deadline_s)
        return SocketLane(sock, peer, "tunnel", meter=self.meter)

    def _welcome(
        self, stream: socket.socket, expected: str, admit: Admit, deadline_s: float
    ) -> tuple[str, LaneHello, LaneWelcome]:
        hello = _hear(stream, LaneHello, deadline_s)
        try:
            peer = self._check_hello(hello, expected)
            admit(peer)
        except SwarmError as error:
            _tell(stream, LaneWelcome(code=error.code.value, message=error.message), deadline_s)
            _await_hangup(stream, deadline_s)
            raise
        both_plain = hello.protection == PLAIN and self.protection == PLAIN
        welcome = LaneWelcome(
            secret=secrets.token_bytes(SECRET_BYTES),
            protection=PLAIN if both_plain else SEALED,
            seen="" if expected else _far_end(stream),
        )
        _tell(stream, welcome, deadline_s)
        return peer, hello, welcome

    def _check_hello(self, hello: LaneHello, expected: str) -> str:
        peer = check_token(
            hello.token,
            run_id=self.run_id,
            server=self.identity.peer_id,
            certificate_sha256=self.certificate_digest,
            now_ms=int(self.now() * 1000),
            admission=self.admission,
        )
        if expected and peer != expected:
            raise SwarmError(Code.SIGNATURE_INVALID, f"token of {peer} on a stream of {expected}")
        if len(hello.secret) != SECRET_BYTES:
            raise SwarmError(Code.MESSAGE_MALFORMED, f"secret of {len(hello.secret)} bytes")
        return peer


class _closing_on_error:  # noqa: N801
    """Close the socket when the block fails, and turn what sockets raise into a `SwarmError`."""

    def __init__(self, sock: socket.socket, peer: str) -> None:
        self._sock = sock
        self._peer = peer

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if error is None:
            return
        self._sock.close()
        if isinstance(error, TimeoutError):
            raise SwarmError(
                Code.PEER_UNREACHABLE, f"{self._peer}: no handshake in time"
            ) from error
        if isinstance(error, OSError):  # TLS errors too
            reason = error.strerror or str(error)
            raise SwarmError(Code.PEER_UNREACHABLE, f"{self._peer}: {reason}") from error


def left(deadline_s: float) -> float:
    """Seconds until a deadline. Raises `TimeoutError` when it is over."""
    rest = deadline_s - time.monotonic()
    if rest <= 0:
        raise TimeoutError
    return rest


def _far_end(sock: socket.socket) -> str:
    host, port = sock.getpeername()[:2]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _leave_tls(tls: ssl.SSLSocket, deadline_s: float) -> socket.socket:
    """Close TLS both ways. OpenSSL reads record by record, so what follows is not lost."""
    tls.settimeout(left(deadline_s))
    tls.unwrap()
    return socket.socket(fileno=tls.detach())


def _tell(stream: socket.socket, message: Message, deadline_s: float) -> None:
    data = message.SerializeToString()
    stream.settimeout(left(deadline_s))
    stream.sendall(LENGTH.pack(len(data)) + data)


def _hear(stream: socket.socket, kind: type[Told], deadline_s: float) -> Told:
    (size,) = LENGTH.unpack(_exactly(stream, LENGTH.size, deadline_s))
    if size > MAX_HELLO_BYTES:
        raise SwarmError(Code.MESSAGE_OVERSIZED, f"handshake message of {size} bytes")
    try:
        return kind.FromString(_exactly(stream, size, deadline_s))
    except DecodeError as error:
        raise SwarmError(Code.MESSAGE_MALFORMED, f"not a {kind.DESCRIPTOR.full_name}") from error


def _await_hangup(stream: socket.socket, deadline_s: float) -> None:
    """Let the other side read what it was told: to close first may destroy it (p2pd does)."""
    deadline_s = min(deadline_s, time.monotonic() + LINGER.total_seconds())
    with suppress(OSError):
        while True:
            stream.settimeout(left(deadline_s))
            if not stream.recv(4096):
                return


def _exactly(stream: socket.socket, size: int, deadline_s: float) -> bytes:
    data = bytearray()
    while len(data) < size:
        stream.settimeout(left(deadline_s))
        part = stream.recv(size - len(data))
        if not part:
            raise ConnectionResetError("it closed the connection")
        data += part
    return bytes(data)
