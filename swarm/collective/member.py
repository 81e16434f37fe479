"""One peer's part in the round protocol, as the rest of the program uses it.

    member = RoundMember(context)         # context.py says what it needs
    await member.run_round(offer)         # returns when the round is decided and the state is level
    await join(member)                    # swarm/collective/join.py, built on this

What the protocol does is in `swarm/collective/protocol/`, pure; `Driver` carries it out. Nothing
here trains or knows a model: the outer step, the assignment and the initial state come in through
`Policy`.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Collection, Coroutine, Mapping

from swarm.collective.codecs import get_codec
from swarm.collective.context import Context, Offer
from swarm.collective.driver import Driver
from swarm.collective.exchange import ExchangeRegistry
from swarm.collective.feedback import ErrorFeedback, prepare_offer
from swarm.collective.offers import contributions_of
from swarm.collective.plan import operation_of
from swarm.collective.protocol import events
from swarm.collective.protocol.leading import Leading
from swarm.collective.protocol.machine import PeerMachine
from swarm.collective.protocol.setup import Setup
from swarm.errors import Code, SwarmError
from swarm.identity import verify
from swarm.wire import collective_pb2 as pb
from swarm.wire.membership_pb2 import PeerRecord


class RoundMember:
    """See the module docstring. One instance per peer and process; single event loop.

    Attributes:
        changed: notified when the newest commit changes, or this peer can not go on.
    """

    def __init__(self, context: Context) -> None:
        self.context = context
        self.me = context.transport.peer_id
        self.run_id = context.manifest.run_id
        self.timeouts = context.manifest.timeouts
        self.ledger = context.ledger
        self.state = context.state
        self.changed = asyncio.Condition()
        self._feedback = ErrorFeedback()
        self._operation = operation_of(context.manifest.sync.aggregation)
        setup = Setup(
            me=self.me,
            manifest=context.manifest,
            policy=context.policy,
            sign=context.identity.sign,
            verify=verify,
            note=context.directory.note,
            signed=context.directory.signed,
            wall_ms=lambda now: round(1000 * context.wall_clock()),
            capability=context.capability,
            change=context.change,
        )
        self.machine = PeerMachine(setup, context.ledger.memory, random.Random())
        self._driver = Driver(context, self.machine)
        self._driver.on_change = lambda: self._spawn_notify()
        lacking: tuple[pb.FragmentVersion, ...] = ()
        record = context.ledger.record
        if record is not None:
            lacking = tuple(context.state.adopt(record, context.policy.wanted(record)))
        self.machine.handle(events.Started(lacking), context.clock())

    # ---- what is known --------------------------------------------------------------------

    @property
    def failure(self) -> SwarmError | None:
        """Why this peer can not go on."""
        return self._driver.failure

    @property
    def level(self) -> bool:
        """True when this peer has exactly what the newest commit says."""
        return self.machine.level

    @property
    def leader(self) -> Leading | None:
        """The round that this peer leads, or led last."""
        return self.machine.leading

    @property
    def suspects(self) -> dict[str, str]:
        """Peers that are believed dead, and why."""
        return self.machine.health.suspects

    @property
    def heard(self) -> dict[str, float]:
        """When each peer was last heard of, by the context's clock."""
        return self.machine.health.heard

    @property
    def registry(self) -> ExchangeRegistry:
        """Where the data plane finds the attempt of an incoming stream."""
        return self._driver.attempts.registry

    def roster(self) -> list[str]:
        """Members by the newest commit."""
        return list(self.machine.roster)

    def succession(self, known: Collection[str] = ()) -> list[str]:
        """Leaders of the open round in order. Before the first commit: of the known peers."""
        return list(self.machine.succession(known))

    # ---- a round --------------------------------------------------------------------------

    async def run_round(self, offer: Offer | None) -> pb.RoundRecord:
        """Offer an update for the open round and return its record once this peer is level with it.

        `offer` None asks to enter the roster (or to stay in it) without contributing. Returns after
        any newer commit, also one that this peer's update is not in; at once when the offer was not
        trained from the newest commit. Raises `DISK_FULL` when something could not be kept, `USAGE`
        for an update that has not as many values as its fragment.
        """
        before = self.ledger.commit_id
        if offer is None or offer.base_commit == before:
            prepared, ready = await self._prepared(offer)
            if self.ledger.commit_id == before:
                await self._wait_for_commit(before, prepared, ready)
            self._feedback.commit(self._contributed(before))
        await self.resync()
        record = self.ledger.record
        assert record is not None
        self._feedback.retain(self.context.policy.holds(record, self.me))
        return record

    async def _prepared(self, offer: Offer | None) -> tuple[Offer | None, pb.Ready | None]:
        """The offer as its codec keeps it, and what the others are told of it.

        Operations under tags come prepared.
        """
        if offer is None:
            return None, None
        if self.context.policy.open_tags:
            return offer, self._ready(offer)
        self._check_sizes(offer)
        return await asyncio.to_thread(self._prepare, offer)

    def _prepare(self, offer: Offer) -> tuple[Offer, pb.Ready]:
        """Takes its time with large updates: they are encoded, and their norms computed."""
        sync = self.context.manifest.sync
        feedback = self._feedback if sync.error_feedback else None
        prepared = prepare_offer(offer, feedback, get_codec(sync.codec))
        return prepared, self._ready(prepared)

    def _check_sizes(self, offer: Offer) -> None:
        """An update that does not fit would fail every attempt of everybody."""
        for name, delta in offer.deltas.items():
            state = self.state.fragments.get(name)
            if state is not None and delta.size != state.theta.size:
                raise SwarmError(
                    Code.USAGE,
                    f"an update of {delta.size} values for {name}, which has {state.theta.size}",
                )

    def _contributed(self, base_commit: bytes) -> list[str]:
        """Fragments into which the round after `base_commit` took this peer's update.

        Nothing when the newest commit is of a later round: then it is not known.
        """
        record = self.ledger.record
        if record is None or record.previous != base_commit:
            return []
        return [
            o.state.fragment for o in record.fragments if o.advanced and self.me in o.contributors
        ]

    async def _wait_for_commit(
        self, before: bytes, offer: Offer | None, ready: pb.Ready | None
    ) -> None:
        if self.failure is not None:
            raise self.failure.again()
        self._driver.offer = offer
        self._driver.feed(events.Offered(before, ready))
        try:
            async with self.changed:
                await self.changed.wait_for(
                    lambda: self.ledger.commit_id != before or self.failure is not None
                )
        finally:
            if self.ledger.commit_id == before:
                self._driver.feed(events.Withdrawn())
        if self.failure is not None:
            raise self.failure.again()

    def revise(self, offer: Offer) -> None:
        """Offer more in the open round, while `run_round` waits in it; told at once.

        What an attempt may have taken of the earlier offer must be in it too.
        """
        if self._driver.offer is not None and offer.base_commit == self.ledger.commit_id:
            self._driver.offer = offer
            self._driver.feed(events.Offered(offer.base_commit, self._ready(offer)))

    def _ready(self, offer: Offer) -> pb.Ready:
        """What the others are told of an offer."""
        rates = self.context.bulk.rates
        ready = pb.Ready(
            steps=offer.steps,
            tokens=offer.tokens,
            loss=offer.loss,
            train_seconds=offer.train_seconds,
            served_bytes=offer.served_bytes,
            relayed_bytes=offer.relayed_bytes,
            upload_bps=rates.upload_bps,
            download_bps=rates.download_bps,
        )
        ready.routed_tokens.extend(offer.routed_tokens)
        ready.contributions.extend(contributions_of(offer, self.state.fragments, self._operation))
        return ready

    def _spawn_notify(self) -> None:
        self.spawn(self._notify())

    async def _notify(self) -> None:
        async with self.changed:
            self.changed.notify_all()

    async def resync(self) -> None:
        """Download what this peer lacks of the newest commit, from anyone who has it.

        Raises `FRAGMENT_UNAVAILABLE` when nobody serves it within the join limit.
        """
        while not self.level:  # again, if the next commit came before this was told
            await self._driver.level()

    async def look_into(self, records: Mapping[str, PeerRecord]) -> bool:
        """Adopt the best commit that these peers claim; True when a claim was better than ours."""
        before = self.ledger.commit_id
        await self._driver.look_into(records)
        return self.ledger.commit_id != before

    async def resign(self) -> None:
        """Leave the roster in good order (docs/adr/0001), before `close` or for some time.

        Where this peer gave its word in the open round, and that does not end within seconds, it
        stays a member; ask again in the next round.
        """
        await self._driver.leave()

    def stay(self) -> None:
        """Take part again after `resign`, also one that was cancelled."""
        self._driver.stay()

    # ---- life -----------------------------------------------------------------------------

    def spawn(self, work: Coroutine[None, None, None]) -> asyncio.Task[None]:
        """Run something in the background until `close`."""
        return self._driver.spawn(work)

    async def close(self) -> None:
        """End every task and stream of this member."""
        await self._driver.close()
