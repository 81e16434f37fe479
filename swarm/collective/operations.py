"""The operations that a `Communicator` was asked for: queued, offered, resolved. No IO.

queue = OperationQueue(policy)
queue.submit(operation, agreed_version)     # any number at once; one tag's follow one another
offer = queue.offer(commit_id)              # the first of each tag
queue.resolve(record, fragments, me)        # after a commit: completes what it decided
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from swarm.collective.codecs import F32
from swarm.collective.context import Offer
from swarm.collective.plan import Wish
from swarm.collective.state import FragmentState
from swarm.collective.tensors import TensorPolicy
from swarm.errors import Code, SwarmError
from swarm.wire import collective_pb2 as pb


@dataclass(frozen=True)
class TagResult:
    """What a group decided under one tag.

    Attributes:
        values: the result, flat fp32, the same bits on every peer; not to be changed.
        version: number of the operation under its tag.
        weights: who contributed, with normalized weights.
        round: the round that decided it.
        missing: members whose contribution is not in it, and why.
    """

    values: F32
    version: int
    weights: Mapping[str, float]
    round: int
    missing: Mapping[str, str]


@dataclass
class Operation:
    """One tensor to be reduced under one tag; `done` is called once."""

    tag: str
    values: F32  # flat; must not change until the operation is done
    weight: float
    operation: int  # pb.Operation
    codec: str
    done: Callable[[TagResult | SwarmError], None]
    state_revision: int = 0  # of a state to be agreed on
    content_sha256: bytes = b""  # of its bytes
    number: int = 0  # under its tag; given by the queue


@dataclass
class _Tag:
    last: int  # number of the newest operation submitted
    waiting: deque[Operation] = field(default_factory=deque)


class OperationQueue:
    """See the module docstring."""

    def __init__(self, policy: TensorPolicy) -> None:
        self._policy = policy
        self._tags: dict[str, _Tag] = {}

    def submit(self, operation: Operation, agreed_version: int) -> None:
        """Add an operation; `agreed_version` is the group's count under its tag right now."""
        tag = self._tags.setdefault(operation.tag, _Tag(agreed_version))
        tag.last += 1
        operation.number = tag.last
        tag.waiting.append(operation)
        self._policy.subscribed.add(operation.tag)

    @property
    def pending(self) -> bool:
        """True while something waits."""
        return any(tag.waiting for tag in self._tags.values())

    def _heads(self) -> Sequence[Operation]:
        return [tag.waiting[0] for tag in self._tags.values() if tag.waiting]

    def offer(self, base_commit: bytes) -> Offer:
        """The oldest operation of each tag."""
        heads = self._heads()
        return Offer(
            deltas={op.tag: op.values for op in heads},
            weights={op.tag: op.weight for op in heads},
            base_commit=base_commit,
            steps=1,
            tokens=1,
            wishes={
                op.tag: Wish(
                    op.operation, op.codec, op.number, op.state_revision, op.content_sha256
                )
                for op in heads
            },
        )

    def resolve(self, record: pb.RoundRecord, fragments: Mapping[str, FragmentState]) -> None:
        """Complete every operation that the newest record has decided."""
        outcomes = {o.state.fragment: o for o in record.fragments}
        missing = {s.peer: s.reason for s in record.missing}
        for head in self._heads():
            outcome = outcomes.get(head.tag)
            if outcome is None or outcome.state.version < head.number:
                continue
            self._tags[head.tag].waiting.popleft()
            overtaken = head.operation != pb.AGREE and outcome.state.version > head.number
            if overtaken or head.tag not in fragments:
                head.done(_missed(head, int(outcome.state.version)))
                continue
            weights = dict(zip(outcome.contributors, outcome.weights, strict=True))
            head.done(
                TagResult(
                    values=fragments[head.tag].theta,
                    version=int(outcome.state.version),
                    weights=weights,
                    round=int(record.round),
                    missing=missing if outcome.advanced else {},
                )
            )

    def fail(self, error: SwarmError) -> None:
        """Complete everything that waits with an error."""
        for tag in self._tags.values():
            while tag.waiting:
                tag.waiting.popleft().done(error)


def _missed(operation: Operation, version: int) -> SwarmError:
    return SwarmError(
        Code.OPERATION_MISSED,
        f"the group is at operation {version} of {operation.tag!r}, this peer at "
        f"{operation.number}",
        "take the group's state with sync_shared_state and go on from there",
    )
