"""A swarm in one process: real round protocol, real signatures, fake network, toy fragments.

    swarm = SimulatedSwarm(4)
    await swarm.start()                       # everybody in the roster
    records = await swarm.round()             # all offer, all commit
    swarm.kill(swarm.peers[2])
    swarm.assert_level()                      # identical bits on all living peers

Instead of training, a peer offers a fixed random pseudo-gradient per fragment, drawn from its name
and the round; so the expected mean is known.
"""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import Collection, Mapping
from dataclasses import replace

import numpy as np

from swarm.aio import in_time
from swarm.collective.codecs import F32, U8
from swarm.collective.context import Context, Offer, Policy, RoundEvent
from swarm.collective.join import join, watch_branches
from swarm.collective.ledger import Ledger
from swarm.collective.member import RoundMember
from swarm.collective.state import CanonicalState, FragmentState, version_message
from swarm.config import MembershipConfig, RunManifest, SyncConfig, TimeoutPolicy
from swarm.experts.assignment import AssignmentRules
from swarm.experts.duties import DutyRules, assignment_of, fill_duties
from swarm.identity import Identity
from swarm.network.membership import PeerDirectory
from swarm.network.records import sign_record
from swarm.simulation.local_bulk import LocalBulkHub
from swarm.simulation.local_transport import LocalHub, LocalTransport
from swarm.wire import collective_pb2 as pb
from swarm.wire.control_pb2 import Ping, Pong
from swarm.wire.membership_pb2 import PeerRecord, SignedRecord

FAST = TimeoutPolicy(
    heartbeat_s=0.5, chunk_s=1.0, attempt_s=5.0, round_s=8.0, join_s=15.0, lease_s=20.0
)


def toy_manifest(
    *,
    min_peers: int = 2,
    codec: str = "fp32",
    aggregation: str = "mean",
    timeouts: TimeoutPolicy = FAST,
) -> RunManifest:
    """A manifest with short timeouts; the model in it is not used."""
    return RunManifest(
        name="toy",
        sync=SyncConfig(codec=codec, aggregation=aggregation),
        membership=MembershipConfig(min_peers=min_peers),
        timeouts=timeouts,
    )


class ToyPolicy:
    """Fragments of random numbers; SGD with momentum as outer step."""

    def __init__(self, numel: Mapping[str, int], duty_rules: DutyRules | None = None) -> None:
        self.numel = numel
        self.open_tags = False
        self.routing_width = 0
        experts = sum(name.startswith("expert.") for name in numel)
        self.duty_rules = duty_rules or DutyRules(
            assignment=AssignmentRules(num_experts=experts, per_peer=2), inner_steps=1
        )

    def wanted(self, record: pb.RoundRecord | None) -> Collection[str]:
        """Everything."""
        return self.numel.keys()

    def trains(self, record: pb.RoundRecord, peer: str) -> Collection[str]:
        """All that it holds."""
        return self.holds(record, peer)

    def holds(self, record: pb.RoundRecord, peer: str) -> Collection[str]:
        """The trunk and the peer's experts."""
        held = assignment_of(record, peer).experts
        trunk = [n for n in self.numel if not n.startswith("expert.")]
        return [*trunk, *(f"expert.{e}" for e in held)]

    def initial(self, fragment: str) -> FragmentState:
        """Values drawn from the fragment's name."""
        return FragmentState.initial(toy_values(fragment, self.numel[fragment]))

    def initial_version(self, fragment: str) -> pb.FragmentVersion:
        """What those values are."""
        return version_message(fragment, self.initial(fragment))

    def apply(
        self,
        fragment: str,
        mean: F32,
        state: FragmentState,
        contributors: int,
        encoded: U8 | None = None,
        name: bytes | None = None,
    ) -> FragmentState:
        """theta - (mean + 0.5 momentum'), momentum' = 0.5 momentum + mean."""
        momentum = state.momentum * np.float32(0.5)
        momentum += mean
        step = momentum * np.float32(0.5)
        step += mean
        return FragmentState.of(state.theta - step, momentum, state.version + 1)

    def finish(
        self,
        round_index: int,
        shadow: Mapping[str, FragmentState],
        base: Mapping[str, FragmentState],
    ) -> Mapping[str, FragmentState]:
        """Nothing more."""
        return shadow

    def assign(
        self,
        record: pb.RoundRecord,
        previous: pb.RoundRecord | None,
        ready: Mapping[str, pb.Ready],
    ) -> None:
        """As in a real run."""
        fill_duties(record, previous, ready, self.duty_rules)


