"""A process with one real member of the round protocol: p2pd, sealed lanes, ledger on disk.

Started through `CollectivePeer`; toy fragments stand in for a model. On command it kills itself
with SIGKILL after it has sent some chunks of an attempt, which is in the middle of the reduce.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import multiprocessing
import os
import signal
import time
from datetime import timedelta
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np

from swarm.collective.context import Context, Offer
from swarm.collective.join import discover, join
from swarm.collective.ledger import Ledger
from swarm.collective.member import RoundMember
from swarm.collective.state import CanonicalState
from swarm.config import TimeoutPolicy
from swarm.identity import Identity
from swarm.network.data_plane import DataPlane
from swarm.network.lane import Kind, Lane
from swarm.network.membership import PeerDirectory
from swarm.network.p2p import NetworkConfig, PeerNetwork
from swarm.simulation.swarm import ToyPolicy, toy_manifest, toy_values
from swarm.wire.membership_pb2 import PeerRecord

TRUNK = 4_000_000  # fp32 values, 16 MB: several chunks for each part
NUMEL = {"trunk.0": TRUNK, "trunk.1": 300_000, **{f"expert.{e}": 50_000 for e in range(8)}}
TIMEOUTS = TimeoutPolicy(
    heartbeat_s=2.0, chunk_s=5.0, attempt_s=20.0, round_s=30.0, join_s=40.0, lease_s=60.0
)
MANIFEST = toy_manifest(min_peers=4, timeouts=TIMEOUTS)
processes = multiprocessing.get_context("forkserver")
processes.set_forkserver_preload([__name__])


def delta_of(peer: str, fragment: str, round_index: int) -> np.ndarray:
    """The pseudo-gradient that a peer offers; the test knows it too."""
    return toy_values(f"{peer}/{fragment}/{round_index}", NUMEL[fragment]) * np.float32(0.01)


class KillerBulk:
    """The real data plane, with a SIGKILL of this process after `chunks` sent chunks."""

    def __init__(self, plane: DataPlane) -> None:
        self._plane = plane
        self.chunks_to_live: int | None = None
        self.download_blob = plane.download_blob
        self.rates = plane.rates

    def open_lane(self, record: PeerRecord, limit: timedelta) -> Lane:
        lane: Any = self._plane.open_lane(record, limit)
        lane.send = functools.partial(self._counted, type(lane).send, lane)
        return lane

    def release(self, lane: Lane) -> None:
        self._plane.release(lane)

    def _counted(self, send: Any, lane: Lane, kind: Kind, *rest: Any) -> None:
        if kind is Kind.CHUNK and self.chunks_to_live is not None:
            self.chunks_to_live -= 1
            if self.chunks_to_live < 0:
                os.kill(os.getpid(), signal.SIGKILL)
        send(lane, kind, *rest)


class Peer:
    """The process's inside."""

    def __init__(self, directory: Path, bootstrap: tuple[str, ...]) -> None:
        directory.mkdir(exist_ok=True)
        self.key = directory / "identity.key"
        self.identity = Identity.load_or_create(self.key)
        self.ledger = Ledger(directory)
        self.bootstrap = bootstrap
        self.plane = DataPlane(self.identity, MANIFEST.run_id)
        self.bulk = KillerBulk(self.plane)

    async def start(self) -> None:
        address = self.plane.start("127.0.0.1", 0)
        self.network = await PeerNetwork.start(
            self.key, MANIFEST.run_id, NetworkConfig(initial_peers=self.bootstrap)
        )
        self.directory = PeerDirectory(self.network, MANIFEST.run_id, time.time, self.network.learn)
        policy = ToyPolicy(NUMEL)
        state = CanonicalState({name: policy.initial(name) for name in NUMEL})
        self.member = RoundMember(
            Context(
                manifest=MANIFEST,
                identity=self.identity,
                transport=self.network,
                bulk=self.bulk,
                directory=self.directory,
                ledger=self.ledger,
                state=state,
                policy=policy,
                clock=time.monotonic,
                wall_clock=time.time,
            )
        )
        self.plane.set_reduce_handler(self.member.registry.handle)
        self.plane.set_blob_source(state.blob)
        self.address = address
        await self.publish()
        await discover(self.member)

    async def publish(self) -> None:
        record = self.ledger.record
        await self.network.publish(
            PeerRecord(
                data_addresses=[self.address],
                tls_certificate=self.plane.certificate_pem,
                branch=self.ledger.branch,
                round=record.round if record else 0,
                committed_tokens=record.committed_tokens if record else 0,
                lease_ttl_ms=30_000,
            )
        )
        self.directory.note(self.network.signed_record)

    async def join(self) -> dict[str, Any]:
        await join(self.member)
        await self.publish()
        return self.summary()

    async def round(self, kill_after: int | None) -> dict[str, Any]:
        self.bulk.chunks_to_live = kill_after
        record = self.ledger.record
        held = next(list(a.experts) for a in record.assignments if a.peer == self.member.me)
        names = ["trunk.0", "trunk.1", *(f"expert.{e}" for e in held)]
        deltas = {n: delta_of(self.member.me, n, self.ledger.next_round) for n in names}
        offer = Offer(
            deltas=deltas,
            weights=dict.fromkeys(names, 100.0),
            steps=1,
            tokens=100,
            base_commit=self.ledger.commit_id,
        )
        began = time.monotonic()
        await self.member.run_round(offer)
        seconds = time.monotonic() - began
        await self.publish()
        return self.summary() | {"seconds": seconds}

    def summary(self) -> dict[str, Any]:
        record = self.ledger.record
        trunk = next(o for o in record.fragments if o.state.fragment == "trunk.0")
        state = self.member.state
        return {
            "me": self.member.me,
            "round": record.round,
            "outcome": int(record.outcome),
            "commit": self.ledger.commit_id.hex(),
            "roster": list(record.roster),
            "left": list(record.left),
            "voters": [v.voter for v in self.ledger.commit.votes],
            "contributors": list(trunk.contributors),
            "attempts": record.attempts,
            "matches": all(
                state.fragments[o.state.fragment].matches(o.state) for o in record.fragments
            ),
            "hashes": {n: s.theta_hash.hex() for n, s in sorted(state.fragments.items())},
            "sample": state.fragments["trunk.0"].theta[::40_000].tolist(),
            "succession": self.member.succession(),
        }

    async def serve(self, connection: Connection) -> None:
        await self.start()
        connection.send({"address": self.network.addresses[0], "me": self.member.me})
        loop = asyncio.get_running_loop()
        while True:
            with contextlib.suppress(EOFError):
                command = await loop.run_in_executor(None, connection.recv)
                if command[0] == "stop":
                    break
                connection.send(await getattr(self, command[0])(*command[1:]))
                continue
            break
        await self.member.close()
        await self.network.shutdown()
        self.plane.stop()


