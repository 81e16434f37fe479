"""Router calibration: rows that were trained against two experts learn to choose among all.

Held-only peers never compare their experts with those of others, so the assembled model's routers
have to learn it: for a few steps, on text of all domains, with everything else frozen.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F

from swarm.data import Sampler
from swarm.model.transformer import Transformer

LEARNING_RATE = 1e-2


def calibrate_routers(model: Transformer, samplers: Sequence[Sampler], steps: int) -> int:
    """Train the router rows of `model` for `steps` steps of a batch of each sampler.

    Returns the tokens that it took.
    """
    model.requires_grad_(False)
    rows = [row for layer in model.moe_layers for row in layer.gate.weight.values()]
    for row in rows:
        row.requires_grad_(True)
    optimizer = torch.optim.AdamW(rows, lr=LEARNING_RATE, weight_decay=0.0)
    tokens = 0
    for _ in range(steps):
        batches = [torch.from_numpy(sampler.next_batch()) for sampler in samplers]
        batch_BT = torch.cat(batches)
        logits_NV = model(batch_BT[:, :-1]).logits_BTV.flatten(0, 1)
        optimizer.zero_grad(set_to_none=True)
        F.cross_entropy(logits_NV, batch_BT[:, 1:].flatten()).backward()
        optimizer.step()
        tokens += batch_BT[:, 1:].numel()
    return tokens
