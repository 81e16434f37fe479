"""What a `PeerMachine` is given once: the run's rules, and functions that are injected.

All of it is constant during a life, so copies of a machine share it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from swarm.collective.changes import MAX_STEPS_FACTOR
from swarm.collective.consensus import Verifier
from swarm.collective.context import Policy
from swarm.config import RunManifest, TimeoutPolicy
from swarm.wire import collective_pb2 as pb
from swarm.wire.membership_pb2 import PeerRecord, SignedRecord


def _no_record(signed: SignedRecord) -> PeerRecord | None:
    return None


def _no_signed(peer: str) -> SignedRecord | None:
    return None


@dataclass(frozen=True)
class Setup:
    """See the module docstring.

    `note` reads and checks a peer's record, `signed` gives the signed form of a known peer's;
    `wall_ms` turns `now` into Unix milliseconds, for the log in the record. `capability`: what this
    machine can do, as far as it is measured. `change`: the newest change of the run that is known
    here, empty for none.
    """

    me: str
    manifest: RunManifest
    policy: Policy
    sign: Callable[[bytes], bytes]
    verify: Verifier
    note: Callable[[SignedRecord], PeerRecord | None] = _no_record
    signed: Callable[[str], SignedRecord | None] = _no_signed
    wall_ms: Callable[[float], int] = lambda now: round(1000 * now)
    capability: Callable[[], pb.Capability] = pb.Capability
    change: Callable[[], pb.SignedChange] = pb.SignedChange

    @cached_property
    def run_id(self) -> bytes:
        """The run that the manifest names."""
        return self.manifest.run_id

    @cached_property
    def timeouts(self) -> TimeoutPolicy:
        """Every time limit of the protocol."""
        return self.manifest.timeouts

    @cached_property
    def max_round_tokens(self) -> int:
        """Tokens of one peer in a round, at most; weights are clipped to 4 times the median too."""
        training = self.manifest.training
        return self.max_round_steps * training.batch_size * training.sequence_length

    @cached_property
    def max_round_steps(self) -> int:
        """Inner steps of one peer in a round, at most, also after a change of the run."""
        return MAX_STEPS_FACTOR * self.manifest.training.inner_steps

    def __deepcopy__(self, memo: dict[int, Any]) -> Setup:
        return self