def toy_values(name: str, numel: int) -> F32:
    """Standard normal values drawn from a name."""
    seed = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "little")
    return np.random.default_rng(seed).standard_normal(numel).astype(np.float32)


class Disk:
    """What a peer computed, kept over its restarts (`swarm.collective.context.Archive`)."""

    def __init__(self) -> None:
        self._written: list[FragmentState] = []

    def keep_shadow(self, shadow: Mapping[str, FragmentState]) -> None:
        """Write the result of an attempt."""
        self._written.extend(shadow.values())

    def find(self, version: pb.FragmentVersion) -> FragmentState | None:
        """A fragment of exactly this version."""
        found = (state for state in self._written if state.matches(version))
        return next((replace(state, version=version.version) for state in found), None)


class SimulatedPeer:
    """One member with its own ledger and state; a restart keeps the ledger, as a disk would.

    Attributes:
        capability: what it says of its machine and data.
        change: the newest change of the run that it knows.
    """

    def __init__(self, swarm: SimulatedSwarm, identity: Identity, ledger: Ledger) -> None:
        self.swarm = swarm
        self.identity = identity
        self.ledger = ledger
        self.events: list[RoundEvent] = []
        self.capability = pb.Capability()
        self.change = pb.SignedChange()
        self.transport: LocalTransport = swarm.hub.join(
            run_id=swarm.manifest.run_id, identity=identity
        )
        initial = {name: swarm.policy.initial(name) for name in swarm.policy.numel}
        self.state = CanonicalState(initial)
        self.directory = PeerDirectory(self, swarm.manifest.run_id, time.time)
        self.member = RoundMember(
            Context(
                manifest=swarm.manifest,
                identity=identity,
                transport=self.transport,
                bulk=swarm.bulk.join(self.peer_id),
                directory=self.directory,
                ledger=ledger,
                state=self.state,
                policy=swarm.policy,
                clock=time.monotonic,
                wall_clock=time.time,
                emit=self.events.append,
                capability=lambda: self.capability,
                change=lambda: self.change,
                archive=swarm.disks.setdefault(self.peer_id, Disk()) if swarm.with_disks else None,
            )
        )
        self.transport.serve(Ping, self._answer_ping)
        swarm.bulk.attach(self.peer_id, self.member.registry.handle, self.state.blob)
        self.publish()

    @property
    def peer_id(self) -> str:
        """The peer's id."""
        return self.identity.peer_id

    async def _answer_ping(self, sender: str, request: Ping) -> Pong:
        return Pong(sequence=request.sequence)

    def publish(self) -> None:
        """Put this peer's record where the others look."""
        record = PeerRecord(
            peer_id=self.peer_id,
            run_id=self.swarm.manifest.run_id,
            issued_at_ms=round(1000 * time.time()),
            lease_ttl_ms=60_000,
            branch=self.ledger.branch,
            round=self.ledger.record.round if self.ledger.record else 0,
            committed_tokens=self.ledger.record.committed_tokens if self.ledger.record else 0,
        )
        self.swarm.records[self.peer_id] = sign_record(self.identity, record)
        self.directory.note(self.swarm.records[self.peer_id])

    async def signed_records(self) -> Mapping[str, SignedRecord]:
        """What the DHT would say; a peer cut off from the others sees only itself."""
        hub = self.swarm.hub
        return {p: r for p, r in self.swarm.records.items() if not hub.is_cut(self.peer_id, p)}

    def offer(self, fragments: Collection[str] | None = None, tokens: int = 100) -> Offer:
        """This peer's update of the open round: the trunk and its experts."""
        names = fragments if fragments is not None else self.trainable()
        deltas = {n: self.delta(n, self.ledger.next_round) for n in names}
        return Offer(
            deltas=deltas,
            weights={n: float(tokens) for n in names},
            base_commit=self.ledger.commit_id,
            steps=1,
            tokens=tokens,
        )

    def trainable(self) -> list[str]:
        """The trunk and the experts that the newest commit assigns to this peer."""
        assert self.ledger.record is not None
        return list(self.swarm.policy.trains(self.ledger.record, self.peer_id))

    def delta(self, fragment: str, round_index: int) -> F32:
        """The pseudo-gradient that this peer offers for a fragment in a round."""
        name = f"{self.peer_id}/{fragment}/{round_index}"
        return toy_values(name, self.swarm.policy.numel[fragment]) * np.float32(0.01)

    async def round(self, tokens: int = 100) -> pb.RoundRecord:
        """Offer, from the newest commit as nodes do, and wait for the decision."""
        await self.member.resync()
        record = await self.member.run_round(self.offer(tokens=tokens))
        self.publish()
        return record


