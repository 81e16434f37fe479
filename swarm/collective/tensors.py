"""The policy of a group that reduces any tensors under tags, without a model (`Communicator`).

A tag is a fragment without a past: its result is the reduced tensor itself, its version the number
of operations under the tag. Operations of one tag follow one another; of several, run together.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

import numpy as np

from swarm.collective.codecs import F32, U8
from swarm.collective.state import FragmentState
from swarm.wire import collective_pb2 as pb

NOTHING: F32 = np.zeros(0, dtype=np.float32)


class TensorPolicy:
    """A `Policy` with open tags.

    Attributes:
        subscribed: tags that this peer uses; their results are fetched also when they were reduced
            without it.
    """

    def __init__(self) -> None:
        self.numel: Mapping[str, int] = {}
        self.open_tags = True
        self.routing_width = 0
        self.subscribed: set[str] = set()

    def wanted(self, record: pb.RoundRecord | None) -> Collection[str]:
        """The subscribed tags."""
        return self.subscribed

    def holds(self, record: pb.RoundRecord, peer: str) -> Collection[str]:
        """Nothing is reserved for anybody."""
        return ()

    def trains(self, record: pb.RoundRecord, peer: str) -> Collection[str]:
        """As `holds`."""
        return ()

    def initial(self, fragment: str) -> FragmentState:
        """Before the first operation there is nothing."""
        return FragmentState(NOTHING, NOTHING, 0, b"", b"")

    def initial_version(self, fragment: str) -> pb.FragmentVersion:
        """No hashes: nobody has it."""
        return pb.FragmentVersion(fragment=fragment)

    def apply(
        self,
        fragment: str,
        mean: F32,
        state: FragmentState,
        contributors: int,
        encoded: U8 | None = None,
        name: bytes | None = None,
    ) -> FragmentState:
        """The reduced tensor as it is, named by what it was decoded from."""
        return FragmentState.of(mean, NOTHING, state.version + 1, encoded, name)

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
        """Nobody is given anything."""
