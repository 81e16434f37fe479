"""A process with one real member of the round protocol, which harms itself on command.

Real p2pd, data plane and ledger on disk; toy fragments stand in for a model. The test's handle of
it is `PeerProcess`, several of them are a `ChaosSwarm` (chaos_swarm.py). Messages in the pipe to
it: (number, command, arguments); back from it: dictionaries with "kind" started, reply, fault,
commit or vitals.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections import deque
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
from faults import Fault, FaultyTransport, Saboteur
from faulty_plane import FaultyPlane
from growth import MIB, Vitals
from toy import samples_of, update_of, weight_of

from swarm.collective.consensus import parse_record
from swarm.collective.context import Context, Offer, RoundEvent
from swarm.collective.join import discover, in_roster, join, watch_branches
from swarm.collective.ledger import Ledger
from swarm.collective.member import RoundMember
from swarm.collective.state import CanonicalState, hash_of
from swarm.config import RunManifest
from swarm.errors import SwarmError
from swarm.identity import Identity
from swarm.network.membership import PeerDirectory
from swarm.network.p2p import NetworkConfig, PeerNetwork
from swarm.simulation.swarm import ToyPolicy
from swarm.wire import collective_pb2 as pb
from swarm.wire.membership_pb2 import PeerRecord

PLENTY_BPS = 1e9  # announced by everybody who is not meek


@dataclass(frozen=True)
class Setup:
    """What a process is started with."""

    directory: Path
    manifest: RunManifest
    numel: dict[str, int]
    bootstrap: tuple[str, ...] = ()
    leak_mib: float = 0.0  # in each round, if it runs freely: what a test of leaks must find


class ChaosPeer:
    """The process's inside."""

    def __init__(self, setup: Setup, connection: Connection) -> None:
        self._setup = setup
        self._connection = connection
        self._sending = threading.Lock()
        setup.directory.mkdir(exist_ok=True)
        self.identity = Identity.load_or_create(self._key)
        self.ledger = Ledger(setup.directory)
        self.saboteur = Saboteur(
            lambda step, means: self._tell("fault", step=step, means=means), setup.directory
        )
        self.plane = FaultyPlane(self.identity, setup.manifest.run_id)
        self.plane.saboteur = self.saboteur
        self.policy = ToyPolicy(setup.numel)
        self.events: deque[tuple[float, str]] = deque(maxlen=60)
        self._told = b""  # newest commit that the test was told of
        self._living: asyncio.Task[None] | None = None
        self._branches: asyncio.Task[None] | None = None
        self._publishing: asyncio.Task[None] | None = None
        self._stale = False  # what was published is not the newest
        self._leaked: list[np.ndarray] = []

    @property
    def _key(self) -> Path:
        return self._setup.directory / "identity.key"

    def _tell(self, kind: str, **what: Any) -> None:
        with self._sending:
            self._connection.send({"kind": kind, "at": time.monotonic(), **what})

    # ---- life -----------------------------------------------------------------------------

    async def start(self) -> None:
        setup = self._setup
        self.address = self.plane.start("127.0.0.1", 0)
        self.network = await PeerNetwork.start(
            self._key, setup.manifest.run_id, NetworkConfig(initial_peers=setup.bootstrap)
        )
        self.directory = PeerDirectory(
            self.network, setup.manifest.run_id, time.time, self.network.learn
        )
        state = CanonicalState({name: self.policy.initial(name) for name in setup.numel})
        self.member = RoundMember(
            Context(
                manifest=setup.manifest,
                identity=self.identity,
                transport=FaultyTransport(self.network, self.saboteur),
                bulk=self.plane,
                directory=self.directory,
                ledger=self.ledger,
                state=state,
                policy=self.policy,
                clock=time.monotonic,
                wall_clock=time.time,
                emit=self._on_event,
            )
        )
        self.plane.set_reduce_handler(self.member.registry.handle)
        self.plane.set_blob_source(state.blob)
        try:
            await self.publish()
        except SwarmError:  # as a node, which tries again
            self._publish_soon()
        await discover(self.member)

    def _on_event(self, event: RoundEvent) -> None:
        if event.name == "committed":
            self._tell("adopted", round=event.round)
        else:
            self.events.append((time.monotonic(), f"{event.round}: {event.name} {event.detail}"))

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
                bandwidth_bps=1.0 if self.saboteur.meek else PLENTY_BPS,
            )
        )
        self.directory.note(self.network.signed_record)

    def _publish_soon(self) -> None:
        """In the background: a frozen peer holds up the DHT for seconds."""
        self._stale = True
        if self._publishing is None or self._publishing.done():
            self._publishing = self.member.spawn(self._publish_while_stale())

    async def _publish_while_stale(self) -> None:
        while self._stale:
            self._stale = False
            with contextlib.suppress(SwarmError):
                await self.publish()

    async def serve(self) -> None:
        """Start, then do what the test says until it says stop."""
        await self.start()
        self._tell("started", address=self.network.addresses[0], me=self.member.me)
        loop = asyncio.get_running_loop()
        commands: asyncio.Queue[Any] = asyncio.Queue()

        def listen() -> None:
            while True:
                try:
                    command = self._connection.recv()
                except (EOFError, OSError):
                    command = (0, "stop", ())
                loop.call_soon_threadsafe(commands.put_nowait, command)
                if command[1] == "stop":
                    return

        threading.Thread(target=listen, daemon=True).start()
        running: set[asyncio.Task[None]] = set()
        while (command := await commands.get())[1] != "stop":
            task = asyncio.create_task(self._obey(*command))
            running.add(task)
            task.add_done_callback(running.discard)
        for task in running:
            task.cancel()
        await self._stop()

    async def _stop(self) -> None:
        for task in (self._living, self._branches):
            if task is not None:
                task.cancel()
        await self.member.close()
        await self.network.shutdown()
        self.plane.stop()

    async def _obey(self, number: int, command: str, arguments: tuple[Any, ...]) -> None:
        try:
            result = await getattr(self, f"do_{command}")(*arguments)
        except SwarmError as error:
            self._tell("reply", number=number, code=error.code.value, error=error.message)
        except Exception as error:
            self._tell("reply", number=number, code="", error=repr(error))
        else:
            self._tell("reply", number=number, code="OK", result=result)

    # ---- commands -------------------------------------------------------------------------

    async def do_join(self) -> dict[str, Any]:
        """Enter the roster."""
        await self._enter()
        return self.summary()

    async def _enter(self) -> None:
        await join(self.member)
        await self.publish()
        if self._branches is None:
            every = self._setup.manifest.timeouts.heartbeat
            self._branches = self.member.spawn(watch_branches(self.member, every))

    async def do_arm(self, fault: Fault | None) -> None:
        """Wait for a step of the open round. A process that joins may not know which that is."""
        self.saboteur.arm(fault, self.ledger.next_round)

    async def do_meek(self, meek: bool) -> None:
        """Announce next to no bandwidth, or plenty again."""
        self.saboteur.meek = meek
        await self.publish()

    async def do_cut(self, peers: frozenset[str]) -> None:
        """Nothing goes to these peers, or comes from them."""
        self.saboteur.cut = peers

    async def do_brake(self, delay_s: float) -> None:
        """Wait before each chunk that is sent."""
        self.saboteur.chunk_delay_s = delay_s

    async def do_round(self) -> dict[str, Any]:
        """Offer an update and return after the round's decision."""
        offer = self.offer()
        before = {name: hash_of(delta) for name, delta in offer.deltas.items()}
        base = self.ledger.commit_id
        self.events.clear()
        await self.member.run_round(offer)
        intact = before == {name: hash_of(delta) for name, delta in offer.deltas.items()}
        self._publish_soon()
        return self.summary() | {"offer_intact": intact, "base": base}

    def offer(self) -> Offer:
        """This peer's update of the open round."""
        record, base, me = self.ledger.record, self.ledger.commit_id, self.member.me
        names = list(self.policy.trains(record, me))
        if self.saboteur.meek:  # a sole holder hands its expert on, which makes it a reducer
            names = [name for name in names if not name.startswith("expert.")]
        deltas = {n: update_of(me, n, base, self._setup.numel[n]) for n in names}
        weights = {n: weight_of(me, n, base) for n in names}
        return Offer(deltas=deltas, weights=weights, base_commit=base, steps=1, tokens=100)

    async def do_summary(self) -> dict[str, Any]:
        """See `summary`."""
        return self.summary()

    def summary(self) -> dict[str, Any]:
        """What this peer holds, measured, and what it was told that it should hold."""
        record, state = self.ledger.record, self.member.state
        hashes = {
            name: (hash_of(s.theta), hash_of(s.momentum)) for name, s in state.fragments.items()
        }
        return {
            "me": self.member.me,
            "commit": self.ledger.commit.SerializeToString(),
            "lineage": self._lineage(),
            "matches": self.member.level
            and hashes
            == {
                o.state.fragment: (o.state.theta_hash, o.state.momentum_hash)
                for o in record.fragments
            },
            "samples": samples_of(state.fragments),
            "succession": self.member.succession(),
            "events": list(self.events),
            "open_round": self.ledger.next_round,
        }

    def _lineage(self) -> list[bytes]:
        """Serialized records up to the newest commit, ancestors first, back to the last told.

        As they are on disk.
        """
        found: list[bytes] = []
        identifier = self.ledger.commit_id
        while identifier and identifier != self._told:
            names = f"*-{identifier.hex()[:16]}.bin"
            path = next((self._setup.directory / "commits").glob(names), None)
            if path is None:
                break  # it joined then
            found.append(pb.Commit.FromString(path.read_bytes()).record)
            identifier = parse_record(found[-1]).previous
        self._told = self.ledger.commit_id
        return found[::-1]

    # ---- free running ---------------------------------------------------------------------

    async def do_live(self, pause_s: float) -> None:
        """Take part in round after round, as a node does; tell of every commit and of vitals.

        `pause_s` stands for the training between rounds.
        """
        self._living = asyncio.create_task(self._live(pause_s))

    async def do_trouble(self) -> list[tuple[float, str]]:
        """What was said and remarkable lately: (monotonic seconds, text)."""
        return sorted([*self.events, *self.saboteur.trace])

    async def _live(self, pause_s: float) -> None:
        vitals = Vitals()
        while True:
            try:
                await discover(self.member)
                if in_roster(self.member):
                    await asyncio.sleep(pause_s)
                    await self.member.resync()
                    if not self.member.level:  # a newer commit came in this very moment
                        continue
                    # Nothing is in flight here until this peer has made its offer.
                    self._tell("vitals", **vitals.sample(self.ledger.next_round))
                    self._leaked.append(np.ones(round(self._setup.leak_mib * MIB / 8)))
                    offer = self.offer()
                    await self.member.run_round(offer)
                    assert self.ledger.commit_id != offer.base_commit, "success without a commit"
                    await self.publish()
                else:
                    await self._enter()
                if self.member.level:  # else a newer commit came meanwhile
                    self._tell("commit", **self.summary())
            except SwarmError as error:
                self._tell("trouble", text=str(error))
                await asyncio.sleep(1.0)
            except Exception as error:
                self._tell("defect", text=repr(error))
                raise


def peer_main(connection: Connection, setup: Setup) -> None:
    """Entry of the child process."""
    asyncio.run(ChaosPeer(setup, connection).serve())