class SimulatedSwarm:
    """See the module docstring. `policy` instead of the toy's is shared by all peers.

    `with_disks`: what peers computed outlives them.
    """

    def __init__(
        self,
        peers: int,
        *,
        manifest: RunManifest | None = None,
        numel: Mapping[str, int] | None = None,
        duty_rules: DutyRules | None = None,
        with_disks: bool = False,
        policy: Policy | None = None,
    ) -> None:
        self.with_disks = with_disks
        self.disks: dict[str, Disk] = {}
        self.manifest = manifest or toy_manifest(min_peers=peers)
        self.policy: Policy = policy or ToyPolicy(
            numel or {"trunk.0": 5000, "trunk.1": 3000, **{f"expert.{e}": 700 for e in range(8)}},
            duty_rules,
        )
        self.hub = LocalHub()
        self.bulk = LocalBulkHub()
        self.records: dict[str, SignedRecord] = {}
        self.peers: list[SimulatedPeer] = []
        for _ in range(peers):
            self.add()

    def add(self, identity: Identity | None = None, ledger: Ledger | None = None) -> SimulatedPeer:
        """A new peer, or with `identity` and `ledger` one that restarts."""
        peer = SimulatedPeer(self, identity or Identity.generate(), ledger or Ledger(None))
        self.peers.append(peer)
        return peer

    async def join(self, peer: SimulatedPeer, timeout_s: float = 20.0) -> None:
        """Bring a peer into the roster."""
        await in_time(join(peer.member), timeout_s)
        peer.publish()
        peer.member.spawn(watch_branches(peer.member, self.manifest.timeouts.heartbeat))

    async def start(self) -> None:
        """Found the run with all peers."""
        await asyncio.gather(*(self.join(peer) for peer in self.peers))

    async def round(self, timeout_s: float = 30.0) -> list[pb.RoundRecord]:
        """One round of all living peers."""
        work = (peer.round() for peer in self.peers)
        return list(await in_time(asyncio.gather(*work), timeout_s))

    def kill(self, peer: SimulatedPeer) -> None:
        """As by SIGKILL: connections break, nothing is said any more."""
        self.hub.kill(peer.peer_id)
        self.bulk.kill(peer.peer_id)
        self.peers.remove(peer)

    async def close(self) -> None:
        """End everything."""
        await asyncio.gather(*(peer.member.close() for peer in self.peers))

    def assert_level(self) -> None:
        """All living peers have identical bits, equal to what the commit says."""
        for peer in self.peers:
            record = peer.ledger.record
            assert record is not None and peer.ledger.commit_id == self.peers[0].ledger.commit_id
            for outcome in record.fragments:
                assert peer.state.fragments[outcome.state.fragment].matches(outcome.state)
