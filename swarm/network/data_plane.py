"""Bulk transfers between two peers: one gRPC service over TLS, in threads, one instance per node.

    plane = DataPlane(identity, run_id)
    address = plane.start("127.0.0.1", 0)              # into PeerRecord.data_addresses
    plane.certificate_pem                              # into PeerRecord.tls_certificate
    plane.set_reduce_handler(lambda peer, frames: answer_frames)
    plane.set_blob_source(lambda sha256: memoryview_or_none)

    with plane.reduce_stream(record, frames, timeout) as answers:
        for frame in answers: ...
    plane.download_blob([record], sha256, memoryview(buffer), timeout)

Server: TLS with a certificate that the signed peer record binds to the peer's key. Client: a
sealed `DataToken` in the call's metadata, good for this server's certificate and one minute.
Callbacks run in gRPC's threads. Every failure is a `SwarmError`; a stream can be cancelled from
any thread. gRPC does not notice a frozen peer: who waits for bytes keeps a deadline of his own.
"""

from __future__ import annotations

import datetime
import hashlib
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any

import grpc

from swarm.errors import Code, SwarmError
from swarm.identity import Identity
from swarm.network.auth import check_token, make_token
from swarm.network.data_client import MAX_GRPC_MESSAGE_BYTES, DataClient, Stream, fitting
from swarm.network.data_server import (
    BlobSource,
    DataServicer,
    IdleWatch,
    ReduceHandler,
    Traffic,
)
from swarm.network.tls import certificate_sha256, new_certificate
from swarm.network.transport import Clock
from swarm.wire.data_pb2 import ReduceFrame
from swarm.wire.data_pb2_grpc import add_DataPlaneServicer_to_server
from swarm.wire.membership_pb2 import PeerRecord

MAX_CALLS = 64  # served at once; each holds a thread
IDLE_LIMIT = timedelta(minutes=2)
STOP_WAIT = timedelta(seconds=1)
SERVER_OPTIONS: tuple[tuple[str, Any], ...] = (
    ("grpc.so_reuseport", 0),  # a taken port must be an error
    ("grpc.max_receive_message_length", MAX_GRPC_MESSAGE_BYTES),
    ("grpc.max_send_message_length", MAX_GRPC_MESSAGE_BYTES),
    ("grpc.max_connection_idle_ms", 300_000),
    ("grpc.keepalive_time_ms", 20_000),
    ("grpc.keepalive_timeout_ms", 5_000),
    ("grpc.http2.min_recv_ping_interval_without_data_ms", 5_000),
)


