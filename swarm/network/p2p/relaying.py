"""A public peer's relay: started when strangers reach this peer, and tested before it is offered.

host = RelayHost(key_of_streams...)
await host.update(wanted=True)       # True once it serves
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import queue
import socket
import tempfile
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta
from pathlib import Path

from swarm.errors import Code, SwarmError
from swarm.identity import Identity
from swarm.network.p2p.circuit import HOP, STOP, ask, peer_message, reserve
from swarm.network.p2p.daemon import Daemon
from swarm.network.p2p.relay_service import RelayService
from swarm.network.p2p.streams import Streams, read_message, write_message
from swarm.network.relay_budget import RelayMeter
from swarm.wire import circuit_pb2 as pb

logger = logging.getLogger(__name__)

TEST_BYTES = 2**20
TEST_WAIT = timedelta(seconds=10)
TEST_AGAIN_S = 10.0


class RelayHost:
    """See the module docstring.

    Attributes:
        service: what forwards.
        works: whether the last test got its bytes through.
    """

    def __init__(self, daemon: Daemon, meter: RelayMeter, admits: Callable[[str], bool]) -> None:
        self.works = False
        self._probe = ""  # peer id of the test
        self.service = RelayService(
            daemon.streams(HOP),
            daemon.streams(STOP),
            meter,
            lambda peer: peer == self._probe or admits(peer),
        )
        self._daemon = daemon
        self._next_test_s = 0.0

    @property
    def serving(self) -> bool:
        """Whether this peer may be named as a relay."""
        return self.works and self.service.serving

    async def take_place(self) -> None:
        """Be the relay of this p2pd, one that serves nobody yet. Raises `P2P_START_FAILED`.

        Everywhere: p2pd's own forwards for anybody, public or not, and can not be switched off.
        """
        await asyncio.to_thread(self.service.start)

    async def update(self, *, wanted: bool) -> None:
        """Serve, or no longer; circuits that exist go on."""
        if not wanted:
            self.service.serving = False
            return
        self.service.serving = True
        if not self.works and time.monotonic() >= self._next_test_s:
            try:
                await self._test()
            except (SwarmError, OSError, asyncio.TimeoutError) as error:
                logger.warning("this peer does not work as a relay: %s", error)
                self._next_test_s = time.monotonic() + TEST_AGAIN_S
            else:
                self.works = True

    def stop(self) -> None:
        """Serve no more."""
        self.service.stop()

    async def _test(self) -> None:
        """Push 1 MiB through the relay, from a throw-away peer to itself. Raises a `SwarmError`."""
        with tempfile.TemporaryDirectory() as directory:
            key_file = Path(directory) / "probe.key"
            Identity.load_or_create(key_file)
            probe = await Daemon.start(key_file, "127.0.0.1", 0, listen=False, timeout=TEST_WAIT)
        self._probe, relay = probe.peer_id, self._daemon.peer_id
        try:
            await probe.connect(relay, await self._daemon.addresses(), TEST_WAIT)
            await asyncio.to_thread(
                _push, self._probe, relay, probe.streams(HOP), probe.streams(STOP)
            )
        finally:
            self._probe = ""
            await probe.stop()


def _push(own_id: str, relay: str, hop: Streams, stop: Streams) -> None:
    deadline_s = time.monotonic() + TEST_WAIT.total_seconds()
    came: queue.Queue[socket.socket] = queue.Queue()
    # The calls that come through relays are p2pd's business; here we take them ourselves.
    stop.serve(lambda _, sock: came.put(sock))
    try:
        reserve(hop, relay, TEST_WAIT)
        with hop.open(relay, TEST_WAIT) as out:
            threading.Thread(target=_take_call, args=(came, deadline_s), daemon=True).start()
            request = pb.HopMessage(type=pb.HopMessage.CONNECT, peer=peer_message(own_id))
            ask(out, request, deadline_s, relay)
            sent = hashlib.sha256(b"relay test").digest() * (TEST_BYTES // 32)
            out.settimeout(TEST_WAIT.total_seconds())
            out.sendall(sent)
            if _receive(out, 32, deadline_s) != hashlib.sha256(sent).digest():
                raise SwarmError(Code.INTERNAL, "bytes came out of the relay changed")
    except OSError as error:
        raise SwarmError(Code.PEER_UNREACHABLE, f"cut by the relay: {error}") from error
    finally:
        stop.stop()


def _take_call(came: queue.Queue[socket.socket], deadline_s: float) -> None:
    """The called end: read all and answer with its hash."""
    with suppress(OSError, ValueError, queue.Empty):
        with came.get(timeout=TEST_WAIT.total_seconds()) as sock:
            read_message(sock, pb.StopMessage(), deadline_s)
            reply = pb.StopMessage(type=pb.StopMessage.STATUS, status=pb.CIRCUIT_OK)
            write_message(sock, reply)
            digest = hashlib.sha256(_receive(sock, TEST_BYTES, deadline_s)).digest()
            sock.sendall(digest)
            _receive(sock, 1, deadline_s)  # until the caller, who has read it, hangs up


def _receive(sock: socket.socket, size: int, deadline_s: float) -> bytes:
    data = bytearray()
    while len(data) < size:
        sock.settimeout(max(0.05, deadline_s - time.monotonic()))
        part = sock.recv(min(2**16, size - len(data)))
        if not part:
            raise ConnectionResetError(f"ended after {len(data)} of {size} bytes")
        data += part
    return bytes(data)
