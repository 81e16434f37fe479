"""What a peer wants done: the output of `PeerMachine.handle`, to be carried out in this order.

The order is part of the contract: what follows a `PersistWord` or `PersistCommit` must not become
visible to anybody before that one is on disk. A crash may come between any two effects. If a
`Persist...` fails, the rest of the list is dropped and `PersistFailed` handed in.
"""

from __future__ import annotations

from dataclasses import dataclass

from google.protobuf.message import Message

from swarm.collective.context import RoundEvent
from swarm.collective.protocol.memory import Word
from swarm.errors import SwarmError
from swarm.wire import collective_pb2 as pb
from swarm.wire.control_pb2 import Ping, Pong
from swarm.wire.membership_pb2 import SignedRecord

# What a call with such a request is answered with.
REPLIES: dict[type[Message], type[Message]] = {
    Ping: Pong,
    pb.Ready: pb.ReadyReply,
    pb.Report: pb.ReportReply,
    pb.Plan: pb.Promise,
    pb.Accept: pb.AcceptReply,
    pb.Resignation: pb.ResignationReply,
    pb.Commit: pb.CommitReply,
    pb.GetCommit: pb.GetCommitReply,
}


@dataclass(frozen=True)
class Call:
    """Send a request to another peer; ends with `Replied`, after `timeout_s` at the latest."""

    call_id: int
    peer: str
    message: Message
    timeout_s: float


@dataclass(frozen=True)
class Answer:
    """The reply to `Received` with this `call_id`."""

    call_id: int
    message: Message


@dataclass(frozen=True)
class Refuse:
    """The request `call_id` is refused with a typed error."""

    call_id: int
    error: SwarmError


@dataclass(frozen=True)
class PersistWord:
    """Replace on disk what this peer has promised, voted and given up."""

    word: Word


@dataclass(frozen=True)
class PersistCommit:
    """Add a commit to those on disk, as the newest; and, oldest first, links that lead to it."""

    commit: pb.Commit
    links: tuple[pb.Commit, ...] = ()


@dataclass(frozen=True)
class StartAttempt:
    """Take part in the exchange of `plan` with the offered update; ends an older attempt.

    Ends with `AttemptEnded`. A plan of the ballot that already runs changes nothing.
    """

    plan: pb.Plan


@dataclass(frozen=True)
class EndAttempt:
    """End the running attempt, if any, without `AttemptEnded`."""

    reason: str


@dataclass(frozen=True)
class Adopt:
    """Swap in what a commit agreed on, as far as it is here; `Adopted` must follow at once."""

    commit: pb.Commit
    record: pb.RoundRecord


@dataclass(frozen=True)
class Fetch:
    """Download a fragment, from the `preferred` peers first; ends with `Fetched`/`FetchFailed`."""

    version: pb.FragmentVersion
    preferred: tuple[str, ...]


@dataclass(frozen=True)
class FetchGaveUp:
    """Nobody served these fragments within the join limit; nothing more is fetched unasked."""

    fragments: tuple[str, ...]


@dataclass(frozen=True)
class LookUp:
    """Ask the directory who is there; `RecordsSeen` follows."""


@dataclass(frozen=True)
class Learn:
    """A peer's record came with a message; it is unchecked."""

    record: SignedRecord


@dataclass(frozen=True)
class Left:
    """`LeaveAsked` is done: the vote was given up, or is kept for a reason (docs/adr/0001)."""


@dataclass(frozen=True)
class Emit:
    """For the event log."""

    event: RoundEvent


@dataclass(frozen=True)
class WakeAt:
    """Hand in an event (`Tick`) at this time at the latest; replaces the last one. None: never."""

    time_s: float | None


Effect = (
    Call
    | Answer
    | Refuse
    | PersistWord
    | PersistCommit
    | StartAttempt
    | EndAttempt
    | Adopt
    | Fetch
    | FetchGaveUp
    | LookUp
    | Learn
    | Left
    | Emit
    | WakeAt
)
