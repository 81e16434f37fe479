"""This member's attempts: at most one runs; a newer one, or a commit, ends it.

An attempt does the exchange in threads, computes the shadow, and reports to the attempt's leader.
The offered pseudo-gradients are only read, so they serve every attempt of the round.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from swarm.collective.codecs import F32
from swarm.collective.consensus import ballot_key
from swarm.collective.context import Context, Offer, RoundEvent
from swarm.collective.exchange import Exchange, ExchangeRegistry
from swarm.collective.reduce import AttemptFailedError
from swarm.collective.state import FragmentState, version_message
from swarm.collective.threads import SPARE, Threads
from swarm.errors import Code, SwarmError
from swarm.network.lane import Lane
from swarm.wire import collective_pb2 as pb

SendReport = Callable[[str, pb.Report], Awaitable[None]]


class PlanLinks:
    """Lanes to the members of a plan, whose records are in it."""

    def __init__(self, context: Context, plan: pb.Plan) -> None:
        self._bulk = context.bulk
        self._limit = context.manifest.timeouts.chunk
        self._records = {m.peer: context.directory.note(m.record) for m in plan.members}

    def open(self, peer: str) -> Lane:
        """See `swarm.collective.exchange.Links`."""
        record = self._records.get(peer)
        if record is None:
            raise SwarmError(Code.PEER_UNREACHABLE, f"no valid record of {peer} in the plan")
        return self._bulk.open_lane(record, self._limit)

    def release(self, lane: Lane) -> None:
        """See `swarm.collective.exchange.Links`."""
        self._bulk.release(lane)


# Shares of an attempt's time limit. First reducers name the contributors they wait for; if nobody
# does, members name the reducers; and after that the leader leaves out whoever is silent.
SLICES_BY, MEANS_BY = 0.8, 0.9


class Attempts:
    """Runs the attempts that this member has promised to take part in."""

    def __init__(self, context: Context, send_report: SendReport) -> None:
        self._context = context
        self._send_report = send_report
        self._me = context.transport.peer_id
        self._stall = context.manifest.timeouts.chunk
        self._current: Exchange | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._threads = ThreadPoolExecutor(2, thread_name_prefix="attempt")
        self._transfers = Threads(SPARE)
        self.registry = ExchangeRegistry(self._stall)

    def start(self, plan: pb.Plan, offer: Offer) -> None:
        """Begin the attempt of `plan`, ending an older one; a repeated plan changes nothing."""
        if self._current is not None and self._current.key[2] == ballot_key(plan.ballot):
            return
        self.end("a newer attempt began")
        links = PlanLinks(self._context, plan)
        exchange = Exchange(
            plan,
            self._me,
            offer.deltas,
            links,
            self._stall,
            threads=self._transfers,
            named=self._context.policy.open_tags,
        )
        self._current = exchange
        self.registry.add(exchange)
        task = asyncio.create_task(self._run(plan, offer, exchange))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def end(self, reason: str) -> None:
        """End the running attempt, if any; its result is not wanted any more."""
        if self._current is not None:
            self.registry.remove(self._current)
            self._current.cancel(reason)
            self._current = None

    async def close(self) -> None:
        """End everything and wait for it."""
        self.end("this peer is stopping")
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._threads.shutdown(wait=False)
        self._transfers.stop()

    async def _run(self, plan: pb.Plan, offer: Offer, exchange: Exchange) -> None:
        report = pb.Report(round=plan.round, branch=plan.branch, ballot=plan.ballot)
        base = self._context.state.fragments
        try:
            # A leader's plan goes out first: its threads would take the processor from the messages
            # for which the other members wait.
            await asyncio.sleep(0)
            loop = asyncio.get_running_loop()
            limit_s = plan.attempt_timeout_ms / 1000
            timers = [
                loop.call_later(share * limit_s, expire)
                for share, expire in (
                    (SLICES_BY, exchange.expire_slices),
                    (MEANS_BY, exchange.expire_means),
                )
            ]

            def compute() -> Mapping[str, FragmentState]:
                # In one go: to come here in between, threads that still send have to make way.
                return self._shadow(plan, offer, exchange.run(), exchange, base)

            try:
                shadow = await loop.run_in_executor(self._threads, compute)
            finally:
                for timer in timers:
                    timer.cancel()
            if self._current is not exchange:
                return
            sources = {f.fragment: list(f.contributors) for f in plan.fragments}
            self._context.state.add_shadow(shadow, sources)
            report.norms.extend(exchange.session.norms())
            report.results.extend(version_message(f, s) for f, s in sorted(shadow.items()))
        except AttemptFailedError as error:
            if self._current is not exchange:
                return
            self._context.emit(RoundEvent("attempt_failed", plan.round, error.message))
            report.failure = error.message
            for peer, reason in error.suspects.items():
                report.suspects.append(pb.Suspect(peer=peer, reason=reason))
        except Exception as error:
            # A defect or an exhausted machine; unsaid, it would cost the others the whole attempt.
            report.failure = f"{type(error).__name__}: {error}"
            report.suspects.append(pb.Suspect(peer=self._me, reason="failed here"))
            self._context.emit(RoundEvent("attempt_failed", plan.round, report.failure))
        report.bytes_sent, report.bytes_received = exchange.bytes_sent, exchange.bytes_received
        await self._send_report(plan.ballot.leader, report)

    def _shadow(
        self,
        plan: pb.Plan,
        offer: Offer,
        means: Mapping[str, F32],
        exchange: Exchange,
        base: Mapping[str, FragmentState],
    ) -> Mapping[str, FragmentState]:
        policy, names = self._context.policy, exchange.names()
        shadow: dict[str, FragmentState] = {}
        for fragment in plan.fragments:
            name = fragment.fragment
            if fragment.operation == pb.AGREE and self._me in fragment.holders:
                number = offer.wishes[name].number
                shadow[name] = FragmentState.of(offer.deltas[name], np.zeros(0, "<f4"), number)
            elif name in means:
                old = base.get(name) or policy.initial(name)
                shadow[name] = policy.apply(
                    name,
                    means[name],
                    old,
                    len(fragment.contributors),
                    exchange.encoded.get(name),
                    names.get(name),
                )
        whole = policy.finish(plan.round, shadow, base)
        # Before it is reported: then what a commit names is on a disk of whoever computed it, also
        # when all are killed the moment after.
        if self._context.archive is not None:
            self._context.archive.keep_shadow(whole)
        return whole
