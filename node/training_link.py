"""The daemon's hold on its worker: starts it, restarts it, and turns its rounds into offers.

link = TrainingLink(config, policy, buffers, seed, status)
await link.start(held)
offer = await link.train(member)      # None when the round was decided meanwhile
await link.stop()
"""

from __future__ import annotations

import asyncio
from datetime import timedelta

from node.daemon_config import DaemonConfig
from node.daemon_status import State, Status
from node.limits import Limits
from node.log_files import set_aside_if_long, worker_log_path
from node.offering import committed_by, offer_of
from node.shared_buffers import SharedBuffers
from node.worker_link import WorkerProcess
from node.worker_messages import Committed, RoundResult, WorkerReady, WorkerSettings
from node.worker_protocol import Message
from swarm.aio import in_time
from swarm.collective.context import Offer
from swarm.collective.member import RoundMember
from swarm.errors import Code, SwarmError
from swarm.experts.duties import steps_of
from swarm.training.policy import RunPolicy
from swarm.wire import collective_pb2 as pb

RESTARTS = 3  # in a row
SAVE_LIMIT = timedelta(seconds=4)
REST_SAVE_LIMIT = timedelta(seconds=1)
STOP_GRACE = timedelta(seconds=1)


class TrainingLink:
    """See the module docstring. `seed` orders this node's data.

    Attributes:
        capability: of this machine, measured when the worker starts.
        limits: what the next worker may take; `keep_to` tells the present one too.
        least_bytes: memory without which a worker can not train, as it was last measured; 0 = not
            known.
    """

    def __init__(
        self,
        config: DaemonConfig,
        policy: RunPolicy,
        buffers: SharedBuffers,
        seed: int,
        status: Status,
    ) -> None:
        self.limits = Limits()
        self.least_bytes = 0
        self._config = config
        self._policy = policy
        self._buffers = buffers
        self._seed = seed
        self._status = status
        self._worker: WorkerProcess | None = None
        self._starting: asyncio.Task[None] | None = None
        self._is_set_up = False
        self.capability = pb.Capability(domain=config.domain)
        self.routing_divergence: float | None = None  # of the last round that was trained

    # ---- the process ----------------------------------------------------------------------

    @property
    def ready(self) -> bool:
        """True when there is a worker that can train."""
        return self._worker is not None and self._worker.alive and self._is_set_up

    async def start(self, held: list[int]) -> None:
        """Start a worker and wait until it is ready. Raises what it found wrong.

        A start goes on when this is cancelled, and the next call waits for the same one: where
        rounds are shorter than a start, no start would ever come to its end.
        """
        if self._starting is None:
            self._starting = asyncio.create_task(self._start(held))
        starting = self._starting
        try:
            await asyncio.shield(starting)
        finally:
            if starting.done() and self._starting is starting:
                self._starting = None

    async def _start(self, held: list[int]) -> None:
        if self._worker is not None:  # it died, or never got ready
            await self._worker.stop(timedelta(0))
        self._is_set_up = False
        directory = self._config.directory
        log = worker_log_path(directory)
        set_aside_if_long(log)
        self._worker = await WorkerProcess.start(self._buffers.fd, log)
        settings = WorkerSettings(
            manifest=self._policy.manifest,
            held=held,
            source=self._config.data,
            data_dir=self._config.data_dir,
            seed=self._seed,
            threads=self._threads,
            limit_bytes=self.limits.memory_bytes,
            vram_share=self.limits.vram_share,
            device=self._config.device,
            checkpoints=directory / "trainer",
        )
        self._note_ready(await self._worker.init(settings, self._note_data_progress))
        self._is_set_up = True

    @property
    def _threads(self) -> int:
        return min(self._config.threads, self.limits.cpu_threads or self._config.threads)

    def keep_to(self, limits: Limits) -> None:
        """Let the worker take no more than that, from now on."""
        self.limits = limits
        if self._worker is not None:
            self._worker.adjust(
                self._threads, limits.cpu_threads, limits.memory_bytes, limits.vram_share
            )

    def _note_ready(self, ready: WorkerReady) -> None:
        assert self._worker is not None
        status = self._status
        for warning in ready.warnings:
            status.report(f"warning: {warning}")
        status.data_report = {k: v for k, v in ready.data_report.items() if isinstance(v, int)}
        status.worker_pid = self._worker.pid
        status.device = ready.device
        self.least_bytes = ready.least_bytes
        self.capability = pb.Capability(
            memory_bytes=ready.memory_bytes,
            seconds_per_step=ready.seconds_per_step,
            domain=self._config.domain,
        )
        counts = ", ".join(f"{name} {count}" for name, count in status.data_report.items() if count)
        status.report(f"data ready: {counts}")

    def _note_data_progress(self, message: Message) -> None:
        self._status.reason = f"preparing data: {message.get('documents', 0)} documents"

    async def rest(self) -> None:
        """End the worker within two seconds and forget it; `train` starts another.

        What it can not save so fast is lost: at most the optimizer's part in the open round.
        """
        try:
            await self.stop(REST_SAVE_LIMIT)
        except SwarmError as error:
            self._status.report(f"warning: {error}")
        finally:
            self._worker = None
            self._status.worker_pid = 0
            self._status.tokens_per_second = 0.0

    async def stop(self, save_limit: timedelta = SAVE_LIMIT) -> None:
        """End the worker; its checkpoint is written first if it has anything to save."""
        if self._starting is not None:
            self._starting.cancel()
            await asyncio.gather(self._starting, return_exceptions=True)
            self._starting = None
        worker = self._worker
        if worker is None:
            return
        if not self.ready:
            await worker.stop(timedelta(0))  # in the middle of its start there is nothing to keep
            return
        try:
            await in_time(worker.save(), save_limit.total_seconds())
        except asyncio.TimeoutError:
            limit_s = save_limit.total_seconds()
            raise SwarmError(
                Code.STAGE_TIMEOUT,
                f"the worker did not write its checkpoint in {limit_s:g} s",
                "the next start has an older optimizer state, or a fresh one",
            ) from None
        finally:
            await worker.stop(min(STOP_GRACE, save_limit / 2))

    # ---- a round --------------------------------------------------------------------------

    async def train(self, member: RoundMember) -> Offer | None:
        """One round of inner steps; None when the round was decided without this node.

        Raises `WORKER_CRASHED` when restarts do not help, or `NON_FINITE`.
        """
        record, base_id, base = self._copy_committed(member)
        self._status.enter(State.TRAINING, f"round {record.round + 1}")
        self._status.step = 0
        training = asyncio.create_task(self._train_in_worker(record, base))
        return await self._offer_of(training, member, record, base_id)

    def begin_ahead(self, member: RoundMember) -> asyncio.Task[RoundResult]:
        """Train the round after the open one while the open one is averaged."""
        assert self._worker is not None and member.ledger.record is not None
        self._status.step = 0
        return asyncio.create_task(
            self._worker.train(
                round_number=member.ledger.next_round + 1,
                steps=self._steps(member.ledger.record),
                on_progress=self._note_progress,
            )
        )

    async def arrive(
        self, member: RoundMember, training: asyncio.Task[RoundResult]
    ) -> Offer | None:
        """Tell of the commit that `begin_ahead` waits for; then as `train`.

        None also when the worker ended meanwhile; `train` starts another.
        """
        record, base_id, base = self._copy_committed(member)
        assert self._worker is not None
        self._status.enter(State.TRAINING, f"round {record.round + 1}")
        self._worker.arrive(record.round + 1, base)
        try:
            return await self._offer_of(training, member, record, base_id)
        except SwarmError as error:
            if error.code is not Code.WORKER_CRASHED:
                raise
            self._status.report(f"warning: {error}")
            return None

    def _copy_committed(self, member: RoundMember) -> tuple[pb.RoundRecord, bytes, Committed]:
        """Put the newest commit's fragments where the worker finds them."""
        record = member.ledger.record
        assert record is not None
        base_id = member.ledger.commit_id  # of the very state that is copied below
        self._status.held_experts = self._policy.held_experts(record)
        wanted = self._policy.wanted(record)
        for name in wanted:
            self._buffers.theta[name][:] = member.state.fragments[name].theta
        versions = {name: member.state.fragments[name].version for name in wanted}
        return record, base_id, committed_by(self._policy, record, base_id, versions)

    async def _offer_of(
        self,
        training: asyncio.Task[RoundResult],
        member: RoundMember,
        record: pb.RoundRecord,
        base_id: bytes,
    ) -> Offer | None:
        """Wait for a round's steps, or for a commit that makes them useless."""
        overtaken = asyncio.create_task(until_changed(member, base_id))
        try:
            await asyncio.wait({training, overtaken}, return_when=asyncio.FIRST_COMPLETED)
            result = None if member.ledger.commit_id != base_id else await training
        finally:
            for task in (training, overtaken):
                task.cancel()
            await asyncio.gather(training, overtaken, return_exceptions=True)
        if result is None or member.ledger.commit_id != base_id:  # also while those tasks ended
            return None
        return self._offer(result, record, base_id)

    def _steps(self, record: pb.RoundRecord) -> int:
        """Inner steps of this peer in a round, by the newest record that is known."""
        return steps_of(record, self._policy.me, self._policy.steps_per_round(record))

    async def _train_in_worker(self, record: pb.RoundRecord, base: Committed) -> RoundResult:
        for restarts in range(RESTARTS + 1):
            try:
                if not self.ready:
                    await self.start(list(base.held))
                assert self._worker is not None
                return await self._worker.train(
                    round_number=record.round + 1,
                    steps=self._steps(record),
                    base=base,
                    on_progress=self._note_progress,
                )
            except SwarmError as error:
                if error.code is not Code.WORKER_CRASHED or restarts == RESTARTS:
                    raise
                self._status.report(f"warning: {error}")
                await asyncio.sleep(2**restarts)
        raise AssertionError("the loop returns or raises")

    def _note_progress(self, message: Message) -> None:
        self._status.step = int(message["step"])
        self._status.loss = float(message["loss"])
        self._status.tokens_per_second = float(message["tokens_per_second"])

    def _offer(self, result: RoundResult, record: pb.RoundRecord, base_id: bytes) -> Offer:
        status = self._status
        for warning in result.warnings:
            status.report(f"warning: {warning}")
        status.step, status.loss = result.steps, result.loss
        self.routing_divergence = result.routing_divergence
        status.tokens_trained += result.tokens
        status.tokens_per_second = result.tokens / max(result.seconds, 1e-9)
        return offer_of(result, self._buffers.delta, self._policy, record, base_id)


async def until_changed(member: RoundMember, commit_id: bytes) -> None:
    """Wait until the newest commit is another one."""
    async with member.changed:
        await member.changed.wait_for(lambda: member.ledger.commit_id != commit_id)
