"""What an inner step minimises, and the gradients of it.

Cross entropy of the next token, plus the auxiliary losses of the manifest: load balance over the
run's experts, the routers' z-loss, and the coupling of experts to their router rows.
"""

from __future__ import annotations

import contextlib
from collections.abc import Collection
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from swarm.config import RunManifest
from swarm.model.transformer import ModelOutput, Transformer
from swarm.training.balance import load_balance_loss, own_factor, router_z_loss
from swarm.training.coupling import coupling_loss

Counts = npt.NDArray[np.int64]


class Objective:
    """The losses of one run, as seen by one peer."""

    def __init__(self, manifest: RunManifest, device: torch.device) -> None:
        self._manifest = manifest
        self._device = device
        self._global_load_LE: Tensor | None = None

    def set_global_load(self, counts_LE: npt.ArrayLike | None) -> None:
        """Routed tokens [L, E] of all peers in the last round, for the load balance loss."""
        if counts_LE is None:
            self._global_load_LE = None
            return
        shape = (self._manifest.model.num_layers, self._manifest.model.num_experts)
        counts = np.asarray(counts_LE, dtype=np.float32).reshape(shape)
        self._global_load_LE = torch.from_numpy(counts).to(self._device)

    def gradients(
        self,
        model: Transformer,
        batch_BT: Tensor,
        *,
        rows_at_once: int,
        held: Collection[int],
        tokens: int,
    ) -> tuple[float, Counts]:
        """Put the gradients of a batch's mean loss into the parameters.

        `held`: this peer's experts; `tokens`: trained so far in the run. Returns the cross entropy
        in nats per token and the routed tokens [L, E].
        """
        model.zero_grad(set_to_none=True)
        factors = self._own_factors(held, tokens)
        loss, routed_LE = 0.0, np.zeros(1, np.int64)
        for part_BT in torch.split(batch_BT, rows_at_once):
            share = len(part_BT) / len(batch_BT)
            part_loss, counts_LE = self._accumulate(model, part_BT, share, factors)
            loss += share * part_loss
            routed_LE = routed_LE + counts_LE
        return loss, routed_LE

    def _accumulate(
        self, model: Transformer, batch_BT: Tensor, share: float, factors: Tensor | None
    ) -> tuple[float, Counts]:
        """Add the gradients of a part of a batch, which is this share of it."""
        with self._autocast():
            output: ModelOutput = model(batch_BT[:, :-1])
        logits_NV = output.logits_BTV.float().flatten(0, 1)
        cross_entropy = F.cross_entropy(logits_NV, batch_BT[:, 1:].flatten())
        config, balance_config = self._manifest.training, self._manifest.balance
        balance = load_balance_loss(output.routing, self._global_load_LE, factors)
        z_loss = router_z_loss(output.routing)
        total = cross_entropy + config.load_balance_weight * balance + config.z_loss_weight * z_loss
        if balance_config.coupling_weight:
            coupling = coupling_loss(model, balance_config.coupling_alpha)
            total = total + balance_config.coupling_weight * coupling
        torch.autograd.backward(total * share if share < 1.0 else total)
        routed_LE = torch.stack([stats.counts_E for stats in output.routing]).cpu().numpy()
        return cross_entropy.item(), routed_LE

    def _own_factors(self, held: Collection[int], tokens: int) -> Tensor | None:
        """Factors on the experts' counts in the balance loss; None when all are 1."""
        progress = tokens / self._manifest.training.total_tokens
        factor = own_factor(self._manifest.balance, progress)
        if factor == 1.0:
            return None
        experts = range(self._manifest.model.num_experts)
        factors = [factor if e in held else 1.0 for e in experts]
        return torch.tensor(factors, device=self._device)

    def _autocast(self) -> contextlib.AbstractContextManager[Any]:
        if self._device.type == "cuda" and torch.cuda.is_bf16_supported():
            return torch.autocast("cuda", dtype=torch.bfloat16)
        return contextlib.nullcontext()
