"""Softmax top-k router with one parameter per expert's row.

A row per expert (instead of one matrix) lets a row travel with its expert, be frozen, or be
absent. So does a bias, as models with isolated experts have it (FlexOlmo, arXiv 2507.07024).
Letters in tensor names: N tokens, D d_model, E all experts, M experts of this model, K chosen
experts per token.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from swarm.model.config import ModelConfig


@dataclass(frozen=True)
class RouterStats:
    """What one layer's router did with a batch, for the losses and the reports.

    `probs_mean_E`: mean probability of each expert over the tokens, with gradient; sums to 1.
    `counts_E`: (token, expert) pairs sent to each expert, int64; sums to tokens times k.
    `z_loss`: mean squared log-sum-exp of the logits (ST-MoE, arXiv 2202.08906), with gradient.
    Experts that this model does not hold have zeros.
    """

    probs_mean_E: Tensor
    counts_E: Tensor
    z_loss: Tensor


@dataclass(frozen=True)
class Routing:
    """Choice for N tokens: weights with gradient and the positions of the experts in 0..M-1."""

    weights_KN: Tensor
    chosen_KN: Tensor
    counts_M: Tensor
    stats: RouterStats


class Router(nn.Module):
    """Rows `weight.<expert>`, each [D], of the experts that this model holds.

    Attributes:
        bias: `bias.<expert>`, scalars added to the logits; empty without `config.router_bias`.
        selection_bias_M: added to the probabilities when experts are chosen, not to their weights;
            None is none. A training aid, no parameter: `swarm/collective/selection_bias.py`.
    """

    def __init__(self, config: ModelConfig, experts: Sequence[int]) -> None:
        super().__init__()
        self.num_experts = config.num_experts
        self.top_k = min(config.top_k, len(experts))
        self.normalize = config.norm_topk_prob
        self.held = tuple(experts)
        self.weight = nn.ParameterDict(
            {str(e): nn.Parameter(torch.zeros(config.d_model)) for e in experts}
        )
        biased = experts if config.router_bias else ()
        self.bias = nn.ParameterDict({str(e): nn.Parameter(torch.zeros(())) for e in biased})
        self.selection_bias_M: Tensor | None = None

    def rows(self) -> Tensor:
        """All rows [M, D], in the order of `held`."""
        # A ParameterDict sorts its keys as text: "10" comes before "2".
        return torch.stack([self.weight[str(e)] for e in self.held])

    def forward(self, x_ND: Tensor) -> Routing:
        """Choose the experts of each token.

        Experts not held do not enter the softmax, which is the same as logits of -inf for them.
        """
        rows_MD = self.rows().to(x_ND.dtype)
        # Experts before tokens: a softmax along a short last dimension is many times slower.
        logits_MN = F.linear(rows_MD, x_ND).float()
        if self.bias:
            bias_M = torch.stack([self.bias[str(e)] for e in self.held])
            logits_MN = logits_MN + bias_M.unsqueeze(1)
        probs_MN = logits_MN.softmax(dim=0)
        if self.selection_bias_M is None:
            weights_KN, chosen_KN = probs_MN.topk(self.top_k, dim=0)
        else:
            wanted_MN = probs_MN.detach() + self.selection_bias_M.unsqueeze(1)
            chosen_KN = wanted_MN.topk(self.top_k, dim=0).indices
            weights_KN = probs_MN.gather(0, chosen_KN)
        if self.normalize:
            weights_KN = weights_KN / weights_KN.sum(dim=0)
        counts_M = torch.bincount(chosen_KN.view(-1), minlength=len(self.held))
        stats = RouterStats(
            self._over_all_experts(probs_MN.mean(dim=1)),
            self._over_all_experts(counts_M),
            logits_MN.logsumexp(dim=0).square().mean(),
        )
        return Routing(weights_KN.to(x_ND.dtype), chosen_KN, counts_M, stats)

    def _over_all_experts(self, values_M: Tensor) -> Tensor:
        if len(self.held) == self.num_experts:
            return values_M
        index_M = torch.tensor(self.held, device=values_M.device)
        return values_M.new_zeros(self.num_experts).index_copy(0, index_M, values_M)