class DataPlane:
    """Serves and calls the `DataPlane` service of data.proto.

    Attributes:
        certificate_pem: the server's certificate, new for each instance.
        traffic: payload bytes sent to and received from each peer.
    """

    def __init__(
        self,
        identity: Identity,
        run_id: bytes,
        *,
        idle_limit: timedelta = IDLE_LIMIT,
        now: Clock = time.time,
    ) -> None:
        self.traffic = Traffic()
        self._identity = identity
        self._run_id = run_id
        self._now = now
        moment = datetime.datetime.fromtimestamp(now(), datetime.timezone.utc)
        self._certificate = new_certificate(moment)
        self._digest = certificate_sha256(self._certificate.certificate_pem)
        self._idle = IdleWatch(idle_limit)
        self._servicer = DataServicer(self._admit, self.traffic, self._idle)
        self._client = DataClient(self._token, self.traffic)
        self._server: Any = None

    @property
    def certificate_pem(self) -> bytes:
        """Certificate that callers must pin."""
        return self._certificate.certificate_pem

    @property
    def refused(self) -> Counter[str]:
        """Calls and frames that were not let in, by error code."""
        return self._servicer.refused

    def start(self, host: str, port: int) -> str:
        """Listen; returns "host:port". Port 0 takes a free one. Raises `PORT_IN_USE`."""
        threads = ThreadPoolExecutor(MAX_CALLS, thread_name_prefix="data-plane")
        server = grpc.server(threads, options=SERVER_OPTIONS, maximum_concurrent_rpcs=MAX_CALLS)
        add_DataPlaneServicer_to_server(self._servicer, server)  # type: ignore[no-untyped-call]
        credentials = grpc.ssl_server_credentials(
            [(self._certificate.private_key_pem, self._certificate.certificate_pem)]
        )
        shown = f"[{host}]" if ":" in host else host
        try:
            bound_port = server.add_secure_port(f"{shown}:{port}", credentials)
        except RuntimeError as error:
            raise SwarmError(
                Code.PORT_IN_USE,
                f"data plane can not listen on {shown}:{port}",
                "choose another port, or 0 for any free one",
            ) from error
        server.start()
        self._server = server
        return f"{shown}:{bound_port}"

    def stop(self) -> None:
        """End all calls, both ways, and stop listening."""
        self._client.close()
        self._idle.stop()
        if self._server is not None:
            self._server.stop(grace=0.1).wait(STOP_WAIT.total_seconds())

    def set_reduce_handler(self, handler: ReduceHandler) -> None:
        """Answer Reduce calls: `handler(peer, frames)` yields the frames to send back.

        `frames` ends when the caller has sent everything and raises `PEER_UNREACHABLE` when its
        stream is cut. A `SwarmError` out of the handler reaches the caller as `PEER_REFUSED`.
        """
        self._servicer.reduce_handler = handler

    def set_blob_source(self, source: BlobSource) -> None:
        """Answer Download calls: `source(sha256)` is the blob's bytes, or None if unknown."""
        self._servicer.blob_source = source

    def reduce_stream(
        self, record: PeerRecord, frames: Iterator[ReduceFrame], timeout: timedelta
    ) -> Stream:
        """Send `frames` to a verified peer; iterate over the answer for what comes back.

        Flow control is gRPC's: `frames` is drawn no faster than the peer reads.
        """
        return self._client.reduce(record, frames, timeout)

    def download(
        self, record: PeerRecord, sha256: bytes, offset: int, timeout: timedelta
    ) -> Stream:
        """Iterator of `DownloadChunk` (1 MiB at most each) from byte `offset` on."""
        return self._client.download(record, sha256, offset, timeout)

    def download_blob(
        self,
        sources: Sequence[PeerRecord],
        sha256: bytes,
        into: memoryview,
        timeout: timedelta,
    ) -> None:
        """Fill `into` (its size is the blob's) from the first source that delivers it whole.

        When a source breaks off, the next one resumes where it stopped; if the result has
        another SHA-256, the last source is asked for all of it before the next one is.
        Raises `FRAGMENT_UNAVAILABLE` (nobody has it), `FRAGMENT_CORRUPT`, or `PEER_UNREACHABLE`.
        """
        view = into.cast("B")
        position, digest = 0, hashlib.sha256()
        error = SwarmError(Code.FRAGMENT_UNAVAILABLE, f"no source of blob {sha256.hex()}")
        for record in sources:
            for start in dict.fromkeys((position, 0)):
                if start == 0:
                    position, digest = 0, hashlib.sha256()
                try:
                    with self.download(record, sha256, start, timeout) as chunks:
                        for data in fitting(chunks, start, len(view)):
                            view[position : position + len(data)] = data
                            digest.update(data)
                            position += len(data)
                    _check_blob(record.peer_id, sha256, digest.digest(), position, len(view))
                    return
                except SwarmError as problem:
                    error = problem
                    if problem.code is not Code.FRAGMENT_CORRUPT:
                        break
                    position, digest = 0, hashlib.sha256()
        raise error

    def _admit(self, metadata: Any) -> str:
        return check_token(
            metadata,
            run_id=self._run_id,
            server=self._identity.peer_id,
            certificate_sha256=self._digest,
            now_ms=int(self._now() * 1000),
        )

    def _token(self, server: str, digest: bytes) -> tuple[tuple[str, bytes], ...]:
        return make_token(
            self._identity,
            run_id=self._run_id,
            server=server,
            certificate_sha256=digest,
            now_ms=int(self._now() * 1000),
        )


def _check_blob(peer: str, sha256: bytes, digest: bytes, position: int, size: int) -> None:
    if position != size:
        raise SwarmError(Code.PEER_UNREACHABLE, f"{peer}: broke off at byte {position} of {size}")
    if digest != sha256:
        raise SwarmError(
            Code.FRAGMENT_CORRUPT, f"{peer}: blob {sha256.hex()} has SHA-256 {digest.hex()}"
        )
