"""Auxiliary losses of the routers.

Balance is wanted over the whole swarm, not on each peer: a peer that reads only maths should send
its tokens to the maths expert. So the shares come from the counts that all peers committed in the
last round (global-batch load balance, Qwen, "Demons in the detail", arXiv 2501.11873).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from swarm.config import BalanceConfig
from swarm.model.router import RouterStats


def load_balance_loss(
    routing: Sequence[RouterStats],
    global_counts_LE: Tensor | None,
    own_factor_E: Tensor | None = None,
) -> Tensor:
    """Mean over layers of E * sum_i f_i * p_i, a scalar; 1.0 when the routing is uniform.

    f are the shares of routed tokens in `global_counts_LE` (no gradient), p the mean router
    probabilities of this batch. Layers without global counts use this batch's own counts. Counts
    are multiplied by `own_factor_E`: below 1 for its own experts, a peer sends them more tokens.
    """
    losses = []
    for layer, stats in enumerate(routing):
        counts_E = stats.counts_E if global_counts_LE is None else global_counts_LE[layer]
        if global_counts_LE is not None and not bool(counts_E.any()):
            counts_E = stats.counts_E
        if own_factor_E is not None:
            counts_E = counts_E * own_factor_E
        share_E = counts_E / counts_E.sum().clamp(min=1)
        losses.append(len(share_E) * (share_E * stats.probs_mean_E).sum())
    return torch.stack(losses).mean()


def own_factor(config: BalanceConfig, progress: float) -> float:
    """Factor on the counts of a peer's own experts: from `own_factor` linearly to 1.

    `progress` is the share of the run that is done. SPES: 0.7 to 1 over the first fifth.
    """
    done = min(1.0, progress / config.own_factor_share)
    return config.own_factor + (1.0 - config.own_factor) * done


def router_z_loss(routing: Sequence[RouterStats]) -> Tensor:
    """Mean over layers of the squared log-sum-exp of the router logits, a scalar."""
    return torch.stack([stats.z_loss for stats in routing]).mean()
