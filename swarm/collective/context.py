"""What a `RoundMember` works with: the run's policy, the outside world, and what is exchanged.

The protocols here are the collective's whole view of models, networks and disks, so it can be used
and tested without them (`swarm/simulation`).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Protocol

from swarm.collective.codecs import F32, U8
from swarm.collective.ledger import Ledger
from swarm.collective.plan import Wish
from swarm.collective.state import CanonicalState, FragmentState
from swarm.config import RunManifest
from swarm.identity import Identity
from swarm.network.lane import Lane
from swarm.network.transport import Transport
from swarm.wire import collective_pb2 as pb
from swarm.wire.membership_pb2 import PeerRecord, SignedRecord

READY_INTERVAL = timedelta(seconds=1)  # a peer at the boundary says so again and again


class Policy(Protocol):
    """What a run decides about fragments; pure."""

    numel: Mapping[str, int]  # the fixed fragments; every record names each of them
    open_tags: bool  # whether other tensors may be offered too, under any tag (`Communicator`)
    routing_width: int  # routing counts that a peer reports: layers times experts

    def wanted(self, record: pb.RoundRecord | None) -> Collection[str]:
        """Fragments that this peer keeps under the assignments of `record`."""
        ...

    def holds(self, record: pb.RoundRecord, peer: str) -> Collection[str]:
        """Fragments that `peer` trains after `record`, in the next round or a later one."""
        ...

    def trains(self, record: pb.RoundRecord, peer: str) -> Collection[str]:
        """Those of them that it may contribute to in the next round."""
        ...

    def initial(self, fragment: str) -> FragmentState:
        """The fragment at genesis. Raises `FRAGMENT_UNAVAILABLE` when it is not here."""
        ...

    def initial_version(self, fragment: str) -> pb.FragmentVersion:
        """What everybody agrees that the fragment is at genesis, whether it is here or not."""
        ...

    def apply(
        self,
        fragment: str,
        mean: F32,
        state: FragmentState,
        contributors: int,
        encoded: U8 | None = None,
        name: bytes | None = None,
    ) -> FragmentState:
        """The outer step; the same bits on every machine. `version` is one higher.

        `encoded`: what `mean` was decoded from, under a lossy codec. `name`: the hash of
        `mean`, if it was computed while that came in (under tags).
        """
        ...

    def finish(
        self,
        round_index: int,
        shadow: Mapping[str, FragmentState],
        base: Mapping[str, FragmentState],
    ) -> Mapping[str, FragmentState]:
        """What a round does to several fragments at once, after their outer steps.

        `shadow` has the fragments that this peer computed, `base` all that it keeps; what is
        returned has the fragments of `shadow`, and the same bits on every machine.
        """
        ...

    def assign(
        self,
        record: pb.RoundRecord,
        previous: pb.RoundRecord | None,
        ready: Mapping[str, pb.Ready],
    ) -> None:
        """Add to a draft what its roster does next: `assignments` and `experts`.

        `ready`: what the peers said at this round's boundary; that of some is missing.
        """
        ...


class Directory(Protocol):
    """Who is known: signed records of live peers of this run."""

    async def records(self) -> Mapping[str, PeerRecord]:
        """Records that are valid now, this peer's own included."""
        ...

    def signed(self, peer: str) -> SignedRecord | None:
        """The signed form of a record seen earlier, or None."""
        ...

    def note(self, signed: SignedRecord) -> PeerRecord | None:
        """Take a record from a message; None when it is not valid."""
        ...


class LinkRates(Protocol):
    """Bits per second; 0.0 = not measured."""

    @property
    def upload_bps(self) -> float:
        """Best delivered upload of the last minutes."""
        ...

    @property
    def download_bps(self) -> float:
        """Best delivered download of the last minutes."""
        ...


class Bulk(Protocol):
    """The data plane as the collective uses it."""

    def open_lane(self, record: PeerRecord, limit: timedelta) -> Lane:
        """A lane to a peer, idle or new; raises a typed error within the limit."""
        ...

    @property
    def rates(self) -> LinkRates:
        """Measured rates of this peer's own link."""
        ...

    def release(self, lane: Lane) -> None:
        """Both sides have said END: the lane may serve the next call."""
        ...

    def download_blob(
        self, sources: Sequence[PeerRecord], blob_hash: bytes, into: memoryview, timeout: timedelta
    ) -> None:
        """Fetch verified bytes from any source; raises a typed error."""
        ...


class Archive(Protocol):
    """This peer's disk, as far as fragments are concerned. Called in threads."""

    def keep_shadow(self, shadow: Mapping[str, FragmentState]) -> None:
        """Write the result of an attempt; it outlives the end of this process. Never raises."""
        ...

    def find(self, version: pb.FragmentVersion) -> FragmentState | None:
        """A fragment of exactly this version, or None."""
        ...


@dataclass
class Offer:
    """What a peer brings to a round: pseudo-gradients (base minus local) and their weights.

    `wishes` say for a fragment what is to be done with it where that is not the run's to say.
    """

    deltas: Mapping[str, F32]
    weights: Mapping[str, float]
    base_commit: bytes  # commit id of the state it was trained from
    steps: int = 0
    tokens: int = 0
    loss: float = 0.0
    train_seconds: float = 0.0  # that the steps took
    served_bytes: int = 0  # sent to others since an update of this peer last counted
    relayed_bytes: int = 0  # forwarded for others since then
    routed_tokens: Sequence[int] = ()
    wishes: Mapping[str, Wish] = field(default_factory=dict)


@dataclass(frozen=True)
class RoundEvent:
    """Something worth logging; `name` is stable, `detail` is for people."""

    name: str
    round: int
    detail: str = ""


@dataclass
class Context:
    """Everything a member works with."""

    manifest: RunManifest
    identity: Identity
    transport: Transport
    bulk: Bulk
    directory: Directory
    ledger: Ledger
    state: CanonicalState
    policy: Policy
    clock: Callable[[], float]  # monotonic seconds
    wall_clock: Callable[[], float]  # Unix seconds
    emit: Callable[[RoundEvent], None] = field(default=lambda event: None)
    capability: Callable[[], pb.Capability] = pb.Capability  # of this machine, as measured
    archive: Archive | None = None
    change: Callable[[], pb.SignedChange] = pb.SignedChange  # newest change of the run known here
