"""How many experts a machine has room and time for, from what it measured. Pure.

Room: a trained value takes 16 bytes where it is trained (parameter, gradient, two Adam moments,
fp32), a frozen one 4. Time: an update is sent once as slices and the mean once more, and both must
not take longer than the training of a round.
"""

from __future__ import annotations

from dataclasses import dataclass

TRAINED_BYTES = 16
FROZEN_BYTES = 4
USABLE = 0.8  # share of the memory; the rest is for activations
SENT_BYTES = 8  # of each value that is synchronized: the slice and the mean, fp32


@dataclass(frozen=True)
class Sizes:
    """Values (fp32) of a run's fragments. `full`: experts of others are in memory too, frozen."""

    trunk: int
    expert: int
    num_experts: int
    full: bool


@dataclass(frozen=True)
class Machine:
    """What a peer measured; 0 = not measured. `round_s`: seconds of training in a round."""

    memory_bytes: int = 0
    upload_bps: float = 0.0
    round_s: float = 0.0


def places_in_memory(sizes: Sizes, memory_bytes: int) -> int:
    """Experts that can be trained in so much memory beside the trunk; may be 0."""
    fixed = TRAINED_BYTES * sizes.trunk
    each = TRAINED_BYTES * sizes.expert
    if sizes.full:
        fixed += FROZEN_BYTES * sizes.expert * sizes.num_experts
        each -= FROZEN_BYTES * sizes.expert
    left = int(USABLE * memory_bytes) - fixed
    return max(0, min(sizes.num_experts, left // max(1, each)))


def places_in_time(sizes: Sizes, upload_bps: float, round_s: float) -> int:
    """Experts whose updates can be sent beside the trunk's while a round is trained; may be 0."""
    each = max(1, sizes.expert)
    values = min(upload_bps / 8 / SENT_BYTES * round_s, sizes.trunk + each * sizes.num_experts)
    return max(0, int((values - sizes.trunk) // each))


def places(sizes: Sizes, machine: Machine) -> int:
    """Experts that the machine should hold at most, at least 1; 0 when its memory is not known."""
    if not machine.memory_bytes:
        return 0
    most = places_in_memory(sizes, machine.memory_bytes)
    if machine.upload_bps > 0 and machine.round_s > 0:
        most = min(most, places_in_time(sizes, machine.upload_bps, machine.round_s))
    return max(1, most)
