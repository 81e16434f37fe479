"""One peer of a `Communicator`'s group: its network, its member of the round protocol, its queue.

Asynchronous, in one event loop; `swarm.collective.communicator` is its face for everybody else.
"""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import tempfile
import time
from collections.abc import Coroutine
from dataclasses import dataclass
from pathlib import Path

from swarm.aio import in_time
from swarm.collective.context import Context, RoundEvent
from swarm.collective.join import in_roster, join, watch_branches
from swarm.collective.ledger import Ledger
from swarm.collective.member import RoundMember
from swarm.collective.operations import Operation, OperationQueue
from swarm.collective.state import CanonicalState
from swarm.collective.tensors import TensorPolicy
from swarm.config import MembershipConfig, RunManifest, TimeoutPolicy
from swarm.errors import Code, SwarmError
from swarm.network.data_plane import DataPlane
from swarm.network.membership import PeerDirectory
from swarm.network.p2p import NetworkConfig, PeerNetwork
from swarm.wire.data_pb2 import PLAIN, SEALED
from swarm.wire.membership_pb2 import PeerRecord

LEASE_MS = 60_000
LEAVE_LIMIT_S = 5.0
PUBLISH_EVERY_S = 1.0


@dataclass(frozen=True, kw_only=True)
class GroupConfig:
    """Arguments of `Communicator.open`, which documents them."""

    group: str
    initial_peers: tuple[str, ...]
    host: str
    min_peers: int
    directory: Path | None
    route: str
    protection: str
    on_majority_lost: str
    timeouts: TimeoutPolicy

    def __post_init__(self) -> None:
        for name, value, known in (
            ("route", self.route, ("auto", "direct", "tunnel")),
            ("protection", self.protection, ("sealed", "plain")),
        ):
            if value not in known:
                raise SwarmError(Code.USAGE, f"{name} {value!r} is none of {', '.join(known)}")

    def manifest(self) -> RunManifest:
        """The group as a run: its hash is what keeps other groups out."""
        return RunManifest(
            name=self.group,
            membership=MembershipConfig(
                min_peers=self.min_peers, on_majority_lost=self.on_majority_lost
            ),
            timeouts=self.timeouts,
        )


