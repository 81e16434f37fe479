"""Error feedback: what a lossy codec cuts off an update is added to the next one.

    feedback = ErrorFeedback()
    offered = feedback.prepare("trunk.0", delta, get_codec("int8"))   # for each fragment
    ...                                                               # a round with `offered`
    feedback.commit(contributed)                # fragments whose commit has this peer's update
    feedback.retain(held)                       # fragments that it trains from now on

`prepare` returns what the codec keeps of `delta + residual`. The codec does not change it again
(`swarm.collective.codecs`), as long as parts and chunks begin at multiples of `ALIGNMENT` values;
so what is offered is what the reducers add up, in every attempt of the round and however the plan
cuts it, and the loss is known before anything is sent. The residual advances only when a commit
contains this peer's contribution; else nothing of it was used, and the old one stands.

Over many rounds the sum of what was sent differs from the sum of the updates by one residual, that
is by at most one quantization step. Source: Seide et al. 2014; Karimireddy et al. 2019
(arXiv 1901.09847).
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace

import numpy as np

from swarm.collective.codecs import ALIGNMENT, F32, Codec
from swarm.collective.context import Offer

BLOCK = 64 * ALIGNMENT  # values that are worked on at a time


def quantized(values: F32, codec: Codec) -> F32:
    """What the codec keeps of flat values; a new array. Values that are not finite become NaN.

    For CLIPPED_MEAN what a peer offers must have gone through this, or through
    `ErrorFeedback.prepare`: then the norm that it declares is that of what is reduced.
    """
    kept = np.empty(values.size, np.float32)
    data = np.empty(codec.encoded_bytes(min(BLOCK, values.size)), np.uint8)
    for begin in range(0, values.size, BLOCK):
        chunk = values[begin : begin + BLOCK]
        encoded = data[: codec.encoded_bytes(chunk.size)]
        if np.isfinite(chunk).all():
            codec.encode_into(chunk, encoded)
            codec.decode_into(encoded, kept[begin : begin + BLOCK])
        else:
            kept[begin : begin + BLOCK] = np.nan
    return kept


def prepare_offer(offer: Offer, feedback: ErrorFeedback | None, codec: Codec) -> Offer:
    """The offer with every update as the codec keeps it; nothing of the given offer is changed.

    Takes the time of encoding it all. `feedback` None: what is lost is lost.
    """
    if codec.lossless:
        return offer
    if feedback is None:
        return replace(offer, deltas={n: quantized(v, codec) for n, v in offer.deltas.items()})
    deltas = {n: feedback.prepare(n, v, codec) for n, v in offer.deltas.items()}
    return replace(offer, deltas=deltas)


class ErrorFeedback:
    """Residuals of one peer's contributions, by fragment; flat fp32, memory of the updates."""

    def __init__(self) -> None:
        self._residuals: dict[str, F32] = {}
        self._pending: dict[str, F32] = {}

    def residual(self, fragment: str) -> F32 | None:
        """What is to be added to the next update; None at the beginning."""
        return self._residuals.get(fragment)

    def prepare(self, fragment: str, delta: F32, codec: Codec) -> F32:
        """What to offer for `delta`, which is not changed. A lossless codec takes it as it is.

        A residual of another size is forgotten: the fragment is not what it was.
        """
        if codec.lossless:
            self._pending.pop(fragment, None)
            self._residuals.pop(fragment, None)
            return delta
        residual = self._residuals.get(fragment)
        if residual is not None and residual.size == delta.size:
            wanted = delta + residual
        else:
            wanted = delta.copy()
        offered = quantized(wanted, codec)
        wanted -= offered
        if np.isfinite(wanted).all():
            self._pending[fragment] = wanted
        else:
            self._pending.pop(fragment, None)
        return offered

    def commit(self, fragments: Collection[str]) -> None:
        """The last offered contributions to `fragments` are in a commit, and no others."""
        for fragment in fragments:
            if fragment in self._pending:
                self._residuals[fragment] = self._pending[fragment]
        self._pending.clear()

    def retain(self, fragments: Collection[str]) -> None:
        """Forget all others: who trains one again later, begins afresh."""
        self._residuals = {f: r for f, r in self._residuals.items() if f in fragments}
        self._pending = {f: r for f, r in self._pending.items() if f in fragments}
