"""Whole peers on hosts of the lab, driven from one test process: network, DHT, data plane, p2pd.

swarm = LabSwarm(lab, directory)
swarm.start("pub1", "pub2")             # at the same time; the first of all are bootstrap nodes
swarm.start("a", "c")
swarm["a"].ping(swarm["c"])
swarm["a"].path_to(swarm["c"])          # lan, direct, punched, relay or none
swarm["a"].fetch(swarm["c"], 32 * MIB)  # its hash is checked
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar

from blake3 import blake3

from swarm.errors import SwarmError
from swarm.network.data_plane import DataPlane
from swarm.network.p2p import NetworkConfig, PeerNetwork
from swarm.wire.control_pb2 import Ping, Pong
from swarm.wire.membership_pb2 import PeerRecord
from tests.nat import topology
from tests.nat.netlab import Lab
from tests.nat.netns import lives, processes_in

RUN_ID = b"r" * 32
MIB = 1 << 20
WEB_PORT, PORT = 443, 4700
BOOTSTRAP = ("pub1", "pub2", "pub3", "pub4")
WEB_SERVING = ("pub1", "pub2", "pub5")  # the network that lets only the web out reaches these
START_S = 60.0
CALL_S = 10.0
DATA_PORT = 4800
LOOK_EVERY_S = 3.0
T = TypeVar("T")


class LabPeer:
    """One peer. Its methods may be called from any thread and wait for their result.

    Attributes:
        host: the name of its host in the lab.
        ready_s: seconds that its start took.
    """

    def __init__(self, lab: Lab, host: str, directory: Path) -> None:
        self.host = host
        self.ready_s = 0.0
        self._lab = lab
        self._key_file = directory / f"{host}.key"
        self._network: PeerNetwork | None = None
        self._plane: DataPlane | None = None
        self._looking: asyncio.Task[None] | None = None
        self._blobs: dict[bytes, memoryview] = {}
        self._loop = lab.loop(host)

    def start(self, **options: Any) -> None:
        """Join the swarm and publish a record; options are those of `NetworkConfig`."""
        began = time.monotonic()
        port = WEB_PORT if self.host in WEB_SERVING else PORT
        config = NetworkConfig(host="0.0.0.0", port=port, **options)
        self._loop.run(self._start(config), START_S)
        self.ready_s = time.monotonic() - began

    async def _start(self, config: NetworkConfig) -> None:
        self._network = network = await PeerNetwork.start(self._key_file, RUN_ID, config)
        self._plane = plane = DataPlane(network.identity, RUN_ID)
        plane.start("0.0.0.0", DATA_PORT)
        plane.set_blob_source(self._blobs.get)
        network.carry(plane)
        await network.serve_streams(plane.accept_tunnel)
        await self._publish()
        self._looking = asyncio.create_task(self._look())

    async def _look(self) -> None:
        """Read all records now and then, as a node does: that is how new addresses are learned."""
        while True:
            with contextlib.suppress(SwarmError):
                await self.network.records()
            await asyncio.sleep(LOOK_EVERY_S)

    async def _shutdown(self) -> None:
        if self._looking is not None:
            self._looking.cancel()
        await self.network.shutdown()

    async def _publish(self) -> None:
        assert self._plane is not None
        address = f"{topology.address_of(self.host)}:{DATA_PORT}"
        record = PeerRecord(
            display_name=self.host,
            data_addresses=[address],
            tls_certificate=self._plane.certificate_pem,
            lease_ttl_ms=60_000,
        )
        await self.network.publish(record)

    def stop(self) -> None:
        """Leave in good order; nothing if it does not run."""
        if self._plane is not None:
            self._plane.stop()
        if self._network is not None:
            self._loop.run(self._shutdown(), START_S)
        self._plane = self._network = None

    def kill(self) -> None:
        """End it as SIGKILL of a whole node does: no goodbye, and its p2pd goes at once."""
        pids = self.p2pd()
        self._loop.cancel()  # or its watcher would start p2pd again
        for pid in pids:
            os.kill(pid, signal.SIGKILL)
        eventually(lambda: [pid for pid in pids if lives(pid)], [], 5)
        if self._plane is not None:
            self._plane.stop()
        self._plane = self._network = None

    def close_holes(self) -> None:
        """End the punched connections, as a router does that forgets them."""
        daemon = self.network.life.daemon
        assert daemon is not None
        for sock in list(daemon.bridges._sockets):
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)

    def p2pd(self) -> list[int]:
        """Process ids of its p2pd."""
        found = []
        for entry in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                words = (entry / "cmdline").read_bytes().split(b"\0")
                if words[0].endswith(b"p2pd") and str(self._key_file).encode() in b"".join(words):
                    found.append(int(entry.name))
        return found

    # ---- what a test asks ----

    @property
    def network(self) -> PeerNetwork:
        """Its network; only `self.run` may await its methods."""
        assert self._network is not None, f"{self.host} does not run"
        return self._network

    @property
    def id(self) -> str:
        """Its peer id."""
        return self.network.peer_id

    @property
    def address(self) -> str:
        """Multiaddr for others to join through; for public hosts."""
        port = WEB_PORT if self.host in WEB_SERVING else PORT
        return f"/ip4/{topology.address_of(self.host)}/tcp/{port}/p2p/{self.id}"

    @property
    def runs(self) -> bool:
        """Whether it was started, and not stopped or killed since."""
        return self._network is not None

    def run(self, work: Any, limit_s: float = CALL_S) -> Any:
        """Await something of its network and return the result."""
        return self._loop.run(work, limit_s)

    def ping(self, other: LabPeer, limit_s: float = CALL_S) -> str:
        """Call another peer; "" or what went wrong."""
        limit = timedelta(seconds=limit_s)
        try:
            self.run(self.network.call(other.id, Ping(), Pong, limit), limit_s + 5)
        except SwarmError as error:
            return f"{error.code.value}: {error.message}"
        return ""

    def path_to(self, other: LabPeer) -> str:
        """How it reaches another peer."""
        return str(self.run(self.network.path_of(other.id)))

    def paths(self) -> dict[str, str]:
        """How it reaches each peer that it is connected to, by peer id."""
        return dict(self.run(self.network.paths()))

    def knows(self) -> dict[str, PeerRecord]:
        """The records in the DHT as it sees them, by host."""
        records = self.run(self.network.records(), 20)
        return {record.display_name: record for record in records.values()}

    def fetch(self, other: LabPeer, size: int, limit_s: float = 60.0) -> float:
        """Download random bytes from another peer, checked by their hash; MiB/s."""
        blob = memoryview(os.urandom(size))
        wanted = blake3(blob).digest()
        other._blobs[wanted] = blob
        record = self.knows()[other.host]
        into = memoryview(bytearray(size))
        began = time.monotonic()
        limit = timedelta(seconds=limit_s)
        assert self._plane is not None
        self._loop.call(
            self._plane.download_blob, [record], wanted, into, limit, limit_s=limit_s + 10
        )
        assert into == blob
        other._blobs.clear()
        return size / MIB / (time.monotonic() - began)


class LabSwarm:
    """Peers of one run, by the names of their hosts.

    Attributes:
        far: whether they are far from one another; what does not depend on that is tried near by.
    """

    def __init__(self, lab: Lab, directory: Path) -> None:
        self.lab = lab
        self.far = False
        self.peers: dict[str, LabPeer] = {}
        self._directory = directory

    def __getitem__(self, host: str) -> LabPeer:
        return self.peers[host]

    def start(self, *hosts: str, **options: Any) -> None:
        """Start peers at the same time; they join through the bootstrap nodes that run already."""
        for host in hosts:
            self.peers[host] = LabPeer(self.lab, host, self._directory)

        def start(host: str) -> None:
            entries = [p.address for p in self.peers.values() if p.host in BOOTSTRAP and p.runs]
            self.peers[host].start(**{"initial_peers": tuple(entries), **options})

        together(start, hosts)

    def stop(self) -> None:
        """Stop all peers. Fails if a process is left on their hosts."""
        together(lambda peer: peer.stop(), self.peers.values())
        hosts = [self.lab.names[host] for host in self.peers]
        eventually(lambda: processes_in(hosts), [], 5)

    def meet(self, limit_s: float = 30.0) -> None:
        """Wait until each running peer has the records of all."""
        running = [peer for peer in self.peers.values() if peer.runs]
        everybody = {peer.host for peer in running}

        def missing() -> dict[str, set[str]]:
            lists = together(lambda peer: everybody - set(peer.knows()), running)
            return {p.host: absent for p, absent in zip(running, lists, strict=True) if absent}

        eventually(missing, {}, limit_s)


def together(work: Callable[[Any], T], items: Iterable[Any]) -> list[T]:
    """Do something for all items at the same time; their results in order."""
    items = list(items)
    with ThreadPoolExecutor(max(1, len(items))) as threads:
        return list(threads.map(work, items))


def eventually(look: Callable[[], T], wanted: T, limit_s: float, every_s: float = 0.3) -> float:
    """Look until it is as wanted; the seconds that it took. Fails with what it is instead."""
    began = time.monotonic()
    while (seen := look()) != wanted:
        assert time.monotonic() - began < limit_s, f"after {limit_s:g} s: {seen}"
        time.sleep(every_s)
    return time.monotonic() - began
