"""The peers' models as one: each window by the Bayesian mixture of their predictions.

    p(x) = 1/P sum_p p_p(x),   so bits(x) = -log2 of it

Token by token that is the mean of the models' predictions, weighted by how well each one has
predicted the window so far (Branch-Train-Merge, arXiv 2208.03306). It needs no label of the domain,
and costs a pass of every model.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F

from swarm.data import ByteTokenizer
from swarm.evaluation.measure import Tokens
from swarm.model.transformer import Transformer


def mixture_bits_per_byte(
    models: Sequence[Transformer], tokens: Tokens, length: int, limit: int
) -> float:
    """Bits per byte of `tokens` [N] in whole windows of `length`, at most `limit` tokens."""
    rows = min(limit, len(tokens) - 1) // length
    starts_R = np.arange(rows)[:, None] * length
    windows_RT = torch.from_numpy(tokens[starts_R + np.arange(length + 1)].astype(np.int64))
    targets_RT = windows_RT[:, 1:]
    with torch.inference_mode():
        likelihoods_PR = torch.stack([_log_likelihoods(model, windows_RT) for model in models])
    nats = -(likelihoods_PR.logsumexp(dim=0) - math.log(len(models))).sum()
    return float(nats) / math.log(2) / int((targets_RT < ByteTokenizer.BOS).sum())


def _log_likelihoods(model: Transformer, windows_RT: torch.Tensor) -> torch.Tensor:
    """Log probability [R] of each window but its first token."""
    found = []
    for batch_BT in windows_RT.split(16):
        logits_BVT = model(batch_BT[:, :-1]).logits_BTV.transpose(1, 2)
        losses_BT = F.cross_entropy(logits_BVT, batch_BT[:, 1:], reduction="none")
        found.append(-losses_BT.double().sum(dim=1))
    return torch.cat(found)