def peer_main(connection: Connection, directory: str, bootstrap: tuple[str, ...]) -> None:
    """Entry of the child process."""
    asyncio.run(Peer(Path(directory), bootstrap).serve(connection))


class CollectivePeer:
    """The test's handle of such a process."""

    def __init__(self, directory: Path, bootstrap: tuple[str, ...] = ()) -> None:
        self.directory = directory
        self._connection, theirs = processes.Pipe()
        self.process = processes.Process(
            target=peer_main, args=(theirs, str(directory), bootstrap), daemon=True
        )
        self.process.start()
        theirs.close()
        self.me = ""
        self.address = ""

    def wait_ready(self) -> None:
        info = self.receive(30)
        self.me, self.address = info["me"], info["address"]

    def send(self, *command: Any) -> None:
        self._connection.send(command)

    def receive(self, timeout_s: float) -> dict[str, Any]:
        assert self._connection.poll(timeout_s), f"{self.me or self.directory} says nothing"
        return dict(self._connection.recv())

    def wait_killed(self, timeout_s: float) -> None:
        self.process.join(timeout_s)
        assert self.process.exitcode == -signal.SIGKILL, self.process.exitcode

    def stop(self) -> None:
        with contextlib.suppress(OSError):
            self.send("stop")
        self.process.join(10)
        if self.process.is_alive():
            self.process.kill()
            self.process.join(10)
        self._connection.close()
