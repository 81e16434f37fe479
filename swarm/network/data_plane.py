"""Bulk transfers between two peers: lanes, opened and served in threads; one instance per node.

    plane = DataPlane(identity, run_id)
    address = plane.start("127.0.0.1", 0)              # into PeerRecord.data_addresses
    plane.certificate_pem                              # into PeerRecord.tls_certificate
    plane.set_reduce_handler(lambda peer, lane, hello: ...)
    plane.set_blob_source(lambda blob_hash: memoryview_or_none)

    lane = plane.open_lane(record, limit)              # see swarm/network/lane.py
    plane.release(lane)
    plane.download_blob([record], blob_hash, memoryview(buffer), timeout)

A lane is authenticated both ways (`swarm.network.handshake`) and encrypted, unless both ends agree
to `protection=PLAIN` for a LAN that they trust. Callbacks run in the threads of their lanes. Every
failure is a `SwarmError`, every wait has a limit, and a lane can be cancelled from any thread.
"""

from __future__ import annotations

import datetime
import socket
import time
from collections import Counter
from collections.abc import Callable, Sequence
from datetime import timedelta

from swarm.identity import Identity
from swarm.network.admission import Admission, open_to_all
from swarm.network.calls import BlobSource, CallService, ReduceHandler
from swarm.network.download import download_blob
from swarm.network.framing import SocketLane
from swarm.network.handshake import Handshake
from swarm.network.lane import Lane
from swarm.network.lane_pool import LanePool, OpenTunnel
from swarm.network.lane_server import LaneServer
from swarm.network.punching import Source
from swarm.network.tls import certificate_sha256, new_certificate, server_tls
from swarm.network.traffic import Meter, Rates, Traffic
from swarm.network.transport import Clock
from swarm.wire.data_pb2 import SEALED, Protection
from swarm.wire.membership_pb2 import PeerRecord

IDLE_LIMIT = timedelta(minutes=2)


class DataPlane:
    """See the module docstring.

    Attributes:
        certificate_pem: certificate that callers must pin, new for each instance.
    """

    def __init__(
        self,
        identity: Identity,
        run_id: bytes,
        *,
        protection: Protection = SEALED,
        idle_limit: timedelta = IDLE_LIMIT,
        now: Clock = time.time,
        admission: Admission | None = None,
    ) -> None:
        moment = datetime.datetime.fromtimestamp(now(), datetime.timezone.utc)
        certificate = new_certificate(moment)
        self.certificate_pem = certificate.certificate_pem
        self._meter = Meter()
        self._service = CallService()
        handshake = Handshake(
            identity,
            run_id,
            certificate_sha256(certificate.certificate_pem),
            server_tls(certificate),
            protection,
            self._meter,
            now,
            admission or open_to_all(run_id),
        )
        self._server = LaneServer(handshake, self._service, idle_limit)
        self._pool = LanePool(handshake)

    @property
    def traffic(self) -> Traffic:
        """Payload bytes sent to and received from each peer."""
        return self._meter.traffic

    @property
    def rates(self) -> Rates:
        """Best delivered upload and download of the last minutes, as far as they are known."""
        return self._meter.rates

    def limit_rates(self, upload_bps: float, download_bps: float) -> None:
        """Hold all lanes together to these rates in bits per second, at once; 0.0 is no limit."""
        self._meter.uploads.set_rate(upload_bps)
        self._meter.downloads.set_rate(download_bps)

    def set_serving(self, serving: bool) -> None:
        """Refuse the calls of others from now on, or take them again."""
        self._service.serving = serving

    @property
    def paths(self) -> dict[str, str]:
        """How each peer was reached last: its address, or "tunnel"."""
        return self._pool.paths()

    @property
    def refused(self) -> Counter[str]:
        """Lanes, calls and frames that were not let in, by error code."""
        return self._service.refused

    def start(self, host: str, port: int) -> str:
        """Listen; returns "host:port". Port 0 takes a free one. Raises `PORT_IN_USE`."""
        return self._server.start(host, port)

    def stop(self) -> None:
        """End all lanes, both ways, and stop listening."""
        self._pool.close()
        self._server.stop()

    def set_reduce_handler(self, handler: ReduceHandler) -> None:
        """Serve reduce calls: `handler(peer, lane, hello)` returns when the call is over.

        Both sides have said END then. A `SwarmError` out of it reaches the opener as a FAILURE.
        """
        self._service.reduce_handler = handler

    def set_blob_source(self, source: BlobSource) -> None:
        """Serve downloads: `source(blob_hash)` is the blob's bytes, or None if unknown."""
        self._service.blob_source = source

    def set_tunnel(self, open_tunnel: OpenTunnel) -> None:
        """The way to peers whom no address reaches: a connected socket of a libp2p stream.

        `open_tunnel(record, limit)` blocks and raises `PEER_UNREACHABLE`.
        """
        self._pool.open_tunnel = open_tunnel

    def accept_tunnel(self, peer: str, sock: socket.socket) -> None:
        """Serve such a stream that `peer`, authenticated by libp2p, has opened; returns at once."""
        self._server.accept_tunnel(peer, sock)

    def set_addresses(self, addresses: Callable[[PeerRecord], list[str]]) -> None:
        """Which "host:port" of a peer's record are worth a try; all of them, if not set."""
        self._pool.addresses = addresses

    def renew(self, peer: str) -> None:
        """A better path to `peer` has appeared: the next calls take it."""
        self._pool.renew(peer)

    @property
    def tunnelled(self) -> set[str]:
        """Peers with whom calls are under way through tunnels."""
        return self._pool.tunnelled() | self._server.tunnelled()

    def seen_from(self, source: Source, record: PeerRecord, limit: timedelta) -> str:
        """How the peer of a verified record sees the connections of a port, as "host:port".

        The connection on which it was seen is kept with the source. Blocking; raises
        `PEER_UNREACHABLE`, `PEER_REFUSED` or `MESSAGE_MALFORMED`.
        """
        return self._pool.seen_from(source, record, limit)

    def open_lane(self, record: PeerRecord, limit: timedelta) -> Lane:
        """An idle lane to the peer of a verified record, or a new one within `limit`.

        Raises `PEER_UNREACHABLE`, `PEER_REFUSED` or `MESSAGE_MALFORMED`.
        """
        return self._pool.open(record, limit)

    def release(self, lane: Lane) -> None:
        """Give a lane back that no thread uses any more: kept if at rest, else closed."""
        assert isinstance(lane, SocketLane)
        self._pool.release(lane)

    def download_blob(
        self, sources: Sequence[PeerRecord], blob_hash: bytes, into: memoryview, timeout: timedelta
    ) -> None:
        """See `swarm.network.download.download_blob`."""
        download_blob(self, sources, blob_hash, into, timeout)
