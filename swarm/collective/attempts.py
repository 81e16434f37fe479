"""This member's attempts: at most one runs; a newer one, or a commit, ends it.

An attempt does the exchange in threads, computes the shadow, and reports to the attempt's leader.
The offered pseudo-gradients are only read, so they serve every attempt of the round.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import numpy as np

from swarm.collective.codecs import F32
from swarm.collective.consensus import ballot_key
from swarm.collective.context import Context, Offer, RoundEvent
from swarm.collective.exchange import Exchange, ExchangeRegistry, Stream
from swarm.collective.reduce import AttemptFailedError
from swarm.collective.state import FragmentState, version_message
from swarm.errors import Code, SwarmError
from swarm.wire import collective_pb2 as pb
from swarm.wire.data_pb2 import ReduceFrame

SendReport = Callable[[str, pb.Report], Awaitable[None]]


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
        self.registry = ExchangeRegistry(self._stall)

    def start(self, plan: pb.Plan, offer: Offer) -> None:
        """Begin the attempt of `plan`, ending an older one; a repeated plan changes nothing."""
        if self._current is not None and self._current.key[2] == ballot_key(plan.ballot):
            return
        self.end("a newer attempt began")
        exchange = Exchange(plan, self._me, offer.deltas, self._opener(plan), self._stall)
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

    def _opener(self, plan: pb.Plan) -> Callable[[str, Iterator[ReduceFrame]], Stream]:
        records = {m.peer: self._context.directory.note(m.record) for m in plan.members}
        limit = timedelta(milliseconds=plan.attempt_timeout_ms)

        def open_stream(peer: str, frames: Iterator[ReduceFrame]) -> Stream:
            record = records.get(peer)
            if record is None:
                raise SwarmError(Code.PEER_UNREACHABLE, f"no valid record of {peer} in the plan")
            return self._context.bulk.reduce_stream(record, frames, limit)

        return open_stream

    async def _run(self, plan: pb.Plan, offer: Offer, exchange: Exchange) -> None:
        report = pb.Report(round=plan.round, branch=plan.branch, ballot=plan.ballot)
        base = self._context.state.fragments
        try:
            loop = asyncio.get_running_loop()
            means = await loop.run_in_executor(self._threads, exchange.run)
            shadow = await loop.run_in_executor(
                self._threads, self._shadow, plan, offer, means, base
            )
            if self._current is not exchange:
                return
            sources = {f.fragment: list(f.contributors) for f in plan.fragments}
            self._context.state.add_shadow(shadow, sources)
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
        await self._send_report(plan.ballot.leader, report)

    def _shadow(
        self,
        plan: pb.Plan,
        offer: Offer,
        means: Mapping[str, F32],
        base: Mapping[str, FragmentState],
    ) -> dict[str, FragmentState]:
        policy = self._context.policy
        shadow: dict[str, FragmentState] = {}
        for fragment in plan.fragments:
            name = fragment.fragment
            if fragment.operation == pb.AGREE and self._me in fragment.holders:
                number = offer.wishes[name].number
                shadow[name] = FragmentState.of(offer.deltas[name], np.zeros(0, "<f4"), number)
            elif name in means:
                old = base.get(name) or policy.initial(name)
                shadow[name] = policy.apply(name, means[name], old, len(fragment.contributors))
        return shadow
