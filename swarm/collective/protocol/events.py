"""What can happen to a peer: the input of `PeerMachine.handle`.

Messages are protobuf and must not be changed after they are handed over.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from google.protobuf.message import Message

from swarm.collective.protocol.effects import PersistCommit, PersistWord
from swarm.wire import collective_pb2 as pb
from swarm.wire.membership_pb2 import PeerRecord


@dataclass(frozen=True)
class Started:
    """The first event of a life. `lacking`: what is not here of the newest commit, if any."""

    lacking: tuple[pb.FragmentVersion, ...] = ()


@dataclass(frozen=True)
class Received:
    """A request. It is answered by one `Answer` or `Refuse` with this `call_id`, maybe later.

    `call_id` is the driver's; the machine only hands it back. Kinds: Ready, Report, Plan, Accept,
    Resignation, Commit, GetCommit. Pings are the driver's own matter (it answers while it lives).
    """

    sender: str
    call_id: int
    message: Message


@dataclass(frozen=True)
class Replied:
    """The end of a `Call` of this machine; exactly one for each, and an unknown one is ignored.

    `reply` None: no answer in time, or no way to the peer. `refusal`: the peer lives, and answered
    with this error.
    """

    call_id: int
    reply: Message | None
    refusal: str = ""


@dataclass(frozen=True)
class Offered:
    """This peer is at the outer boundary of the round after `base_commit`.

    `ready` holds what it brings: contributions, steps, tokens, loss, routed tokens, bandwidths; the
    machine fills in the rest. None: it asks to enter the roster, or stays in it, without an update.
    Holds until a commit is adopted, or `Withdrawn`.
    """

    base_commit: bytes
    ready: pb.Ready | None


@dataclass(frozen=True)
class Withdrawn:
    """This peer does not wait at the boundary any more; promises that it gave stand."""


@dataclass(frozen=True)
class AttemptEnded:
    """The attempt of a `StartAttempt` ended here: its results, or its failure and suspects.

    Not for attempts that were ended by `EndAttempt` or by a newer `StartAttempt`.
    """

    report: pb.Report


@dataclass(frozen=True)
class Adopted:
    """The answer to `Adopt`, handed in before any other event: what is not here of the commit."""

    lacking: tuple[pb.FragmentVersion, ...]


@dataclass(frozen=True)
class LevelAsked:
    """Fetch what is lacking of the newest commit, until the join limit from now."""


@dataclass(frozen=True)
class Fetched:
    """A `Fetch` succeeded and the driver keeps the fragment."""

    version: pb.FragmentVersion


@dataclass(frozen=True)
class FetchFailed:
    """Nobody served the fragment."""

    version: pb.FragmentVersion


@dataclass(frozen=True)
class RecordsSeen:
    """Records of the live peers, this one included, as the directory knows them.

    Answers `LookUp`. With `discovering`, the histories that they claim are looked into, and a
    better one is adopted; `PeerMachine.discovering` is true until that is done.
    """

    records: Mapping[str, PeerRecord]
    discovering: bool = False


@dataclass(frozen=True)
class LeaveAsked:
    """Leave the roster in good order; ends with the effect `Left`."""


@dataclass(frozen=True)
class StayAsked:
    """Take part again after `LeaveAsked`; a leaving that is not over ends here, with `Left`."""


@dataclass(frozen=True)
class PersistFailed:
    """A `PersistWord` or `PersistCommit` was not carried out, nor were the effects after it.

    The machine is halted by it: a peer that can not keep its word says nothing more.
    """

    effect: PersistWord | PersistCommit


@dataclass(frozen=True)
class Tick:
    """Time passed; handed in at the time of the last `WakeAt`, and whenever the driver likes."""


Event = (
    Started
    | Received
    | Replied
    | Offered
    | Withdrawn
    | AttemptEnded
    | Adopted
    | LevelAsked
    | Fetched
    | FetchFailed
    | RecordsSeen
    | LeaveAsked
    | StayAsked
    | PersistFailed
    | Tick
)
