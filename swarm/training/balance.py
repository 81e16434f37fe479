"""Auxiliary losses of the routers.

Balance is wanted over the whole swarm, not on each peer: a peer that reads only maths should send
its tokens to the maths expert. So the shares come from the counts that all peers committed in the
last round (global-batch load balance, Qwen, "Demons in the detail", arXiv 2501.11873).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from swarm.model.router import RouterStats


def load_balance_loss(routing: Sequence[RouterStats], global_counts_LE: Tensor | None) -> Tensor:
    """Mean over layers of E * sum_i f_i * p_i, a scalar; 1.0 when the routing is uniform.

    f are the shares of routed tokens in `global_counts_LE` (no gradient), p the mean router
    probabilities of this batch. Layers without global counts use this batch's own counts.
    """
    losses = []
    for layer, stats in enumerate(routing):
        counts_E = stats.counts_E if global_counts_LE is None else global_counts_LE[layer]
        if global_counts_LE is not None and not bool(counts_E.any()):
            counts_E = stats.counts_E
        share_E = counts_E / counts_E.sum().clamp(min=1)
        losses.append(len(share_E) * (share_E * stats.probs_mean_E).sum())
    return torch.stack(losses).mean()


def router_z_loss(routing: Sequence[RouterStats]) -> Tensor:
    """Mean over layers of the squared log-sum-exp of the router logits, a scalar."""
    return torch.stack([stats.z_loss for stats in routing]).mean()