class Session:
    """See the module docstring. Made by `start`."""

    def __init__(self, config: GroupConfig) -> None:
        self._manifest = config.manifest()
        self._temporary = None if config.directory else Path(tempfile.mkdtemp(prefix="group-"))
        self._directory = config.directory or self._temporary
        self._config = config
        self._policy = TensorPolicy()
        self._queue = OperationQueue(self._policy)
        self._arrived = asyncio.Event()
        self._driver: asyncio.Task[None] | None = None
        self._joining: set[asyncio.Future[None]] = set()
        self._ended: SwarmError | None = None  # why nothing can be submitted
        self._published: asyncio.Task[None] | None = None
        self._published_s = -PUBLISH_EVERY_S
        self.events: list[RoundEvent] = []

    @classmethod
    async def start(cls, config: GroupConfig) -> Session:
        """Bring up the network; the peer is in no group yet."""
        session = cls(config)
        async with contextlib.AsyncExitStack() as undo:
            undo.callback(session._remove_temporary)
            await session._start(undo)
            undo.pop_all()
        return session

    async def _start(self, undo: contextlib.AsyncExitStack) -> None:
        assert self._directory is not None
        self._directory.mkdir(parents=True, exist_ok=True)
        run_id = self._manifest.run_id
        config = self._config
        self._network = await PeerNetwork.start(
            self._directory / "identity.key",
            run_id,
            NetworkConfig(host=config.host, initial_peers=config.initial_peers),
        )
        undo.push_async_callback(self._network.shutdown)
        protection = PLAIN if config.protection == "plain" else SEALED
        self._plane = DataPlane(self._network.identity, run_id, protection=protection)
        undo.callback(self._plane.stop)
        address = self._plane.start(config.host, 0)
        self._data_addresses = [] if config.route == "tunnel" else [address]
        if config.route != "direct":
            self._network.carry(self._plane)
            await self._network.serve_streams(self._plane.accept_tunnel)
        directory = PeerDirectory(self._network, run_id, time.time, self._network.learn)
        state = CanonicalState({})
        self._member = RoundMember(
            Context(
                manifest=self._manifest,
                identity=self._network.identity,
                transport=self._network,
                bulk=self._plane,
                directory=directory,
                ledger=Ledger(config.directory),
                state=state,
                policy=self._policy,
                clock=time.monotonic,
                wall_clock=time.time,
                emit=self._note,
            )
        )
        self._known = directory
        self._plane.set_reduce_handler(self._member.registry.handle)
        self._plane.set_blob_source(state.blob)
        await self._publish()

    def _note(self, event: RoundEvent) -> None:
        self.events.append(event)
        del self.events[:-1000]

    # ---- what the communicator asks -------------------------------------------------------

    @property
    def peer_id(self) -> str:
        """This peer's id."""
        return self._network.peer_id

    @property
    def address(self) -> str:
        """A multiaddr at which others reach this peer."""
        return self._network.addresses[0]

    def paths(self) -> dict[str, str]:
        """How bulk bytes went to each peer last."""
        return self._plane.paths

    def members(self) -> list[str]:
        """The group by its newest commit."""
        return self._member.roster()

    async def join(self) -> list[str]:
        """Enter the group and begin to work on what is submitted."""
        self._ended = None
        await self._until_ended(join(self._member))
        if self._driver is None:
            every = self._config.timeouts.heartbeat
            self._member.spawn(watch_branches(self._member, every))
            self._driver = asyncio.create_task(self._work())
        self._publish_soon()
        return self.members()

    async def _until_ended(self, work: Coroutine[None, None, None]) -> None:
        """Do something that `leave` and `close` break off. Raises `PEER_UNREACHABLE` then."""
        task = asyncio.ensure_future(work)
        self._joining.add(task)
        try:
            await asyncio.wait([task])
        finally:
            self._joining.discard(task)
            task.cancel()
        if self._ended is not None:
            raise self._ended
        task.result()

    def submit(self, operation: Operation) -> None:
        """Queue an operation; what cannot be done any more is told to it."""
        if self._ended is not None:
            operation.done(self._ended)
            return
        record = self._member.ledger.record
        states = [o.state for o in record.fragments] if record is not None else []
        version = next((int(s.version) for s in states if s.fragment == operation.tag), 0)
        self._queue.submit(operation, version)
        self._arrived.set()
        self._member.revise(self._queue.offer(self._member.ledger.commit_id))

    async def leave(self) -> None:
        """Resign from the group, when nothing is in flight any more."""
        await self._stop_driver("this peer left the group")
        await self._member.resign()

    async def close(self) -> None:
        """Leave in good order if that is soon possible, and end everything."""
        async with contextlib.AsyncExitStack() as ending:  # from the last to the first
            ending.callback(self._remove_temporary)
            ending.push_async_callback(self._network.shutdown)
            ending.callback(self._plane.stop)
            ending.push_async_callback(self._member.close)
            if self._published is not None:
                ending.callback(self._published.cancel)
            await self._stop_driver("this communicator was closed")
            with contextlib.suppress(asyncio.TimeoutError, SwarmError):
                await in_time(self._member.resign(), LEAVE_LIMIT_S)

    # ---- the work -------------------------------------------------------------------------

    async def _work(self) -> None:
        """Offer what waits, round after round."""
        while True:
            if not self._queue.pending:
                self._arrived.clear()
                await self._arrived.wait()
            try:
                if not in_roster(self._member):
                    await join(self._member)
                await self._resolve()
                if self._queue.pending:
                    await self._member.run_round(self._queue.offer(self._member.ledger.commit_id))
                    await self._resolve()
                    self._publish_soon()
            except SwarmError as error:
                self._queue.fail(error, self._member.ledger.record)
            except Exception as error:  # a defect; unsaid, every handle would wait for ever
                defect = SwarmError(Code.INTERNAL, f"{type(error).__name__}: {error}")
                self._queue.fail(defect, self._member.ledger.record)

    async def _resolve(self) -> None:
        while not self._member.level:  # a newer commit may come while one is fetched
            await self._member.resync()
        record = self._member.ledger.record
        if record is not None:
            self._queue.resolve(record, self._member.state.fragments, self.peer_id)

    async def _stop_driver(self, reason: str) -> None:
        self._ended = SwarmError(Code.PEER_UNREACHABLE, reason)
        for joining in list(self._joining):
            joining.cancel()
        if self._driver is not None:
            self._driver.cancel()
            await asyncio.gather(self._driver, return_exceptions=True)
            self._driver = None
        self._queue.fail(self._ended, self._member.ledger.record)

    # ---- the peer's record ----------------------------------------------------------------

    def _publish_soon(self) -> None:
        """At most one publication in `PUBLISH_EVERY_S`: operations may take milliseconds."""
        if self._published is None or self._published.done():
            self._published = asyncio.create_task(self._try_publish())

    async def _try_publish(self) -> None:
        now_s = time.monotonic()
        wait_s = self._published_s + PUBLISH_EVERY_S - now_s
        if wait_s > 0:
            await asyncio.sleep(wait_s)
        self._published_s = now_s + max(0.0, wait_s)
        with contextlib.suppress(SwarmError):  # the network's own watcher publishes it again
            await self._publish()

    async def _publish(self) -> None:
        record = self._member.ledger.record
        await self._network.publish(
            PeerRecord(
                data_addresses=self._data_addresses,
                tls_certificate=self._plane.certificate_pem,
                branch=self._member.ledger.branch,
                round=record.round if record else 0,
                bandwidth_bps=self._plane.rates.upload_bps,
                committed_tokens=record.committed_tokens if record else 0,
                lease_ttl_ms=LEASE_MS,
            )
        )
        if self._network.signed_record is not None:
            self._known.note(self._network.signed_record)

    def _remove_temporary(self) -> None:
        if self._temporary is not None:
            shutil.rmtree(self._temporary, ignore_errors=True)
