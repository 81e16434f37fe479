"""All-reduce among peers that come and go: the collective without a model, a run, or a server.

    with Communicator.open("my-group", initial_peers=[ADDRESS], min_peers=2) as comm:
        comm.join().wait()
        state = comm.sync_shared_state({"weights": weights}, revision=step).wait()
        result = comm.all_reduce({"gradient": gradient}, weight=tokens, codec="int8").wait()
        gradient = result.tensors["gradient"]      # the same bits on every peer

Everything returns a `Handle`: `handle.wait(timeout)` blocks, `await handle` works in any event
loop, and several may be in flight. A result is only ever one that the group has committed by a
majority; if peers die on the way it is the result of those that remain, and says who was missing.
More in docs/collective.md.
"""

from __future__ import annotations

from collections.abc import Coroutine, Iterable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import numpy.typing as npt

from swarm.collective.codecs import CODECS, F32, Codec, get_codec
from swarm.collective.feedback import quantized
from swarm.collective.handles import (
    Array,
    Gathered,
    Handle,
    Reduced,
    SharedState,
    T,
    reduced,
    shared_state,
)
from swarm.collective.loop_thread import LoopThread
from swarm.collective.operations import Operation
from swarm.collective.session import GroupConfig, Session
from swarm.collective.shared_state import pack
from swarm.collective.state import hash_of
from swarm.collective.tags import MAX_TAG_WEIGHT, is_tag
from swarm.config import TimeoutPolicy
from swarm.errors import Code, SwarmError
from swarm.wire import collective_pb2 as pb

OPERATIONS = {
    name: int(pb.Operation.Value(name.upper()))
    for name in ("mean", "clipped_mean", "trimmed_mean", "median", "sum", "max", "min")
}
STATE_TAG = "shared-state"


