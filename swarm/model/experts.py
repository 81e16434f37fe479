"""SwiGLU experts, computed grouped: tokens are sorted by expert, none is dropped.

Each expert with tokens takes one set of matrix products over exactly its tokens. An expert without
tokens takes no part, so its parameters keep `grad = None` and an optimizer leaves them alone (a
zero gradient would still decay them and follow old momentum). Letters in tensor names: N tokens,
K experts per token, R = N * K rows sorted by expert, D d_model, F hidden width of an expert.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from swarm.model.config import ModelConfig
from swarm.model.router import Router, RouterStats, Routing


class Expert(nn.Module):
    """Parameters of one SwiGLU expert: down(silu(gate(x)) * up(x))."""

    def __init__(self, config: ModelConfig, width: int | None = None) -> None:
        super().__init__()
        d_ff = width or config.d_ff
        self.gate_proj = nn.Linear(config.d_model, d_ff, bias=False)
        self.up_proj = nn.Linear(config.d_model, d_ff, bias=False)
        self.down_proj = nn.Linear(d_ff, config.d_model, bias=False)

    def forward(self, x_ND: Tensor) -> Tensor:
        """[N, D] to [N, D], for an expert that processes every token."""
        y_ND: Tensor = self.down_proj(F.silu(self.gate_proj(x_ND)).mul_(self.up_proj(x_ND)))
        return y_ND

    @property
    def matrices(self) -> tuple[Tensor, Tensor, Tensor]:
        """Gate [F, D], up [F, D], down [D, F]."""
        return self.gate_proj.weight, self.up_proj.weight, self.down_proj.weight


class MixtureOfExperts(nn.Module):
    """Router and experts of one layer; `experts` are those that exist in this model.

    Shared experts take every token, unweighted; several are one that is as much wider.
    """

    def __init__(self, config: ModelConfig, experts: Sequence[int]) -> None:
        super().__init__()
        self.gate = Router(config, experts)
        width = config.shared_experts * config.d_ff
        self.shared_expert = Expert(config, width) if width else None
        self.experts = nn.ModuleDict({str(e): Expert(config) for e in experts})

    def forward(self, x_BTD: Tensor) -> tuple[Tensor, RouterStats]:
        """[B, T, D] to [B, T, D]: the weighted sum of the chosen experts' outputs."""
        x_ND = x_BTD.reshape(-1, x_BTD.shape[-1])
        if torch.is_autocast_enabled(x_ND.device.type):  # does not reach the hand-written part
            x_ND = x_ND.to(torch.get_autocast_dtype(x_ND.device.type))
        routing: Routing = self.gate(x_ND)
        spans: list[slice] = []
        matrices: list[Tensor] = []
        start = 0
        for index, count in enumerate(routing.counts_M.tolist()):
            if count:
                spans.append(slice(start, start + count))
                matrices += self._expert(index).matrices
                start += count
        y_ND = _grouped_experts(x_ND, routing.weights_KN, routing.chosen_KN, spans, *matrices)
        if self.shared_expert is not None:
            y_ND = y_ND + self.shared_expert(x_ND)
        return y_ND.view_as(x_BTD), routing.stats

    def _expert(self, index: int) -> Expert:
        return cast(Expert, self.experts[str(self.gate.held[index])])


class _GroupedExperts(torch.autograd.Function):
    """Weighted sum of the chosen experts' outputs, with a gradient written by hand.

    All steps of one expert run before the next expert's, because a group of rows fits the
    processor's cache and the whole batch does not: elementwise work on the whole batch costs as
    much as the matrix products. Frozen matrices get no gradient computed.
    """

    @staticmethod
    def forward(
        ctx: Any,
        x_ND: Tensor,
        weights_KN: Tensor,
        chosen_KN: Tensor,
        spans: list[slice],  # rows of each expert that has tokens
        *matrices: Tensor,
    ) -> Tensor:
        order_R = chosen_KN.flatten().argsort(stable=True)
        token_R = order_R % len(x_ND)
        weight_R1 = weights_KN.reshape(-1, 1).index_select(0, order_R)
        out_ND = torch.zeros_like(x_ND)
        saved = []
        for i, rows in enumerate(spans):
            gate, up, down = (matrix.to(x_ND.dtype) for matrix in matrices[3 * i : 3 * i + 3])
            x_rD = x_ND.index_select(0, token_R[rows])
            gate_rF, up_rF = x_rD @ gate.t(), x_rD @ up.t()
            y_rD = F.silu(gate_rF).mul_(up_rF) @ down.t()
            out_ND.index_add_(0, token_R[rows], y_rD * weight_R1[rows])
            saved += [x_rD, gate_rF, up_rF, y_rD]
        ctx.spans = spans
        ctx.save_for_backward(order_R, token_R, weight_R1, *matrices, *saved)
        return out_ND

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_ND: Tensor) -> tuple[Tensor | None, ...]:
        order_R, token_R, weight_R1, *rest = ctx.saved_tensors
        matrices, saved = rest[: 3 * len(ctx.spans)], rest[3 * len(ctx.spans) :]
        grads: list[Tensor | None] = []
        dx_ND = torch.zeros_like(grad_ND)
        dweight_R = torch.empty_like(weight_R1[:, 0])
        for i, rows in enumerate(ctx.spans):
            gate, up, down = (matrix.to(grad_ND.dtype) for matrix in matrices[3 * i : 3 * i + 3])
            gate_wanted, up_wanted, down_wanted = ctx.needs_input_grad[4 + 3 * i : 7 + 3 * i]
            x_rD, gate_rF, up_rF, y_rD = saved[4 * i : 4 * i + 4]
            dy_rD = grad_ND.index_select(0, token_R[rows])
            torch.sum(dy_rD * y_rD, dim=-1, out=dweight_R[rows])
            dy_rD.mul_(weight_R1[rows])
            silu_rF = F.silu(gate_rF)
            ddown = dy_rD.t() @ (silu_rF * up_rF) if down_wanted else None
            dhidden_rF = dy_rD @ down
            dup_rF = silu_rF.mul_(dhidden_rF)
            dgate_rF = torch.ops.aten.silu_backward(dhidden_rF.mul_(up_rF), gate_rF)
            dx_ND.index_add_(0, token_R[rows], (dgate_rF @ gate).addmm_(dup_rF, up))
            grads += [
                dgate_rF.t() @ x_rD if gate_wanted else None,
                dup_rF.t() @ x_rD if up_wanted else None,
                ddown,
            ]
        dweights = torch.empty_like(dweight_R).index_copy_(0, order_R, dweight_R)
        return dx_ND, dweights.view(-1, len(grad_ND)), None, None, *grads


_grouped_experts: Callable[..., Tensor] = _GroupedExperts.apply
