"""A relay with a budget: makes hidden peers reachable and forwards their connections.

    service = RelayService(hop_streams, stop_streams, meter, admits)
    service.start()                    # blocking, a moment; p2pd hands us the streams from now on
    service.serving = True             # before that, everybody is refused
    service.stop()

It takes the place of p2pd's own relay, which knows no bandwidth, and cuts every connection after
128 KiB or 2 minutes if two parts of p2pd's start race the wrong way. A circuit has two ends that
trust only each other: what we forward is encrypted from end to end, and one libp2p connection.
"""

from __future__ import annotations

import logging
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta

from swarm.errors import SwarmError
from swarm.network.p2p.circuit import peer_message
from swarm.network.p2p.hivemind_parts import PeerID
from swarm.network.p2p.streams import Streams, read_message, write_message
from swarm.network.relay_budget import RelayMeter, refused
from swarm.wire import circuit_pb2 as pb

logger = logging.getLogger(__name__)

HANDSHAKE = timedelta(seconds=8)
MAX_HALF_OPEN = 128  # requests that are being answered
MAX_HALF_OPEN_PER_PEER = 16
CHUNK_BYTES = 2**16
LONGEST_PAUSE_S = 5.0  # what is owed beyond it is paid by the next bytes


class RelayService:
    """See the module docstring.

    Attributes:
        serving: whether requests are granted.
    """

    def __init__(
        self, hop: Streams, stop: Streams, meter: RelayMeter, admits: Callable[[str], bool]
    ) -> None:
        self.serving = False
        self._admits = admits
        self._hop = hop
        self._stop = stop
        self._meter = meter
        self._lock = threading.Lock()
        self._half_open: Counter[str] = Counter()  # by peer
        self._circuits: set[tuple[socket.socket, socket.socket]] = set()
        self._stopped = threading.Event()

    def start(self) -> None:
        """Take the relay's protocol from p2pd. Raises `P2P_START_FAILED`."""
        self._hop.serve(self._accept)

    def stop(self) -> None:
        """Serve no more and end all circuits."""
        self.serving = False
        self._stopped.set()
        self._hop.stop()
        with self._lock:
            ends = [sock for circuit in self._circuits for sock in circuit]
        for sock in ends:
            _shut(sock)

    @property
    def circuits(self) -> int:
        """Connections that are forwarded at the moment."""
        return len(self._circuits)

    def _accept(self, peer: str, sock: socket.socket) -> None:
        with self._lock:
            full = (
                self._half_open[peer] >= MAX_HALF_OPEN_PER_PEER
                or self._half_open.total() >= MAX_HALF_OPEN
            )
            if full or self._stopped.is_set():
                sock.close()
                return
            self._half_open[peer] += 1
        try:
            threading.Thread(
                target=self._serve, args=(peer, sock), name="relay-request", daemon=True
            ).start()
        except RuntimeError as error:  # the system gives no more threads
            logger.warning("relay: %s", error)
            self._leave(peer)
            sock.close()

    def _leave(self, peer: str) -> None:
        """A request of `peer` has been answered."""
        with self._lock:
            self._half_open[peer] -= 1
            if not self._half_open[peer]:
                del self._half_open[peer]

    def _serve(self, peer: str, sock: socket.socket) -> None:
        circuit: tuple[str, socket.socket] | None = None
        try:
            deadline_s = time.monotonic() + HANDSHAKE.total_seconds()
            request = read_message(sock, pb.HopMessage(), deadline_s)
            circuit = self._answer(peer, sock, request, deadline_s)
        except SwarmError as error:
            logger.info("relay: refused %s: %s", peer, error.message)
        except (OSError, ValueError) as error:
            logger.debug("relay: a request of %s came to nothing: %s", peer, error)
        finally:
            self._leave(peer)
            if circuit is None:
                sock.close()
        if circuit is not None:
            self._forward(peer, circuit[0], sock, circuit[1])

    def _answer(
        self, peer: str, sock: socket.socket, request: pb.HopMessage, deadline_s: float
    ) -> tuple[str, socket.socket] | None:
        """Grant or refuse; the called peer and the stream to it if there is a circuit now."""
        if request.type == pb.HopMessage.RESERVE:
            self._grant(peer, lambda: self._meter.reserve(peer, time.monotonic()), sock)
            ttl_s = self._meter.budget.reservation_ttl.total_seconds()
            reply = _status(pb.CIRCUIT_OK)
            reply.reservation.expire = int(time.time() + ttl_s)
            write_message(sock, reply)
            _wait_for_end(sock, deadline_s)
            return None
        if request.type != pb.HopMessage.CONNECT:
            write_message(sock, _status(pb.CIRCUIT_UNEXPECTED_MESSAGE))
            return None
        called = PeerID(request.peer.id).to_base58()
        self._grant(peer, lambda: self._meter.open(peer, called, time.monotonic()), sock)
        out: socket.socket | None = None
        try:
            out = self._call(peer, called, deadline_s)
            write_message(sock, _status(pb.CIRCUIT_OK))
        except (SwarmError, OSError, ValueError):
            with self._lock:
                self._meter.close(peer, called)
            if out is not None:
                out.close()
            with suppress(OSError):
                write_message(sock, _status(pb.CIRCUIT_CONNECTION_FAILED))
            raise
        return called, out

    def _grant(self, peer: str, take: Callable[[], None], sock: socket.socket) -> None:
        try:
            if not self._admits(peer):
                raise refused("not admitted to the run")
            with self._lock:
                if not self.serving:
                    raise refused("not serving")
                take()
        except SwarmError:
            write_message(sock, _status(pb.CIRCUIT_RESOURCE_LIMIT_EXCEEDED))
            raise

    def _call(self, caller: str, called: str, deadline_s: float) -> socket.socket:
        """A stream to the called peer, which has agreed."""
        left = timedelta(seconds=max(0.05, deadline_s - time.monotonic()))
        out = self._stop.open(called, left)
        try:
            request = pb.StopMessage(type=pb.StopMessage.CONNECT, peer=peer_message(caller))
            write_message(out, request)
            reply = read_message(out, pb.StopMessage(), deadline_s)
            if reply.status != pb.CIRCUIT_OK:
                raise refused(f"{called} does not take the call")
        except BaseException:
            out.close()
            raise
        return out

    def _forward(self, caller: str, called: str, near: socket.socket, far: socket.socket) -> None:
        with self._lock:
            self._circuits.add((near, far))
        back = threading.Thread(
            target=self._pump, args=(far, near, caller, called), name="relay-back", daemon=True
        )
        try:
            back.start()
            self._pump(near, far, caller, called)
            back.join()
        except RuntimeError as error:  # the system gives no more threads
            logger.warning("relay: %s", error)
        finally:
            with self._lock:
                self._circuits.discard((near, far))
                self._meter.close(caller, called)
            near.close()
            far.close()

    def _pump(self, source: socket.socket, sink: socket.socket, *peers: str) -> None:
        """Forward one way until either end hangs up; the other way ends with it."""
        buffer = memoryview(bytearray(CHUNK_BYTES))
        caller, called = peers
        try:
            source.settimeout(None)
            sink.settimeout(None)
            while count := source.recv_into(buffer):
                with self._lock:
                    pause_s = self._meter.take(caller, called, count, time.monotonic())
                if pause_s and self._stopped.wait(min(pause_s, LONGEST_PAUSE_S)):
                    break
                sink.sendall(buffer[:count])
        except (OSError, ValueError):
            pass  # a circuit that breaks is as good as one that ends
        finally:
            _shut(source)
            _shut(sink)


def _status(status: pb.CircuitStatus) -> pb.HopMessage:
    return pb.HopMessage(type=pb.HopMessage.STATUS, status=status)


def _wait_for_end(sock: socket.socket, deadline_s: float) -> None:
    """Let the other end hang up first: p2pd loses what is under way when we do."""
    sock.settimeout(max(0.05, deadline_s - time.monotonic()))
    sock.recv(1)


def _shut(sock: socket.socket) -> None:
    with suppress(OSError):
        sock.shutdown(socket.SHUT_RDWR)
