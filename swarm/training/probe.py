"""How much a synchronization changes where tokens go: the routing of a fixed batch, before, after.

    probe = RoutingProbe(tokens_BT)
    before = probe.look(model)
    ...                                  # other parameters are loaded
    divergence = routing_divergence(before, probe.look(model))

A peer's router adapts to its own experts while those of the others stand still in its memory. When
they are refreshed, tokens may go elsewhere at once: the divergence says how much.
"""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn

from swarm.model.router import Router, Routing
from swarm.model.transformer import Transformer


class RoutingProbe:
    """Router probabilities of one fixed batch [B, T]. Costs one forward pass for each look."""

    def __init__(self, tokens_BT: Tensor) -> None:
        self._tokens_BT = tokens_BT

    def look(self, model: Transformer) -> list[Tensor]:
        """Of each layer, the probabilities [E, N]; experts not in the model have 0."""
        seen: list[Tensor] = []

        def note(module: nn.Module, inputs: tuple[Tensor], output: Routing) -> None:
            rows_MD = cast(Router, module).rows().float()
            probs_MN = (rows_MD @ inputs[0].float().t()).softmax(dim=0)
            probs_EN = probs_MN.new_zeros(model.config.num_experts, probs_MN.shape[1])
            seen.append(
                probs_EN.index_copy(
                    0, torch.tensor(model.held, device=probs_MN.device), probs_MN
                ).cpu()
            )

        hooks = [layer.gate.register_forward_hook(note) for layer in model.moe_layers]
        try:
            with torch.inference_mode():
                model(self._tokens_BT.to(model.lm_head.weight.device))
        finally:
            for hook in hooks:
                hook.remove()
        return seen


def routing_divergence(before: list[Tensor], after: list[Tensor]) -> float:
    """KL(before || after) in nats, mean over tokens and layers.

    An expert that is not in the model counts as one of probability 1e-9.
    """
    total = 0.0
    for p_EN, q_EN in zip(before, after, strict=True):
        p, q = p_EN.double().clamp(min=1e-9), q_EN.double().clamp(min=1e-9)
        total += float((p * (p.log() - q.log())).sum(dim=0).mean())
    return max(0.0, total / len(before))
