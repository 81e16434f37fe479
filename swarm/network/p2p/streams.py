"""Raw streams between two p2pd processes as plain blocking sockets, for the lanes of a tunnel.

    streams = Streams(control_path, directory, "/expertswarm/lane/1")
    streams.serve(accept)                        # accept(peer, sock) for each, in a thread
    sock = streams.open(peer, limit)             # to a peer that p2pd knows how to reach
    streams.stop()

p2pd speaks of streams over Unix sockets: one connection per stream, a length-prefixed protobuf
message to begin with, then the stream's own bytes. That is done here without hivemind's asyncio
streams: a thread that may block needs no event loop between it and p2pd, and no byte can be left
behind in another's buffer. libp2p encrypts each stream and authenticates the peer id, relays too.

When one direction of a stream ends, p2pd closes both, and what was still under way is lost: so who
has said his last word waits for the other side to hang up (`SocketLane.fail` does).
"""

from __future__ import annotations

import errno
import logging
import socket
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import Any

from google.protobuf.message import DecodeError

from swarm.errors import Code, SwarmError
from swarm.network.p2p.hivemind_parts import Multiaddr, PeerID, p2pd_pb2

logger = logging.getLogger(__name__)

LOCAL_WAIT = timedelta(seconds=2)  # for what p2pd says without asking another host
MAX_MESSAGE_BYTES = 2**16
BACKLOG = 128
PASSING = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM, errno.ECONNABORTED)
ACCEPT_PAUSE = timedelta(seconds=0.1)
Accept = Callable[[str, socket.socket], None]


class Streams:
    """The streams of one protocol of one p2pd process."""

    def __init__(self, control_path: str, directory: Path, protocol: str) -> None:
        self._control_path = control_path
        self._path = directory / f"{protocol.strip('/').replace('/', '-')}.sock"
        self._protocol = protocol
        self._listener: socket.socket | None = None

    def serve(self, accept: Accept) -> None:
        """Ask p2pd for the streams that other peers open; blocking. Raises `P2P_START_FAILED`.

        A protocol that p2pd itself serves is taken from it.
        """
        listener = socket.socket(socket.AF_UNIX)
        try:
            listener.bind(str(self._path))
            listener.listen(BACKLOG)
            request = p2pd_pb2.Request(
                type=p2pd_pb2.Request.STREAM_HANDLER,
                streamHandler=p2pd_pb2.StreamHandlerRequest(
                    addr=Multiaddr(f"/unix{self._path}").to_bytes(),
                    proto=[self._protocol],
                    balanced=False,
                ),
            )
            self._ask(request, LOCAL_WAIT).close()
        except (OSError, ValueError) as error:
            listener.close()
            raise SwarmError(Code.P2P_START_FAILED, f"p2pd takes no streams: {error}") from error
        self._listener = listener
        threading.Thread(
            target=self._accept_all, args=(accept,), name="streams", daemon=True
        ).start()

    def open(self, peer: str, limit: timedelta) -> socket.socket:
        """A new stream to `peer`. Raises `PEER_UNREACHABLE`."""
        request = p2pd_pb2.Request(
            type=p2pd_pb2.Request.STREAM_OPEN,
            streamOpen=p2pd_pb2.StreamOpenRequest(
                peer=PeerID.from_base58(peer).to_bytes(),
                proto=[self._protocol],
                timeout=max(1, int(limit.total_seconds())),
            ),
        )
        try:
            return self._ask(request, limit)
        except (OSError, ValueError) as error:
            reason = "no stream in time" if isinstance(error, TimeoutError) else str(error)
            raise SwarmError(Code.PEER_UNREACHABLE, f"{peer}: {reason}") from error

    def stop(self) -> None:
        """Accept no more; streams that are open go on until p2pd ends."""
        if self._listener is not None:
            with suppress(OSError):  # wakes the accepting thread on Linux; macOS needs the close
                self._listener.shutdown(socket.SHUT_RDWR)
            self._listener.close()

    def _ask(self, request: Any, limit: timedelta) -> socket.socket:
        """Send a request to p2pd; its connection once it has agreed."""
        deadline_s = time.monotonic() + limit.total_seconds()
        sock = socket.socket(socket.AF_UNIX)
        try:
            sock.settimeout(limit.total_seconds())
            sock.connect(self._control_path)
            write_message(sock, request)
            response = read_message(sock, p2pd_pb2.Response(), deadline_s)
            if response.type != p2pd_pb2.Response.OK:
                raise OSError(response.error.msg or "refused by p2pd")
        except BaseException:
            sock.close()
            raise
        return sock

    def _accept_all(self, accept: Accept) -> None:
        assert self._listener is not None
        while True:
            try:
                sock, _ = self._listener.accept()
            except OSError as error:
                if error.errno not in PASSING:  # stopped
                    return
                logger.warning("can not accept a stream: %s", error)
                time.sleep(ACCEPT_PAUSE.total_seconds())
                continue
            try:
                deadline_s = time.monotonic() + LOCAL_WAIT.total_seconds()
                info = read_message(sock, p2pd_pb2.StreamInfo(), deadline_s)
                peer = PeerID(info.peer).to_base58()
            except (OSError, ValueError) as error:
                logger.info("a stream came to nothing: %s", error)
                sock.close()
                continue
            accept(peer, sock)


def write_message(sock: socket.socket, message: Any) -> None:
    """Send a protobuf message after its length as a varint."""
    data: bytes = message.SerializeToString()
    size, prefix = len(data), bytearray()
    while size > 127:
        prefix.append(size & 127 | 128)
        size >>= 7
    sock.sendall(bytes([*prefix, size]) + data)


def read_message(sock: socket.socket, message: Any, deadline_s: float) -> Any:
    """Fill `message` from the socket and take no byte beyond it. Raises `OSError`, `ValueError`."""
    size = shift = 0
    while True:
        (byte,) = _exactly(sock, 1, deadline_s)
        size |= (byte & 127) << shift
        shift += 7
        if byte < 128:
            break
        if shift > 28:
            raise ValueError("a length that never ends")
    if size > MAX_MESSAGE_BYTES:
        raise ValueError(f"a message of {size} bytes")
    data = _exactly(sock, size, deadline_s)
    try:
        message.ParseFromString(data)
    except DecodeError as error:
        raise ValueError(f"not a {type(message).__name__}") from error
    return message


def _exactly(sock: socket.socket, size: int, deadline_s: float) -> bytes:
    data = bytearray()
    while len(data) < size:
        sock.settimeout(max(0.001, deadline_s - time.monotonic()))
        part = sock.recv(size - len(data))
        if not part:
            raise ConnectionResetError("p2pd closed the connection")
        data += part
    return bytes(data)
