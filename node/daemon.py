"""The daemon of one node: joins the run, drives its worker round by round, serves the others.

    asyncio.run(run_daemon(config, print))      # until cancelled, which stops it cleanly

One asyncio loop owns the network, the round protocol and the control API; the model and the device
belong to the worker process. Read `Daemon.run` from top to bottom.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from datetime import timedelta

import numpy as np

from node.control_server import NodeControl, control_server
from node.daemon_config import DaemonConfig
from node.daemon_status import State, Status
from node.daemon_view import round_summary, status_reply
from node.node_files import (
    load_addresses,
    load_fragments,
    node_lock,
    save_addresses,
    save_fragments,
)
from node.shared_buffers import SharedBuffers
from node.worker_link import RoundResult, WorkerProcess, WorkerSettings
from node.worker_protocol import Message
from swarm import __version__
from swarm.collective.context import Context, Offer, RoundEvent
from swarm.collective.join import discover, in_roster, join, watch_branches
from swarm.collective.ledger import Ledger
from swarm.collective.member import RoundMember
from swarm.collective.state import CanonicalState
from swarm.config import RunManifest
from swarm.errors import Code, SwarmError
from swarm.experts.store import FragmentStore
from swarm.identity import Identity
from swarm.network.data_plane import DataPlane
from swarm.network.membership import PeerDirectory
from swarm.network.p2p import NetworkConfig, PeerNetwork
from swarm.training.policy import RunPolicy
from swarm.wire import collective_pb2 as pb
from swarm.wire import node_pb2
from swarm.wire.membership_pb2 import PeerRecord

Report = Callable[[str], None]
RECORD_LEASE = timedelta(seconds=60)
SAVE_EVERY = timedelta(seconds=20)
STOP_LIMIT = timedelta(seconds=8)
MIN_ROUTED_TOKENS = 16  # below this, an expert's update is optimizer noise and is not offered
WORKER_RESTARTS = 3  # in a row


async def run_daemon(config: DaemonConfig, report: Report) -> None:
    """Run a node until this task is cancelled or `node stop` is called.

    `report` gets one line per stage and per change of state. Raises a typed error when the node
    can not start or go on; nothing is left behind then.
    """
    with node_lock(config.directory):
        manifest = RunManifest.load(config.manifest_path)
        daemon = Daemon(config, manifest, report)
        work = asyncio.create_task(daemon.run())
        daemon.on_stop = work.cancel
        try:
            await work
        except asyncio.CancelledError:
            if not work.done():  # this task was cancelled, not the work
                work.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await work


class Daemon:
    """See the module docstring."""

    def __init__(self, config: DaemonConfig, manifest: RunManifest, report: Report) -> None:
        self.config = config
        self.manifest = manifest
        self.status = Status(report)
        self.on_stop: Callable[[str], object] = lambda reason: None
        self.identity = Identity.load_or_create(config.directory / "identity.key")
        self.policy = RunPolicy(manifest, self.identity.peer_id)
        self.ledger = Ledger(config.directory)
        _require_same_run(config, manifest, self.ledger.record)
        self.store = FragmentStore(config.directory / "fragments")
        self.buffers = SharedBuffers.create(self.policy.layout)
        self.data_plane = DataPlane(self.identity, manifest.run_id)
        self.network: PeerNetwork | None = None
        self.directory: PeerDirectory | None = None
        self.member: RoundMember | None = None
        self.worker: WorkerProcess | None = None
        self._data_port = 0
        self._saved_s = 0.0
        self._saving: asyncio.Task[None] | None = None
        self.paths: dict[str, str] = {}

    # ---- life -----------------------------------------------------------------------------

    async def run(self) -> None:
        """Start, join, then train and average until cancelled."""
        servicer = NodeControl(self.status, self.snapshot, self._stop)
        async with contextlib.AsyncExitStack() as stack:
            stack.callback(self.buffers.close)
            await stack.enter_async_context(control_server(self.config.directory, servicer))
            stack.push_async_callback(self._finish)
            self.status.enter(State.STARTING, f"run {self.manifest.run_id.hex()[:16]}")
            initial = await asyncio.to_thread(self.policy.check_genesis)
            saved = await asyncio.to_thread(load_fragments, self.store, self.ledger.record)
            state = CanonicalState({**initial, **saved})
            worker, member = await _both(self._start_worker(), self._start_network(state))
            self.worker, self.member = worker, member
            await stack.enter_async_context(self._background(member))
            await self._live(member)

    def _stop(self, reason: str) -> None:
        self.status.report(f"stopping: {reason or 'asked to'}")
        self.on_stop(reason)

    async def _live(self, member: RoundMember) -> None:
        await discover(member)
        while True:
            if not in_roster(member):
                self.status.enter(State.JOINING, "asking to enter the roster")
                await join(member)
                self._note_commit(None)
                self.policy.forget_initial()
            await self._wait_for_company(member)
            self.status.enter(State.SYNCING, "fetching what this node lacks")
            await member.resync()
            offer = await self._train(member)
            if offer is None:
                self._note_commit(None)
                continue
            self.status.enter(State.AVERAGING, f"round {self.ledger.next_round}")
            started = time.monotonic()
            await member.run_round(offer)
            self._note_commit(time.monotonic() - started)
            self._save_now_and_then()

    async def _wait_for_company(self, member: RoundMember) -> None:
        """A node that is the whole roster waits for others, unless told to train alone."""
        if self.config.allow_solo or self.manifest.membership.min_peers == 1:
            return
        while member.ledger.record is not None and len(member.ledger.record.roster) == 1:
            self.status.enter(State.JOINING, "alone in the run; --allow-solo would train on")
            if member.leader is not None and not member.leader.finished:
                await member.run_round(None)  # somebody asks to enter
                self._note_commit(None)
            await asyncio.sleep(0.5)

    # ---- starting -------------------------------------------------------------------------

    async def _start_worker(self) -> WorkerProcess:
        directory = self.config.directory
        worker = await WorkerProcess.start(self.buffers.fd, directory / "worker.log")
        self.worker = worker
        settings = WorkerSettings(
            manifest=self.manifest,
            held=self.policy.held_experts(self.ledger.record),
            source=self.config.data,
            data_dir=directory / "shards",
            domain=self.config.domain,
            seed=int.from_bytes(self.identity.sign(b"data order")[:4], "little"),
            threads=self.config.threads,
            device=self.config.device,
            checkpoint=directory / "trainer.ckpt",
        )
        ready = await worker.init(settings, self._note_data_progress)
        for warning in ready.warnings:
            self.status.report(f"warning: {warning}")
        report = {k: v for k, v in ready.data_report.items() if isinstance(v, int)}
        self.status.data_report = report
        self.status.worker_pid = worker.pid
        counts = ", ".join(f"{name} {count}" for name, count in report.items() if count)
        self.status.report(f"data ready: {counts}")
        return worker

    def _note_data_progress(self, message: Message) -> None:
        count = message.get("documents", 0)
        self.status.reason = f"preparing data: {count} documents"

    async def _start_network(self, state: CanonicalState) -> RoundMember:
        config = self.config
        self._data_port = int(self.data_plane.start(config.host, 0).rpartition(":")[2])
        network = await PeerNetwork.start(
            config.directory / "identity.key",
            self.manifest.run_id,
            NetworkConfig(
                host=config.host,
                port=config.port,
                initial_peers=config.peers,
                known_peers=load_addresses(config.directory),
            ),
            on_stage=lambda name, message: self.status.report(f"{name}: {message}"),
        )
        self.network = network
        self.directory = PeerDirectory(
            network, self.manifest.run_id, time.time, on_record=network.learn
        )
        member = RoundMember(
            Context(
                manifest=self.manifest,
                identity=self.identity,
                transport=network,
                bulk=self.data_plane,
                directory=self.directory,
                ledger=self.ledger,
                state=state,
                policy=self.policy,
                clock=time.monotonic,
                wall_clock=time.time,
                emit=self._on_event,
            )
        )
        self.data_plane.set_reduce_handler(member.registry.handle)
        self.data_plane.set_blob_source(state.blob)
        self.member = member
        await self._publish()
        return member

    # ---- training -------------------------------------------------------------------------

    async def _train(self, member: RoundMember) -> Offer | None:
        """One round of inner steps; None when the round was decided without this node."""
        record = member.ledger.record
        assert record is not None
        base_id = member.ledger.commit_id
        held = self.policy.held_experts(record)
        self.status.held_experts = held
        for name in self.policy.wanted(record):
            self.buffers.theta[name][:] = member.state.fragments[name].theta
        self.status.enter(State.TRAINING, f"round {record.round + 1}")
        training = asyncio.create_task(self._train_in_worker(record, held))
        overtaken = asyncio.create_task(_until_changed(member, base_id))
        try:
            await asyncio.wait({training, overtaken}, return_when=asyncio.FIRST_COMPLETED)
            if member.ledger.commit_id != base_id:
                return None
            return self._offer(await training, record, base_id)
        finally:
            for task in (training, overtaken):
                task.cancel()
            await asyncio.gather(training, overtaken, return_exceptions=True)

    async def _train_in_worker(self, record: pb.RoundRecord, held: list[int]) -> RoundResult:
        for restarts in range(WORKER_RESTARTS + 1):
            try:
                if self.worker is None or not self.worker.alive:
                    await self._start_worker()
                assert self.worker is not None
                return await self.worker.train(
                    round_number=record.round + 1,
                    steps=self.manifest.training.inner_steps,
                    committed_tokens=record.committed_tokens,
                    held=held,
                    load_LE=np.array(record.routed_tokens) if record.routed_tokens else None,
                    on_progress=self._note_progress,
                )
            except SwarmError as error:
                if error.code is not Code.WORKER_CRASHED or restarts == WORKER_RESTARTS:
                    raise
                self.status.report(f"warning: {error}")
                await asyncio.sleep(2**restarts)
        raise AssertionError("the loop returns or raises")

    def _note_progress(self, message: Message) -> None:
        self.status.step = int(message["step"])
        self.status.loss = float(message["loss"])
        self.status.tokens_per_second = float(message["tokens_per_second"])

    def _offer(self, result: RoundResult, record: pb.RoundRecord, base_id: bytes) -> Offer:
        status, layout = self.status, self.policy.layout
        status.step, status.loss = result.steps, result.loss
        status.tokens_trained += result.tokens
        status.tokens_per_second = result.tokens / max(result.seconds, 1e-9)
        weights = {name: float(result.tokens) for name in layout.trunk_names}
        for expert in self.policy.held_experts(record):
            routed = float(result.routed_LE[:, expert].mean())
            weights[layout.expert_name(expert)] = routed if routed >= MIN_ROUTED_TOKENS else 0.0
        return Offer(
            deltas={name: self.buffers.delta[name] for name in weights},
            weights=weights,
            base_commit=base_id,
            steps=result.steps,
            tokens=result.tokens,
            loss=result.loss,
            routed_tokens=[int(count) for count in result.routed_LE.reshape(-1)],
        )

    # ---- what others see ------------------------------------------------------------------

    @contextlib.asynccontextmanager
    async def _background(self, member: RoundMember) -> AsyncIterator[None]:
        tasks = [
            asyncio.create_task(self._keep_published()),
            asyncio.create_task(watch_branches(member, self.manifest.timeouts.heartbeat)),
        ]
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _keep_published(self) -> None:
        """Keep the record true: after each commit, and every third of its lease."""
        shown = b""
        while True:
            for _ in range(int(RECORD_LEASE.total_seconds() / 3)):
                await asyncio.sleep(1)
                if self.ledger.commit_id != shown:
                    break
            shown = self.ledger.commit_id
            try:
                await self._publish()
                assert self.network is not None
                self.paths = await self.network.paths()
                save_addresses(self.config.directory, self.network.known_addresses)
            except SwarmError as error:
                self.status.report(f"warning: {error}")

    async def _publish(self) -> None:
        assert self.network is not None and self.directory is not None
        record = self.ledger.record
        hosts = sorted({a.split("/")[2] for a in self.network.addresses})
        await self.network.publish(
            PeerRecord(
                display_name=self.config.name,
                software_version=__version__,
                data_addresses=[f"{host}:{self._data_port}" for host in hosts],
                tls_certificate=self.data_plane.certificate_pem,
                device=self.config.device,
                tokens_per_second=self.status.tokens_per_second,
                domain=self.config.domain,
                held_experts=self.status.held_experts,
                branch=self.ledger.branch,
                round=record.round if record is not None else 0,
                committed_tokens=record.committed_tokens if record is not None else 0,
                commit_id=self.ledger.commit_id,
                state=self.status.state.value,
                lease_ttl_ms=round(1000 * RECORD_LEASE.total_seconds()),
            )
        )
        if self.network.signed_record is not None:
            self.directory.note(self.network.signed_record)

    def _on_event(self, event: RoundEvent) -> None:
        if event.name in ("attempt_failed", "suspect"):
            self.status.report(
                f"round {event.round}: {event.name.replace('_', ' ')}: {event.detail}"
            )

    def _note_commit(self, seconds: float | None) -> None:
        """Write the newest commit into the history, with the hash of this node's own bits."""
        assert self.member is not None and self.ledger.record is not None
        record, status = self.ledger.record, self.status
        status.held_experts = self.policy.held_experts(record)
        if status.rounds and status.rounds[-1].commit_id == self.ledger.commit_id.hex():
            return
        summary = round_summary(self, seconds or 0.0)
        status.rounds.append(summary)
        counted = self.member.me in summary.contributors
        if counted:
            status.last_counted_round = record.round
        status.report(
            f"round {record.round} {summary.outcome}: {len(summary.contributors)} of "
            f"{len(record.electorate)} contributed, loss {record.loss:.3f}, "
            f"own update {'counted' if counted else 'not in it'}"
        )

    async def snapshot(self) -> node_pb2.StatusReply:
        """The truth about this node, for `node status`."""
        return await status_reply(self)

    # ---- keeping and ending ---------------------------------------------------------------

    def _save_now_and_then(self) -> None:
        due = time.monotonic() - self._saved_s > SAVE_EVERY.total_seconds()
        if due and (self._saving is None or self._saving.done()):
            self._saved_s = time.monotonic()
            self._saving = asyncio.create_task(self._save())

    async def _save(self) -> None:
        """Write fragments to disk; a full disk is said and does not end the training."""
        if self.member is None or not self.member.level:
            return
        try:
            await asyncio.to_thread(save_fragments, self.store, dict(self.member.state.fragments))
        except SwarmError as error:
            self.status.report(f"warning: state not saved: {error}")

    async def _finish(self) -> None:
        """Stop everything in reverse; each part within a limit, whatever fails."""
        self.status.enter(State.FINISHING, "saving and leaving")
        steps: list[Callable[[], Coroutine[None, None, None]]] = []
        if self.member is not None:
            steps += [self.member.resign, self.member.close]
        if self.worker is not None:
            steps += [self._save, self._stop_worker]
        if self.network is not None:
            steps.append(self.network.shutdown)
        for step in steps:
            try:
                await asyncio.wait_for(step(), STOP_LIMIT.total_seconds())
            except (SwarmError, asyncio.TimeoutError) as error:
                self.status.report(f"warning: while stopping: {error or type(error).__name__}")
        await asyncio.to_thread(self.data_plane.stop)
        self.status.enter(State.STOPPED, "")

    async def _stop_worker(self) -> None:
        assert self.worker is not None
        if self.worker.alive and self.member is not None:
            with contextlib.suppress(SwarmError, asyncio.TimeoutError):
                await asyncio.wait_for(self.worker.save(), STOP_LIMIT.total_seconds() / 2)
        await self.worker.stop()


def _require_same_run(
    config: DaemonConfig, manifest: RunManifest, record: pb.RoundRecord | None
) -> None:
    if record is not None and record.run_id != manifest.run_id:
        raise SwarmError(
            Code.RUN_MISMATCH,
            f"{config.directory} belongs to run {record.run_id.hex()[:16]}, "
            f"{config.manifest_path} is run {manifest.run_id.hex()[:16]}",
            "give this run its own directory with --dir",
        )


async def _until_changed(member: RoundMember, commit_id: bytes) -> None:
    async with member.changed:
        await member.changed.wait_for(lambda: member.ledger.commit_id != commit_id)


async def _both(
    worker: Awaitable[WorkerProcess], member: Awaitable[RoundMember]
) -> tuple[WorkerProcess, RoundMember]:
    """Start both at once; when one fails the other is ended too and the first error is raised."""
    tasks = (asyncio.ensure_future(worker), asyncio.ensure_future(member))
    try:
        return await asyncio.gather(*tasks)
    except BaseException:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        raise
