"""The calling half of the data plane: channels, streams and downloads as plain iterators.

Used by `swarm.network.data_plane.DataPlane` only.
"""

from __future__ import annotations

import ipaddress
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import grpc

from swarm.errors import Code, SwarmError
from swarm.network.data_server import MAX_FRAME_BYTES, Traffic
from swarm.network.tls import SERVER_NAME, certificate_sha256
from swarm.wire.data_pb2 import DownloadChunk, DownloadRequest, ReduceFrame
from swarm.wire.data_pb2_grpc import DataPlaneStub
from swarm.wire.membership_pb2 import PeerRecord

MAX_GRPC_MESSAGE_BYTES = 8 * 2**20
CHANNEL_OPTIONS: tuple[tuple[str, Any], ...] = (
    ("grpc.ssl_target_name_override", SERVER_NAME),
    ("grpc.max_receive_message_length", MAX_GRPC_MESSAGE_BYTES),
    ("grpc.max_send_message_length", MAX_GRPC_MESSAGE_BYTES),
    ("grpc.use_local_subchannel_pool", 1),  # no sharing between certificates
    ("grpc.enable_http_proxy", 0),
    ("grpc.enable_retries", 0),
    ("grpc.keepalive_time_ms", 10_000),  # sees a host that vanished; not a frozen process
    ("grpc.keepalive_timeout_ms", 5_000),
    ("grpc.http2.max_pings_without_data", 0),
    ("grpc.initial_reconnect_backoff_ms", 200),
    ("grpc.max_reconnect_backoff_ms", 2_000),
)
Token = Callable[[str, bytes], tuple[tuple[str, bytes], ...]]  # server, certificate -> metadata


@dataclass(frozen=True)
class _Link:
    channel: Any
    stub: Any
    addresses: tuple[str, ...]
    certificate_sha256: bytes


class Stream:
    """A running call: an iterator of answers that can be cancelled from any thread.

    Iterating raises `PEER_UNREACHABLE` (cut, timed out or cancelled), `PEER_REFUSED`,
    `FRAGMENT_UNAVAILABLE`, or whatever the iterator of outgoing frames raised.
    """

    def __init__(self, peer: str, traffic: Traffic) -> None:
        self.peer = peer
        self._traffic = traffic
        self._call: Any = None
        self._failure: Exception | None = None

    def run(self, call: Any) -> Stream:
        """Take over a gRPC call."""
        self._call = call
        if self._failure is not None:
            call.cancel()
        return self

    def outgoing(self, frames: Iterator[ReduceFrame]) -> Iterator[ReduceFrame]:
        """Count and check `frames` on their way, mark their end; an error in them ends the call."""
        try:
            for frame in frames:
                size = frame.ByteSize()
                if size > MAX_FRAME_BYTES:
                    raise SwarmError(
                        Code.MESSAGE_OVERSIZED, f"frame of {size} bytes, limit {MAX_FRAME_BYTES}"
                    )
                self._traffic.add_sent(self.peer, size)
                yield frame
            yield ReduceFrame(end=True)
        except Exception as error:
            self._failure = error
            self.cancel()

    def cancel(self) -> None:
        """End the call; the reader gets an error at once, the other side too."""
        if self._call is not None:
            self._call.cancel()

    def on_end(self, callback: Callable[[], None]) -> None:
        """Call back (in a thread of gRPC) when the call has ended, however it did.

        The place to wake up a generator of outgoing frames that waits for something.
        """
        if not self._call.add_callback(callback):
            callback()

    def __iter__(self) -> Iterator[Any]:
        return self

    def __next__(self) -> Any:
        try:
            answer = next(self._call)
        except grpc.RpcError as error:
            if self._failure is not None:
                raise self._failure from None
            raise _as_swarm_error(self.peer, error) from error
        self._traffic.add_received(self.peer, answer.ByteSize())
        return answer

    def __enter__(self) -> Stream:
        return self

    def __exit__(self, *error: object) -> None:
        self.cancel()


