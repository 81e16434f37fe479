"""Tokens per second of forward and backward against transformers' FlexOlmo, same weights.

    .venv/bin/python tests/benchmarks/bench_moe.py

Both models take turns in the same process and on one thread; each step's time is the best of
several, so a noisy machine hurts both alike. Prints one JSON line.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import FlexOlmoConfig, FlexOlmoForCausalLM

from swarm.model.config import ModelConfig
from swarm.model.hf import hf_config, hf_tensors
from swarm.model.transformer import Transformer

BATCH, LENGTH, REPEATS = 16, 128, 12


def step(forward: Callable[[Tensor], Tensor], tokens: Tensor, parameters: list[Tensor]) -> float:
    """Seconds of one forward and backward."""
    for parameter in parameters:
        parameter.grad = None
    start = time.perf_counter()
    logits = forward(tokens[:, :-1])
    F.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten()).backward()
    return time.perf_counter() - start


def main() -> None:
    """Measure and print."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    config = ModelConfig(d_model=128, num_layers=4, d_ff=256)
    ours = Transformer(config)
    theirs = FlexOlmoForCausalLM(FlexOlmoConfig(**hf_config(config))).train()
    theirs.load_state_dict({k: torch.from_numpy(v) for k, v in hf_tensors(ours).items()})
    held = Transformer(config, experts=[0, 1])
    models = {
        "ours": (lambda x: ours(x).logits_BTV, list(ours.parameters())),
        "transformers": (lambda x: theirs(x, use_cache=False).logits, list(theirs.parameters())),
        "ours_held_2": (lambda x: held(x).logits_BTV, list(held.parameters())),
    }
    tokens = torch.randint(0, config.vocab_size, (BATCH, LENGTH + 1))
    best = dict.fromkeys(models, float("inf"))
    for _ in range(REPEATS):
        for name, (forward, parameters) in models.items():
            best[name] = min(best[name], step(forward, tokens, parameters))
    speed = {f"{name}_tokens_per_s": round(BATCH * LENGTH / s) for name, s in best.items()}
    ratio = round(best["transformers"] / best["ours"], 2)
    print(json.dumps({"bench": "moe_forward_backward", **speed, "ratio": ratio}))


if __name__ == "__main__":
    main()
