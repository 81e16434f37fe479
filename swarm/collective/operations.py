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

import numpy as np

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
    content_hash: bytes = b""  # of its bytes
    number: int = 0  # under its tag; given by the queue


@dataclass
class _Tag:
    last: int  # number of the newest operation submitted
    waiting: deque[Operation] = field(default_factory=deque)

    def take_back(self) -> Operation:
        """The oldest that waits, as if it had not been submitted."""
        oldest = self.waiting.popleft()
        self.last -= 1
        for later in self.waiting:
            later.number -= 1
        return oldest


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
                op.tag: Wish(op.operation, op.codec, op.number, op.state_revision, op.content_hash)
                for op in heads
            },
        )

    def resolve(
        self, record: pb.RoundRecord, fragments: Mapping[str, FragmentState], me: str
    ) -> None:
        """Complete every operation of the peer `me` that the newest record has decided.

        `fragments` must be level with the record.
        """
        outcomes = {o.state.fragment: o for o in record.fragments}
        missing = {s.peer: s.reason for s in record.missing}
        for head in self._heads():
            tag, outcome = self._tags[head.tag], outcomes.get(head.tag)
            if outcome is None or outcome.state.version < head.number:
                if me in missing and _is_broken(head):
                    tag.take_back()
                    head.done(_not_finite(head))
                continue
            tag.waiting.popleft()
            version = int(outcome.state.version)
            tag.last = max(tag.last, version)  # what comes next goes on from there
            overtaken = head.operation != pb.AGREE and version > head.number
            if overtaken or head.tag not in fragments:
                head.done(_missed(head, version))
            elif outcome.operation not in (pb.OPERATION_UNSPECIFIED, head.operation) or (
                head.operation != pb.AGREE and outcome.numel != head.values.size
            ):
                head.done(_different(head, outcome))
            elif me not in outcome.contributors and _is_broken(head):
                head.done(_not_finite(head))
            else:
                head.done(
                    TagResult(
                        values=fragments[head.tag].theta,
                        version=version,
                        weights=dict(zip(outcome.contributors, outcome.weights, strict=True)),
                        round=int(record.round),
                        missing=_missing_of(record, outcome),
                    )
                )

    def fail(self, error: SwarmError, record: pb.RoundRecord | None = None) -> None:
        """Complete everything that waits with an error.

        What `record`, the newest, has not decided does not count: calling it again is that
        operation again, so that the others' meet it.
        """
        states = [o.state for o in record.fragments] if record is not None else []
        decided = {s.fragment: int(s.version) for s in states}
        for name, tag in self._tags.items():
            while tag.waiting:
                counts = tag.waiting[0].number <= decided.get(name, 0)
                (tag.waiting.popleft() if counts else tag.take_back()).done(error)


def _missing_of(record: pb.RoundRecord, outcome: pb.FragmentOutcome) -> Mapping[str, str]:
    """Members whose values are not in the result, and why; a state is its sources' alone.

    A record names who brought nothing to the whole round; who was there and brought nothing to
    this operation, or called it otherwise, is in its roster.
    """
    if not outcome.advanced or outcome.operation == pb.AGREE:
        return {}
    named = {s.peer: s.reason for s in record.missing}
    silent = set(record.roster) - set(record.joined) - set(outcome.contributors) - named.keys()
    return named | dict.fromkeys(
        sorted(silent), "did not call this operation, or not as the others"
    )


def _missed(operation: Operation, version: int) -> SwarmError:
    return SwarmError(
        Code.OPERATION_MISSED,
        f"the group is at operation {version} of {operation.tag!r}, this peer at "
        f"{operation.number}",
        "take the group's state with sync_shared_state and go on from there",
    )


def _is_broken(operation: Operation) -> bool:
    """True when no reducer can take it; a state to be agreed on is bytes, whatever they mean."""
    return operation.operation != pb.AGREE and not bool(np.isfinite(operation.values).all())


def _not_finite(operation: Operation) -> SwarmError:
    return SwarmError(Code.NON_FINITE, f"this peer's values of {operation.tag!r} are not finite")


def _different(operation: Operation, outcome: pb.FragmentOutcome) -> SwarmError:
    done = pb.Operation.Name(outcome.operation)
    return SwarmError(
        Code.OPERATION_MISSED,
        f"the group did {done} of {outcome.numel} values under {operation.tag!r}, this peer asked "
        f"for {pb.Operation.Name(operation.operation)} of {operation.values.size}",  # type: ignore[arg-type]
        "give every peer the same operations, sizes and tags",
    )