class DataClient:
    """Channels to other peers' data planes, one per peer, kept until `close`."""

    def __init__(self, token: Token, traffic: Traffic) -> None:
        self._token = token
        self._traffic = traffic
        self._lock = threading.Lock()
        self._links: dict[str, _Link] = {}
        self._closed = False

    def reduce(
        self, record: PeerRecord, frames: Iterator[ReduceFrame], timeout: timedelta
    ) -> Stream:
        """Start a Reduce call."""
        link = self._link(record)
        stream = Stream(record.peer_id, self._traffic)
        return stream.run(
            link.stub.Reduce(
                stream.outgoing(frames),
                timeout=timeout.total_seconds(),
                metadata=self._token(record.peer_id, link.certificate_sha256),
            )
        )

    def download(
        self, record: PeerRecord, sha256: bytes, offset: int, timeout: timedelta
    ) -> Stream:
        """Start a Download call; an iterator of `DownloadChunk`."""
        link = self._link(record)
        stream = Stream(record.peer_id, self._traffic)
        return stream.run(
            link.stub.Download(
                DownloadRequest(sha256=sha256, offset=offset),
                timeout=timeout.total_seconds(),
                metadata=self._token(record.peer_id, link.certificate_sha256),
            )
        )

    def close(self) -> None:
        """Close all channels; calls in flight fail, and so do later ones."""
        with self._lock:
            self._closed = True
            links, self._links = list(self._links.values()), {}
        for link in links:
            link.channel.close()

    def _link(self, record: PeerRecord) -> _Link:
        """The channel to a peer; a new one when it restarted (new certificate) or moved."""
        addresses = tuple(record.data_addresses)
        digest = certificate_sha256(record.tls_certificate)
        with self._lock:
            if self._closed:
                raise SwarmError(Code.PEER_UNREACHABLE, "this node is stopping")
            link = self._links.get(record.peer_id)
            if link is not None:
                if link.addresses == addresses and link.certificate_sha256 == digest:
                    return link
                link.channel.close()
            credentials = grpc.ssl_channel_credentials(root_certificates=record.tls_certificate)
            target = channel_target(record.peer_id, addresses)
            channel = grpc.secure_channel(target, credentials, options=CHANNEL_OPTIONS)
            stub = DataPlaneStub(channel)  # type: ignore[no-untyped-call]
            link = _Link(channel, stub, addresses, digest)
            self._links[record.peer_id] = link
            return link


def channel_target(peer: str, addresses: Sequence[str]) -> str:
    """gRPC target that tries "host:port" addresses in order.

    Raises `PEER_UNREACHABLE` when there is none that gRPC could use.
    """
    ipv4 = [a for a in addresses if _is_ipv4(a)]
    if ipv4:
        return "ipv4:" + ",".join(ipv4)
    if not addresses:
        raise SwarmError(Code.PEER_UNREACHABLE, f"{peer}: it announces no data address")
    return f"dns:///{addresses[0]}"


def _is_ipv4(address: str) -> bool:
    host, _, port = address.rpartition(":")
    try:
        ipaddress.IPv4Address(host)
    except ValueError:
        return False
    return port.isdecimal()


def _as_swarm_error(peer: str, error: Any) -> SwarmError:
    status, details = error.code(), error.details()
    if status is grpc.StatusCode.NOT_FOUND:
        return SwarmError(Code.FRAGMENT_UNAVAILABLE, f"{peer}: {details}")
    if status in (grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.ABORTED):
        return SwarmError(Code.PEER_REFUSED, f"{peer}: {details}")
    return SwarmError(Code.PEER_UNREACHABLE, f"{peer}: {status.name.lower()}: {details}")


def fitting(chunks: Iterator[DownloadChunk], position: int, size: int) -> Iterator[bytes]:
    """The data of `chunks`, which must follow one another from byte `position` of `size` on.

    Raises `FRAGMENT_CORRUPT` when they do not.
    """
    for chunk in chunks:
        end = position + len(chunk.data)
        if chunk.offset != position or chunk.total_bytes != size or end > size:
            raise SwarmError(
                Code.FRAGMENT_CORRUPT,
                f"expected byte {position} of {size}, "
                f"got byte {chunk.offset} of {chunk.total_bytes}",
            )
        position = end
        yield chunk.data
