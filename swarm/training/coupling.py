"""Expert-router coupling: does each expert respond most to the tokens that its router row means?

A router row stands for the tokens that it attracts. Given to all experts as if it were a token, it
should excite its own expert more than the others, and that expert more than other rows do. The loss
asks for it (ERC, arXiv 2512.23447); without noise it is a diagnosis, also of an assembled model.
It needs no data: n * n products of a row with a gate matrix. Letters: M experts of this model,
D d_model.
"""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor

from swarm.model.experts import Expert
from swarm.model.transformer import Transformer


def coupling_loss(model: Transformer, alpha: float, noise: bool = True) -> Tensor:
    """Mean over layers of the loss, a scalar with gradient; 0 when every expert is coupled.

    (1 / M^2) sum over pairs i != j of relu(A_ij - alpha A_ii) + relu(A_ji - alpha A_ii), where A_ij
    is the norm of what expert j's gate makes of row i. `noise` multiplies rows by random factors so
    small that no row comes nearer to another one than to itself.
    """
    losses = []
    for rows_MD, gates in _layers(model):
        response_MM = _responses(_with_noise(rows_MD) if noise else rows_MD, gates)
        own_M1 = alpha * response_MM.diagonal().unsqueeze(1)
        excess_MM = (response_MM - own_M1).relu() + (response_MM.t() - own_M1).relu()
        count = len(excess_MM)
        losses.append((excess_MM.sum() - excess_MM.diagonal().sum()) / count**2)
    return torch.stack(losses).mean()


def _layers(model: Transformer) -> list[tuple[Tensor, list[Tensor]]]:
    """Router rows and gate matrices of each layer, in the order of the model's experts."""
    found = []
    for layer in model.moe_layers:
        experts = [cast(Expert, layer.experts[str(e)]) for e in layer.gate.held]
        found.append((layer.gate.rows(), [expert.gate_proj.weight for expert in experts]))
    return found


def _responses(rows_MD: Tensor, gates: list[Tensor]) -> Tensor:
    """[M, M]: norm of what gate j makes of row i."""
    # A norm has no gradient at 0, where rows that were never trained are.
    squares = [(rows_MD @ gate_FD.t()).square().sum(dim=1) for gate_FD in gates]
    return (torch.stack(squares, dim=1) + 1e-12).sqrt()


def _with_noise(rows_MD: Tensor) -> Tensor:
    """Rows times U(1 - e, 1 + e), e half the distance to the nearest row over the norm."""
    if len(rows_MD) < 2:
        return rows_MD
    with torch.no_grad():
        distances_MM = torch.cdist(rows_MD, rows_MD)
        distances_MM.fill_diagonal_(torch.inf)
        norms_M = rows_MD.norm(dim=1).clamp(min=1e-12)
        limit_M = (distances_MM.min(dim=1).values / (2 * norms_M)).clamp(max=1.0)
        factors_MD = 1 + (2 * torch.rand_like(rows_MD) - 1) * limit_M.unsqueeze(1)
    noisy_MD: Tensor = rows_MD * factors_MD
    return noisy_MD
