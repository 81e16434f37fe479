"""Selection bias of the experts: load balance without a loss (arXiv 2408.15664). Pure.

The bias of an expert that got more tokens than an even share in a round falls by `rate`, that of
one that got fewer rises. It is added to the router's probabilities when experts are chosen, not to
their weights, so it has no gradient. It follows from committed counts alone and is committed with
them; voters compute it again.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from swarm.config import RunManifest
from swarm.errors import Code, SwarmError
from swarm.wire import collective_pb2 as pb


def next_bias(
    bias: Sequence[float], routed_tokens: Sequence[int], layers: int, rate: float
) -> list[float]:
    """The bias [layer * E + expert] after a round with these counts; nothing when `rate` is 0.

    `bias` empty: there was none yet. Without counts it stays as it is.
    """
    if rate == 0.0 or not routed_tokens:
        return [float(b) for b in bias]
    counts_LE = np.array(routed_tokens, dtype=np.float64).reshape(layers, -1)
    before_LE = np.array(bias or [0.0] * counts_LE.size, dtype=np.float32).reshape(layers, -1)
    direction_LE = np.sign(counts_LE.sum(axis=1, keepdims=True) - counts_LE * counts_LE.shape[1])
    after_LE = before_LE + np.float32(rate) * direction_LE.astype(np.float32)
    return [float(b) for b in after_LE.reshape(-1)]


def bias_after(
    record: pb.RoundRecord, previous: pb.RoundRecord | None, manifest: RunManifest
) -> list[float]:
    """The bias that a record must carry."""
    before = list(previous.selection_bias) if previous is not None else []
    routed = [int(n) for n in record.routed_tokens]
    return next_bias(before, routed, manifest.model.num_layers, manifest.balance.bias_rate)


def check_bias(
    record: pb.RoundRecord, previous: pb.RoundRecord | None, manifest: RunManifest
) -> None:
    """Raise `MESSAGE_MALFORMED` when a record carries another bias than follows from its counts."""
    if len(record.routed_tokens) not in (0, manifest.model.num_layers * manifest.model.num_experts):
        raise SwarmError(Code.MESSAGE_MALFORMED, "wrong number of routing counts")
    if list(record.selection_bias) != bias_after(record, previous, manifest):
        raise SwarmError(Code.MESSAGE_MALFORMED, "the selection bias does not follow the counts")