class Communicator:
    """See the module docstring. Made by `open`; safe to use from any thread.

    Attributes:
        peer_id: this peer's id.
    """

    def __init__(self, loop: LoopThread, session: Session) -> None:
        self._loop = loop
        self._session = session
        self.peer_id = session.peer_id
        self._closed = False

    @classmethod
    def open(
        cls,
        group: str,
        *,
        initial_peers: Sequence[str] = (),
        host: str = "127.0.0.1",
        min_peers: int = 2,
        directory: Path | None = None,
        route: str = "auto",
        protection: str = "sealed",
        on_majority_lost: str = "continue",
        timeouts: TimeoutPolicy | None = None,
    ) -> Communicator:
        """Start a peer of a group. Peers with the same arguments meet; others refuse each other.

        Args:
            group: the group's name.
            initial_peers: addresses (`Communicator.address`) of peers that are there already.
            host: IP address to listen on, 0.0.0.0 for all.
            min_peers: how many found the group together.
            directory: where identity and promises are kept over restarts; None: in memory.
            route: auto | direct | tunnel, how bulk bytes go.
            protection: sealed | plain; plain is for a network that all trust.
            on_majority_lost: continue (survivors go on in a branch) | wait.
            timeouts: limits of the protocol.

        Raises `PORT_IN_USE`, `BOOTSTRAP_UNREACHABLE` and other errors of starting a peer.
        """
        config = GroupConfig(
            group=group,
            initial_peers=tuple(initial_peers),
            host=host,
            min_peers=min_peers,
            directory=directory,
            route=route,
            protection=protection,
            on_majority_lost=on_majority_lost,
            timeouts=timeouts or TimeoutPolicy(),
        )
        loop = LoopThread(f"communicator-{group}")
        try:
            return cls(loop, loop.run(Session.start(config)))
        except BaseException:
            loop.stop()
            raise

    # ---- membership -----------------------------------------------------------------------

    @property
    def address(self) -> str:
        """What another peer needs as `initial_peers`."""
        return self._session.address

    @property
    def peers(self) -> list[str]:
        """Members of the group by its newest commit, this one included, sorted."""
        return self._session.members()

    @property
    def paths(self) -> dict[str, str]:
        """How bulk bytes went to each peer last: its address, or "tunnel"."""
        return self._session.paths()

    def join(self) -> Handle[list[str]]:
        """Enter the group; done when its members have committed that.

        A group that is at work takes newcomers in with its next operation.
        """
        return self._start(self._session.join())

    def leave(self) -> Handle[None]:
        """Leave in good order, so that nobody has to wait for this peer; `close` does so too."""
        return self._start(self._session.leave())

    def close(self) -> None:
        """Leave the group and end everything here; what is in flight fails.

        Takes up to a few seconds when others are in the middle of an operation. The communicator is
        of no use afterwards; closing it again does nothing.
        """
        if self._closed:
            return
        self._closed = True
        try:
            self._loop.run(self._session.close())
        finally:
            self._loop.stop()

    def __enter__(self) -> Communicator:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    # ---- operations -----------------------------------------------------------------------

    def all_reduce(
        self,
        tensors: Mapping[str, npt.ArrayLike],
        *,
        weight: float | Mapping[str, float] = 1.0,
        op: str = "mean",
        codec: str = "fp32",
        tag: str = "",
    ) -> Handle[Reduced]:
        """Reduce tensors with the other members; all of them call the same operations.

        Args:
            tensors: by name, fp32 of any shape (CPU torch tensors too). They are read while the
                operation is in flight and must not be changed until it is done.
            weight: of this peer's contribution, for all tensors or each.
            op: mean | clipped_mean | trimmed_mean | median | sum | max | min.
            codec: fp32 | bf16 | int8 | int4.
            tag: keeps operations apart that have tensors of the same name.

        Raises `USAGE` for arguments that no peer could take. The handle raises `OPERATION_MISSED`
        when the group went on without this peer, `NON_FINITE` when its values are.
        """
        if op not in OPERATIONS or codec not in CODECS or not tensors:
            raise SwarmError(
                Code.USAGE,
                f"can not reduce {len(tensors)} tensors by op {op!r} and codec {codec!r}",
                f"op is one of {', '.join(OPERATIONS)}; codec one of {', '.join(CODECS)}",
            )
        arrays = {name: _as_fp32(name, values) for name, values in tensors.items()}
        weights = weight if isinstance(weight, Mapping) else dict.fromkeys(arrays, weight)
        for name in arrays:
            if not 0 < weights.get(name, 0.0) <= MAX_TAG_WEIGHT:
                raise SwarmError(
                    Code.USAGE,
                    f"weight of {name!r} is not a positive number",
                    f"it may be up to {MAX_TAG_WEIGHT:g}",
                )
        gathered = Gathered(list(arrays), lambda found: reduced(found, arrays))
        chosen = get_codec(codec)
        tags = {name: f"{tag}/{name}" if tag else name for name in arrays}
        for name, values in arrays.items():
            _check_tag(tags[name], values.size)
        self._submit(
            Operation(
                tag=tags[name],
                values=_prepared(values.reshape(-1), chosen, op),
                weight=weights[name],
                operation=OPERATIONS[op],
                codec=codec,
                done=gathered.slot(name),
            )
            for name, values in arrays.items()
        )
        return Handle(gathered.future)

    def sync_shared_state(
        self, state: Mapping[str, Array], *, revision: int, tag: str = STATE_TAG
    ) -> Handle[SharedState]:
        """Agree on a state: the highest revision, of that the most popular content, goes to all.

        Arrays of any dtype. Peers that have it get their own values back; the others download and
        verify it. `revision` says whose state is newer, for example the number of steps behind it.
        """
        if not 0 <= revision < 1 << 63:
            raise SwarmError(Code.USAGE, "the revision of a shared state is not a count")
        values, header = pack(state, revision)
        _check_tag(tag, values.size)
        gathered = Gathered([tag], lambda found: shared_state(found[tag], header))
        operation = Operation(
            tag=tag,
            values=values,
            weight=1.0,
            operation=pb.AGREE,
            codec="fp32",
            done=gathered.slot(tag),
            state_revision=revision,
            content_hash=hash_of(values),
        )
        self._submit([operation])
        return Handle(gathered.future)

    # ---- inside ---------------------------------------------------------------------------

    def _start(self, work: Coroutine[Any, Any, T]) -> Handle[T]:
        if self._closed:
            work.close()
            raise _closed()
        try:
            return Handle(self._loop.start(work))
        except RuntimeError:  # another thread has closed it
            raise _closed() from None

    def _submit(self, operations: Iterable[Operation]) -> None:
        """Queue all of them, or none."""
        ready = list(operations)
        if self._closed:
            raise _closed()

        def submit() -> None:
            for operation in ready:
                self._session.submit(operation)

        try:
            self._loop.call(submit)
        except RuntimeError:
            raise _closed() from None


def _as_fp32(name: str, values: npt.ArrayLike) -> F32:
    array = np.asarray(values)
    if array.dtype != np.float32:
        raise SwarmError(
            Code.USAGE, f"{name!r} is {array.dtype}", "convert it to float32 before it is reduced"
        )
    return np.asarray(array, order="C")


def _check_tag(tag: str, numel: int) -> None:
    if not is_tag(tag, numel):
        raise SwarmError(
            Code.USAGE,
            f"{tag!r} with {numel} values can not be reduced",
            "names are up to 120 letters, digits and _ . : / -; tensors are not empty",
        )


def _closed() -> SwarmError:
    return SwarmError(Code.USAGE, "the communicator is closed", "open a new one")


def _prepared(values: F32, codec: Codec, op: str) -> F32:
    """What is offered; a declared norm must be that of what the codec keeps."""
    return quantized(values, codec) if op == "clipped_mean" and not codec.lossless else values
