"""Toy fragments of the chaos tests, and what their values must be after a chain of commits.

    truth = Truth(NUMEL)
    truth.follow(record)                       # after its predecessor
    truth.check(commit_id, samples)            # raises AssertionError

An update is known to everybody who knows (peer, fragment, base commit): a fixed table of random
numbers, shifted by a hash of the three. So the test recomputes from the records alone what every
peer must hold, at `sample_index` positions of each fragment. All updates have the same norm, so
clipping by norms changes nothing.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping

import numpy as np

from swarm.collective.codecs import F32
from swarm.collective.consensus import commit_id, parse_record
from swarm.collective.state import FragmentState
from swarm.simulation.swarm import ToyPolicy, toy_values
from swarm.wire import collective_pb2 as pb

TABLE = toy_values("update", 4096) * np.float32(0.01)
NUMEL = {  # fp32 values, multiples of the table: 9 slices of 1 MiB go out of each of four peers
    "trunk.0": 768 * 4096,
    "trunk.1": 64 * 4096,
    **{f"expert.{e}": 8 * 4096 for e in range(8)},
}
SMALL = {name: max(size // 16, len(TABLE)) for name, size in NUMEL.items()}
SAMPLES = 64
Samples = Mapping[str, tuple[list[float], list[float]]]  # fragment -> parameters, momentum


def _number(*words: str) -> int:
    return int.from_bytes(hashlib.sha256("/".join(words).encode()).digest()[:4], "little")


def update_of(peer: str, fragment: str, base: bytes, numel: int) -> F32:
    """The pseudo-gradient (fp32, flat) that `peer` offers after commit `base`."""
    assert numel % len(TABLE) == 0, "else it has no such norm"
    shift = _number(peer, fragment, base.hex()) % len(TABLE)
    return np.tile(np.roll(TABLE, shift), numel // len(TABLE))


def weight_of(peer: str, fragment: str, base: bytes) -> float:
    """Between 75 and 125, so that nothing is clipped."""
    return 75.0 + _number("weight", peer, fragment, base.hex()) % 50


def sample_index(numel: int) -> np.ndarray:
    """Where the values of a fragment are compared."""
    return np.arange(0, numel, numel // SAMPLES | 1)


def samples_of(fragments: Mapping[str, FragmentState]) -> Samples:
    """The values that `Truth.check` compares."""
    found = {}
    for name, state in fragments.items():
        index = sample_index(state.theta.size)
        found[name] = (state.theta[index].tolist(), state.momentum[index].tolist())
    return found


class Truth:
    """What follows from the records: the sampled values after every commit."""

    def __init__(self, numel: Mapping[str, int]) -> None:
        self._numel = numel
        self._policy = ToyPolicy(numel)
        self._states: dict[bytes, dict[str, FragmentState]] = {}

    def knows(self, identifier: bytes) -> bool:
        return identifier in self._states

    def follow_all(self, records: Iterable[bytes]) -> None:
        """Follow serialized records, ancestors first."""
        for record in records:
            self.follow(record)

    def follow(self, serialized: bytes) -> None:
        """Compute the values after a record; its predecessor must be known."""
        identifier = commit_id(serialized)
        if identifier in self._states:
            return
        record = parse_record(serialized)
        if record.previous:
            before = self._states[record.previous]
        else:
            before = {name: self._initial(name) for name in self._numel}
        after = dict(before)
        for outcome in record.fragments:
            if outcome.advanced:
                name = outcome.state.fragment
                mean = self._mean(record.previous, outcome)
                count = len(outcome.contributors)
                after[name] = self._policy.apply(name, mean, before[name], count)
        self._states[identifier] = after

    def _initial(self, name: str) -> FragmentState:
        full = self._policy.initial(name)
        index = sample_index(self._numel[name])
        return FragmentState.of(full.theta[index], full.momentum[index], 0)

    def _mean(self, base: bytes, outcome: pb.FragmentOutcome) -> F32:
        """The mean of exactly the recorded contributors, weighted by what each of them offered."""
        name = outcome.state.fragment
        numel = self._numel[name]
        weights = np.array([weight_of(p, name, base) for p in outcome.contributors])
        weights /= weights.sum()
        np.testing.assert_allclose(list(outcome.weights), weights, rtol=1e-5)
        index = sample_index(numel) % len(TABLE)
        mean = np.zeros(index.size, np.float32)
        for peer, weight in zip(outcome.contributors, weights, strict=True):
            shift = _number(peer, name, base.hex()) % len(TABLE)
            mean += np.roll(TABLE, shift)[index] * np.float32(weight)
        return mean

    def check(self, identifier: bytes, samples: Samples) -> None:
        """A peer that has this commit has the values that follow from the contributors."""
        expected = self._states[identifier]
        assert set(samples) == set(expected)
        for name, (theta, momentum) in samples.items():
            np.testing.assert_allclose(theta, expected[name].theta, rtol=1e-4, atol=1e-5)
            np.testing.assert_allclose(momentum, expected[name].momentum, rtol=1e-4, atol=1e-5)
