"""What the calls of a `Communicator` give: handles of what is under way, and results.

gathered = Gathered(tags, build)              # one future for the results of several tags
operation.done = gathered.slot(tag)
handle = Handle(gathered.future)
"""

from __future__ import annotations

import asyncio
import concurrent.futures
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Generic, TypeVar

import numpy.typing as npt

from swarm.collective.codecs import F32
from swarm.collective.operations import TagResult
from swarm.collective.shared_state import unpack
from swarm.errors import SwarmError

T = TypeVar("T")
Array = npt.NDArray[Any]


class Handle(Generic[T]):
    """Something under way. Errors of the group are raised as `SwarmError`."""

    def __init__(self, future: concurrent.futures.Future[T]) -> None:
        self._future = future

    def wait(self, timeout: timedelta | None = None) -> T:
        """Block until it is done. Raises `TimeoutError`; it goes on all the same."""
        try:
            return self._future.result(None if timeout is None else timeout.total_seconds())
        except concurrent.futures.TimeoutError:
            raise TimeoutError("not done yet; wait again, or close the communicator") from None

    def done(self) -> bool:
        """True when `wait` returns at once."""
        return self._future.done()

    def __await__(self) -> Generator[Any, None, T]:
        # Who gives up waiting, by `asyncio.wait_for` say, does not end it for the others.
        return asyncio.shield(asyncio.wrap_future(self._future)).__await__()


@dataclass(frozen=True)
class Reduced:
    """A committed all-reduce.

    Attributes:
        tensors: results in the shapes that were given; read-only.
        weights: normalized weight of each contributor, by tensor.
        missing: members of the group that are not in it, and why.
        round: the group's round that decided it.
    """

    tensors: Mapping[str, F32]
    weights: Mapping[str, Mapping[str, float]]
    missing: Mapping[str, str]
    round: int


@dataclass(frozen=True)
class SharedState:
    """The state that the group agreed on: arrays as they were given, and its revision."""

    tensors: Mapping[str, Array]
    revision: int
    sources: Sequence[str]


class Gathered(Generic[T]):
    """One future for the results of several tags."""

    def __init__(self, names: Sequence[str], build: Callable[[Mapping[str, TagResult]], T]) -> None:
        self.future: concurrent.futures.Future[T] = concurrent.futures.Future()
        self.future.set_running_or_notify_cancel()  # only the group ends it
        self._waiting = set(names)
        self._found: dict[str, TagResult] = {}
        self._build = build

    def slot(self, name: str) -> Callable[[TagResult | SwarmError], None]:
        """Where the result of one of them goes; called in the loop's thread."""

        def done(result: TagResult | SwarmError) -> None:
            if self.future.done():
                return
            if isinstance(result, SwarmError):
                self.future.set_exception(result)
                return
            self._found[name] = result
            self._waiting.discard(name)
            if not self._waiting:
                try:
                    self.future.set_result(self._build(self._found))
                except SwarmError as error:
                    self.future.set_exception(error)

        return done


def shared_state(found: TagResult, header: bytes) -> SharedState:
    """The state that a group agreed on. Raises `STATE_MISMATCH` if its layout is not `header`."""
    tensors, revision = unpack(found.values, header)
    return SharedState(tensors, revision, sorted(found.weights))


def reduced(found: Mapping[str, TagResult], arrays: Mapping[str, F32]) -> Reduced:
    """Results by tag, in the shapes of `arrays`."""
    tensors = {}
    for name, result in found.items():
        tensors[name] = result.values.reshape(arrays[name].shape)
        tensors[name].flags.writeable = False
    missing = {peer: why for result in found.values() for peer, why in result.missing.items()}
    return Reduced(
        tensors=tensors,
        weights={name: dict(result.weights) for name, result in found.items()},
        missing=missing,
        round=max(result.round for result in found.values()),
    )
