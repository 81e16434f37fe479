"""The data plane inside one process: real frames over socket pairs, and a place to break things.

hub = LocalBulkHub()
bulk = hub.join(peer_id)
hub.attach(peer_id, member.registry.handle, state.blob)
hub.kill(peer_id)                      # its lanes break, in both directions
hub.on_frame = lambda source, target, kind, index: None   # before each frame sent upstream
"""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import TypeAlias

from swarm.errors import Code, SwarmError
from swarm.network.calls import BlobSource, CallService, ReduceHandler
from swarm.network.download import download_blob
from swarm.network.framing import SocketLane
from swarm.network.lane import Buffer, Kind, Lane
from swarm.wire.membership_pb2 import PeerRecord

IDLE_LIMIT = timedelta(seconds=20)
OnFrame: TypeAlias = Callable[[str, str, Kind, int], None]


class LocalBulkHub:
    """All peers' data planes.

    Attributes:
        on_frame: called with source, target, kind and index before an opener sends a frame; what it
            raises comes out of `send`, and it may kill either peer.
        downloads: calls of `download_blob`.
    """

    def __init__(self) -> None:
        self.on_frame: OnFrame = lambda source, target, kind, index: None
        self.downloads = 0
        self._lock = threading.Lock()
        self._served: dict[str, CallService] = {}
        self._lanes: list[tuple[str, str, SocketLane, SocketLane]] = []

    def join(self, peer: str) -> LocalBulk:
        """The client side of one peer."""
        return LocalBulk(self, peer)

    def attach(self, peer: str, reduce: ReduceHandler, blob: BlobSource) -> None:
        """The server side of one peer; an earlier one of the same peer dies."""
        self.kill(peer)
        service = CallService()
        service.reduce_handler, service.blob_source = reduce, blob
        with self._lock:
            self._served[peer] = service

    def kill(self, peer: str) -> None:
        """Break every lane of a peer."""
        with self._lock:
            self._served.pop(peer, None)
            broken = [ends for ends in self._lanes if peer in ends[:2]]
        for _, _, here, there in broken:
            here.cancel()
            there.cancel()

    def connect(self, source: str, target: str) -> SocketLane:
        """A lane between two living peers. Raises `PEER_UNREACHABLE`."""
        with self._lock:
            service = self._served.get(target)
            if service is None or source not in self._served:
                raise SwarmError(Code.PEER_UNREACHABLE, f"{target}: connection refused")
            left, right = socket.socketpair()
            here = LocalLane(left, self, source, target)
            there = SocketLane(right, source, "local")
            ends = (source, target, here, there)
            self._lanes.append(ends)

        def serve() -> None:
            service.serve(there, IDLE_LIMIT)
            with self._lock:
                self._lanes.remove(ends)

        threading.Thread(target=serve, daemon=True, name=f"lane-{source[-6:]}").start()
        return here


class LocalLane(SocketLane):
    """The opener's end of a lane."""

    def __init__(self, sock: socket.socket, hub: LocalBulkHub, source: str, target: str) -> None:
        super().__init__(sock, target, "local")
        self._hub = hub
        self._source = source

    def send(self, kind: Kind, index: int = 0, *payload: Buffer) -> None:
        """See `Lane.send`."""
        self._hub.on_frame(self._source, self.peer, kind, index)
        super().send(kind, index, *payload)


class NoRates:
    """Links inside a process have no rate worth knowing."""

    upload_bps = 0.0
    download_bps = 0.0


class LocalBulk:
    """One peer's client; has the methods of the real data plane that the collective uses."""

    def __init__(self, hub: LocalBulkHub, peer: str) -> None:
        self.rates = NoRates()
        self._hub = hub
        self._peer = peer

    def open_lane(self, record: PeerRecord, limit: timedelta) -> Lane:
        """See `DataPlane.open_lane`; never an idle one, so that a test sees each lane begin."""
        return self._hub.connect(self._peer, record.peer_id)

    def release(self, lane: Lane) -> None:
        """See `DataPlane.release`."""
        assert isinstance(lane, SocketLane)
        lane.close()

    def download_blob(
        self, sources: Sequence[PeerRecord], blob_hash: bytes, into: memoryview, timeout: timedelta
    ) -> None:
        """See `DataPlane.download_blob`."""
        self._hub.downloads += 1
        download_blob(self, sources, blob_hash, into, timeout)
