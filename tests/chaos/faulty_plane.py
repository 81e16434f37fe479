"""The data plane of the chaos tests: the real one, with steps at every chunk, cuts and a brake.

    plane = FaultyPlane(identity, run_id)              # a `DataPlane`
    plane.saboteur = saboteur                          # faults.py

Everything that knows how the data plane moves its bytes is here.
"""

from __future__ import annotations

from datetime import timedelta

from faults import Attempt, Saboteur, attempt_of

from swarm.network.calls import BlobSource, ReduceHandler
from swarm.network.data_plane import DataPlane
from swarm.network.lane import Buffer, Frame, Kind, Lane
from swarm.wire.data_pb2 import Call
from swarm.wire.membership_pb2 import PeerRecord


class FaultyPlane(DataPlane):
    """See the module docstring."""

    saboteur: Saboteur

    def open_lane(self, record: PeerRecord, limit: timedelta) -> Lane:
        self.saboteur.check_cut(record.peer_id)
        return WatchedLane(super().open_lane(record, limit), self.saboteur, "chunk")

    def release(self, lane: Lane) -> None:
        assert isinstance(lane, WatchedLane)
        super().release(lane.inner)

    def set_reduce_handler(self, handler: ReduceHandler) -> None:
        super().set_reduce_handler(
            lambda peer, lane, hello: handler(
                peer, WatchedLane(lane, self.saboteur, "mean", attempt_of(hello)), hello
            )
        )

    def set_blob_source(self, source: BlobSource) -> None:
        def harmed(blob_hash: bytes) -> memoryview | None:
            self.saboteur.counted("upload")
            return source(blob_hash)

        super().set_blob_source(harmed)


class WatchedLane:
    """A `Lane` whose chunks are steps; `kind` is what the chunks that it sends are.

    `attempt` is theirs; a lane that this process opens learns it from its own CALL.
    """

    def __init__(
        self, inner: Lane, saboteur: Saboteur, kind: str, attempt: Attempt = (-1, 0, "")
    ) -> None:
        self.inner = inner
        self.peer, self.path = inner.peer, inner.path
        self.read, self.read_into = inner.read, inner.read_into
        self.set_stall, self.cancel = inner.set_stall, inner.cancel
        self._saboteur = saboteur
        self._kind = kind
        self._attempt = attempt
        self._downloads = False

    def send(self, kind: Kind, index: int = 0, *payload: Buffer) -> None:
        self._saboteur.check_cut(self.peer)
        if kind is Kind.CALL:
            call = Call.FromString(b"".join(bytes(part) for part in payload))
            self._downloads = call.WhichOneof("call") == "download"
            self._attempt = attempt_of(call.reduce)
        elif kind is Kind.CHUNK and payload:
            self._saboteur.chunk(self._kind, self._attempt)
        self.inner.send(kind, index, *payload)

    def receive(self) -> Frame:
        frame = self.inner.receive()
        self._saboteur.check_cut(self.peer)
        if self._downloads and frame.kind is Kind.CHUNK:
            self._saboteur.counted("download")
        return frame
