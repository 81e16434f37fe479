"""The daemon of one node: joins the run, drives its worker round by round, serves the others.

    asyncio.run(run_daemon(config, print))      # until cancelled, which stops it cleanly

One asyncio loop owns the network, the round protocol and the control API; the model and the device
belong to the worker process. Read `Daemon.run` from top to bottom.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import functools
import os
import time
from collections.abc import Callable, Mapping

from node.beginning import initial_fragments
from node.company import CompanyReporter
from node.control_server import NodeControl, control_server
from node.daemon_config import DaemonConfig
from node.daemon_status import State, Status
from node.daemon_view import round_summary, status_reply
from node.daily_traffic import DailyTraffic
from node.ending import finish
from node.giving import Giving
from node.governing import finish_round, govern
from node.governor import Sensors
from node.halting import halt, refuse_ended
from node.joining import load_admission
from node.keeping import FragmentKeeper
from node.metrics.server import metrics_server
from node.names import friendly_name
from node.node_files import load_fragments, node_lock, require_same_run
from node.opening import open_network
from node.paths import PRIVATE_MASK
from node.pausing import rest
from node.publishing import RecordPublisher
from node.returning import wait_for_return
from node.round_metrics import RoundWatch
from node.run_changes import RunChanges
from node.sensors import measure
from node.shared_buffers import SharedBuffers
from node.tasks import both, together, uninterrupted
from node.training_link import TrainingLink
from node.volunteer_server import VolunteerControl
from swarm.collective.context import Offer, RoundEvent
from swarm.collective.join import discover, in_roster, join, watch_branches
from swarm.collective.ledger import Ledger
from swarm.collective.member import RoundMember
from swarm.config import RunManifest
from swarm.errors import Code, SwarmError
from swarm.experts.store import FragmentStore
from swarm.identity import Identity
from swarm.network.data_plane import DataPlane
from swarm.network.p2p import PeerNetwork
from swarm.training.policy import RunPolicy
from swarm.wire import node_pb2

Report = Callable[[str], None]
RETRY_S = 1.0
NOTHING: Mapping[str, float] = {}


async def run_daemon(config: DaemonConfig, report: Report, sensors: Sensors = measure) -> None:
    """Run a node until this task is cancelled, or `node stop` or `node finish` is called.

    `report` gets one line per stage and per change of state; `sensors` say what the limits depend
    on. Raises a typed error when the node can not start or go on; nothing is left behind then.
    """
    os.umask(PRIVATE_MASK)
    with node_lock(config.directory):
        daemon = Daemon(config, RunManifest.load(config.manifest_path), report, sensors)
        with metrics_server(config.metrics, daemon.snapshot, report):
            work = asyncio.create_task(daemon.run())
            daemon.on_stop = work.cancel
            with contextlib.suppress(asyncio.CancelledError):
                await work  # cancelling this task cancels the work


class Daemon:
    """See the module docstring."""

    def __init__(
        self,
        config: DaemonConfig,
        manifest: RunManifest,
        report: Report,
        sensors: Sensors = measure,
    ) -> None:
        self.config = config
        self.manifest = manifest
        self.status = Status(report)
        self.on_stop: Callable[[], object] = lambda: None
        self.identity = Identity.load_or_create(config.directory / "identity.key")
        if not config.name:
            name = friendly_name(self.identity.peer_id)
            self.config = config = dataclasses.replace(config, name=name)
        self.policy = RunPolicy(manifest, self.identity.peer_id)
        self.ledger = Ledger(config.directory)
        require_same_run(config.directory, config.manifest_path, manifest, self.ledger.record)
        refuse_ended(self.ledger.record)
        self.store = FragmentStore(config.directory / "fragments")
        self.keeper = FragmentKeeper(self.store, self.status)
        self.buffers = SharedBuffers.create(self.policy.layout)
        seed = int.from_bytes(self.identity.sign(b"data order")[:4], "little")
        self.training = TrainingLink(config, self.policy, self.buffers, seed, self.status)
        self.admission = load_admission(config.directory, manifest, self.identity.peer_id)
        self.changes = RunChanges(manifest, self.admission, self.status.report)
        self.data_plane = DataPlane(self.identity, manifest.run_id, admission=self.admission)
        self.daily = DailyTraffic(config.directory, self.data_plane.traffic.total)
        self.governor = govern(self, sensors)
        self.giving = Giving(
            lambda: sum(self.data_plane.traffic.sent.values()),
            lambda: self.network.routes.meter.total_bytes if self.network is not None else 0,
        )
        self.network: PeerNetwork | None = None
        self.publisher: RecordPublisher | None = None
        self.company: CompanyReporter | None = None
        self.member: RoundMember | None = None
        self._noted_commit = b""
        self._offered: Offer | None = None  # the last one, which may still be waited for

    # ---- life -----------------------------------------------------------------------------

    async def run(self) -> None:
        """Start, join, then train and average until cancelled."""
        servicer = NodeControl(self.status, self.snapshot, self.stop, self.changes.submit)
        volunteer = VolunteerControl(self.governor, functools.partial(finish_round, self))
        async with control_server(self.config.directory, servicer, volunteer):
            try:
                member, publisher = await self._start()
                assert self.company is not None
                await together(
                    self._live(member),
                    self.governor.run(),
                    self.keeper.run(),
                    publisher.run(),
                    self.company.run(),
                    watch_branches(member, self.manifest.timeouts.heartbeat),
                )
            finally:
                await uninterrupted(finish(self))

    def stop(self, reason: str) -> None:
        """Begin to stop; returns at once."""
        self.status.report(f"stopping: {reason or 'asked to'}")
        self.on_stop()

    async def snapshot(self) -> node_pb2.StatusReply:
        """The truth about this node, for `node status`; answers at once."""
        return status_reply(self)

    # ---- starting -------------------------------------------------------------------------

    async def _start(self) -> tuple[RoundMember, RecordPublisher]:
        self.status.enter(State.STARTING, f"run {self.manifest.run_id.hex()[:16]}")
        initial = await initial_fragments(
            self.policy, self.config.manifest_path, self.ledger.next_round
        )
        saved = await asyncio.to_thread(load_fragments, self.store, self.ledger.record)
        held = self.policy.held_experts(self.ledger.record)
        await self.governor.look()
        await both(
            self._start_worker(held),
            open_network(self, {**initial, **saved}, self._on_event),
        )
        assert self.member is not None and self.publisher is not None
        return self.member, self.publisher

    async def _start_worker(self, held: list[int]) -> None:
        await self.governor.while_allowed(self.training.start(held))
        if not self.governor.verdict.may_train:
            await self.training.rest()

    # ---- rounds ---------------------------------------------------------------------------

    async def _live(self, member: RoundMember) -> None:
        while not self.governor.finishing:
            await self.governor.while_allowed(self._take_part(member))
            if not self.governor.verdict.may_train and not self.governor.finishing:
                await rest(self, member)

    async def _take_part(self, member: RoundMember) -> None:
        """Train and average, until this is cancelled or the node is to finish."""
        while not self.governor.finishing:
            try:
                await discover(member)
                await self._wait_for_return(member)
                while not self.governor.finishing:
                    await self._one_round(member)
            except SwarmError as error:
                if error.code is not Code.PEER_UNREACHABLE:
                    raise
                self.status.note_trouble("taking part in the run", error)
                await asyncio.sleep(RETRY_S)

    async def _one_round(self, member: RoundMember) -> None:
        if not in_roster(member):
            self.status.enter(State.JOINING, "asking to enter the roster")
            await join(member)
            self._note_commit()
            self.policy.forget_initial()
        await halt(member, self.changes, self.status, self._note_commit, self.stop)
        await self._wait_for_company(member)
        self.status.enter(State.SYNCING, "fetching what this node lacks")
        await member.resync()
        self._note_commit()
        self._keep_fragments()
        offer = self._unanswered() or await self.training.train(member)
        if offer is None:
            self._note_commit()
        while offer is not None:
            offer = await self._average(member, offer)
        self.status.note_trouble("taking part in the run", None)

    def _unanswered(self) -> Offer | None:
        """The update that was offered for the open round before a pause: it is offered again.

        To train another would change it under an attempt that sends it.
        """
        offer = self._offered
        return offer if offer is not None and offer.base_commit == self.ledger.commit_id else None

    async def _average(self, member: RoundMember, offer: Offer) -> Offer | None:
        """Average a round; with overlap train the next one meanwhile and return what it made."""
        self.status.enter(State.AVERAGING, f"round {self.ledger.next_round}")
        started = time.monotonic()
        divergence = self.training.routing_divergence
        watch = RoundWatch(self.policy, member.state.fragments, offer, divergence)
        self.giving.add_to(offer)
        overlap = self.manifest.stream.overlap and not self.governor.finishing
        ahead = self.training.begin_ahead(member) if overlap and self.training.ready else None
        self._offered = offer
        try:
            record = await member.run_round(offer)
            self.giving.follow(record, member.me)
            summary = self._summary(time.monotonic() - started)
            metrics: Mapping[str, float] = NOTHING
            try:
                metrics = await asyncio.to_thread(watch.finish, record, member.state.fragments)
            finally:
                self._note_commit(summary, metrics)
            if ahead is None or not self._has_company(member):
                return None
            self._keep_fragments()
            return await self.training.arrive(member, ahead)
        finally:
            if ahead is not None:
                ahead.cancel()
                await asyncio.gather(ahead, return_exceptions=True)

    def _has_company(self, member: RoundMember) -> bool:
        """Whether this node may train on in the newest roster."""
        solo = self.config.allow_solo or self.manifest.membership.min_peers == 1
        together = in_roster(member) and (solo or len(member.roster()) > 1)
        return together and not self.changes.halted

    async def _wait_for_return(self, member: RoundMember) -> None:
        if not self.config.allow_solo:
            say = functools.partial(self.status.enter, State.JOINING)
            await wait_for_return(member, self.manifest, say)

    async def _wait_for_company(self, member: RoundMember) -> None:
        """A node that is cut off, or the whole roster, waits for others, unless told otherwise."""
        if self.config.allow_solo or self.manifest.membership.min_peers == 1:
            return
        while reason := self._why_alone(member):
            self.status.enter(State.JOINING, f"{reason}; --allow-solo would train on")
            if member.leader is not None and not member.leader.finished:
                await member.run_round(None)  # somebody asks to enter
                self._note_commit()
            await asyncio.sleep(0.5)

    def _why_alone(self, member: RoundMember) -> str:
        assert self.network is not None
        if member.ledger.record is not None and len(member.ledger.record.roster) == 1:
            return "alone in the run"
        return self.network.company.reason() if self.network.company.alone else ""

    def _on_event(self, event: RoundEvent) -> None:
        if event.name == "committed":
            self.changes.follow(self.ledger.record)
            self._keep_fragments()
        elif event.name in ("attempt_failed", "suspect", "task_failed"):
            what = event.name.replace("_", " ")
            self.status.report(f"round {event.round}: {what}: {event.detail}")

    def _keep_fragments(self) -> None:
        if self.member is not None and self.ledger.record is not None:
            self.keeper.note(self.member.state.fragments, complete=self.member.level)

    def _summary(self, seconds: float = 0.0) -> node_pb2.RoundSummary | None:
        """Of the newest commit, unless it was told before or this node lacks some of its bits."""
        assert self.member is not None
        if not self.member.level or self.ledger.commit_id == self._noted_commit:
            return None
        self._noted_commit = self.ledger.commit_id
        return round_summary(self, seconds)

    def _note_commit(
        self,
        summary: node_pb2.RoundSummary | None = None,
        metrics: Mapping[str, float] = NOTHING,
    ) -> None:
        """Write a commit, or the newest, into the history, with the hash of this node's own bits.

        The summary comes first where something is awaited: the next commit is adopted at any time,
        and then its bits are only there once they were fetched.
        """
        assert self.member is not None and self.ledger.record is not None
        self.status.held_experts = self.policy.held_experts(self.ledger.record)
        summary = summary or self._summary()
        if summary is not None:
            summary.metrics.update(metrics)
            self.status.note_round(summary, self.member.me)
