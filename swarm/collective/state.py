"""The canonical fragments of a peer: parameters, outer momentum, version, hashes.

Arrays are never changed in place: a round makes new ones in a shadow, and a commit swaps them in.
So the state of the last commits can be served to others while the next one is being computed.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from swarm.collective.codecs import F32, U8
from swarm.hashing import bulk_hash
from swarm.wire import collective_pb2 as pb

# (fragment, contributors) -> hashes of parameters and momentum
Results = dict[tuple[str, tuple[str, ...]], tuple[bytes, bytes]]
# fragment -> contributors, their weights, and the codec where the record names it (tags)
Planned = dict[str, tuple[list[str], list[float], str]]
EMPTY_HASH = bulk_hash(b"")  # of the momentum of a tensor that has none
MAX_SHADOWS = 4  # results of different attempts of one round; an older one is fetched again


def hash_of(values: F32) -> bytes:
    """BLAKE3 over the little-endian fp32 bytes of a flat array."""
    return bulk_hash(values.astype("<f4", copy=False).data.cast("B"))


@dataclass(frozen=True)
class FragmentState:
    """One fragment as everybody agrees it is.

    `encoded`: what `theta` was decoded from, where that is what `theta_hash` names and what is
    handed on (results under tags); fewer bytes to hash, and as exact.
    """

    theta: F32
    momentum: F32
    version: int
    theta_hash: bytes
    momentum_hash: bytes
    encoded: U8 | None = None

    @classmethod
    def of(
        cls,
        theta: F32,
        momentum: F32,
        version: int,
        encoded: U8 | None = None,
        name: bytes | None = None,
    ) -> FragmentState:
        """Hash the arrays, which must not be changed any more; `name`: `theta_hash`, if known."""
        if name is None:
            name = hash_of(theta) if encoded is None else bulk_hash(encoded.data)
        return cls(theta, momentum, version, name, hash_of(momentum), encoded)

    @classmethod
    def initial(cls, theta: F32) -> FragmentState:
        """Version 0, with zero momentum."""
        return cls.of(theta, np.zeros_like(theta), 0)

    @property
    def content(self) -> memoryview:
        """The bytes that `theta_hash` names."""
        return (self.theta if self.encoded is None else self.encoded).data.cast("B")

    def matches(self, version: pb.FragmentVersion) -> bool:
        """True when parameters and momentum have the agreed hashes."""
        agreed = (version.theta_hash, version.momentum_hash)
        return (self.theta_hash, self.momentum_hash) == agreed


def version_message(fragment: str, state: FragmentState) -> pb.FragmentVersion:
    """The wire form of what a state is."""
    return pb.FragmentVersion(
        fragment=fragment,
        version=state.version,
        theta_hash=state.theta_hash,
        momentum_hash=state.momentum_hash,
    )


class CanonicalState:
    """All fragments that this peer keeps, the previous generation, and the open shadows."""

    def __init__(self, fragments: Mapping[str, FragmentState]) -> None:
        self.fragments: dict[str, FragmentState] = dict(fragments)
        self._previous: dict[str, FragmentState] = {}
        self._shadows: list[Mapping[str, FragmentState]] = []
        self._results: Results = {}

    def add_shadow(
        self, shadow: Mapping[str, FragmentState], contributors: Mapping[str, Sequence[str]]
    ) -> None:
        """Keep the result of an attempt until a commit says which one stands.

        Attempts of the same survivors give the same bits; they are kept once. `contributors` says
        whose updates each fragment was computed from.
        """
        for name, result in shadow.items():
            key = (name, tuple(contributors[name]))
            self._results[key] = (result.theta_hash, result.momentum_hash)

        known = [{n: s.theta_hash for n, s in old.items()} for old in self._shadows]
        if {n: s.theta_hash for n, s in shadow.items()} not in known:
            self._shadows = [*self._shadows[-(MAX_SHADOWS - 1) :], shadow]

    def adopt(self, record: pb.RoundRecord, wanted: Iterable[str]) -> list[pb.FragmentVersion]:
        """Swap in what the record agreed on; returns the fragments that must be downloaded.

        A fragment of ours that does not have the agreed hash is never kept as if it had.
        """
        keep = set(wanted)
        candidates = [*reversed(self._shadows), self.fragments, self._previous]
        chosen: dict[str, FragmentState] = {}
        lacking: list[pb.FragmentVersion] = []
        for outcome in record.fragments:
            agreed = outcome.state
            if agreed.fragment not in keep:
                continue
            matching = (
                generation[agreed.fragment]
                for generation in candidates
                if agreed.fragment in generation and generation[agreed.fragment].matches(agreed)
            )
            found = next(matching, None)
            if found is None:
                lacking.append(agreed)
            else:
                chosen[agreed.fragment] = replace(found, version=agreed.version)
        self._previous = self.fragments
        self.fragments = chosen
        self._shadows = []
        self._results = {}
        return lacking

    @property
    def results(self) -> Results:
        """What this peer computed in the attempts of the open round, and from whose updates."""
        return self._results

    def put(self, fragment: str, state: FragmentState) -> None:
        """Add a downloaded fragment."""
        self.fragments[fragment] = state

    def blob(self, blob_hash: bytes) -> memoryview | None:
        """The bytes with that hash, from this or the previous generation or an open shadow."""
        for generation in (self.fragments, self._previous, *self._shadows):
            for state in generation.values():
                if state.theta_hash == blob_hash:
                    return state.content
                if state.momentum_hash == blob_hash:
                    return state.momentum.data.cast("B")
        return None

    def hashes(self) -> dict[str, bytes]:
        """Parameter hash of each fragment."""
        return {name: state.theta_hash for name, state in self.fragments.items()}
