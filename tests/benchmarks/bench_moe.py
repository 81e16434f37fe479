"""Tokens per second of training and decoding against transformers' FlexOlmo, same weights.

    .venv/bin/python tests/benchmarks/bench_moe.py

Both models take turns in the same process, on one thread and then on two; each step's time is the
best of several, so a noisy machine hurts both alike. Prints one JSON line for each.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import FlexOlmoConfig, FlexOlmoForCausalLM

from swarm.inference.engine import generate
from swarm.model.config import ModelConfig
from swarm.model.hf import hf_config, hf_tensors
from swarm.model.transformer import Transformer

BATCH, LENGTH, DECODED, REPEATS = 16, 128, 64, 12


def step(forward: Callable[[Tensor], Tensor], tokens: Tensor, parameters: list[Tensor]) -> float:
    """Seconds of one forward and backward."""
    for parameter in parameters:
        parameter.grad = None
    start = time.perf_counter()
    logits = forward(tokens[:, :-1])
    F.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten()).backward()
    return time.perf_counter() - start


def decode(stream: Callable[[], object]) -> float:
    """Seconds of a greedy continuation."""
    start = time.perf_counter()
    stream()
    return time.perf_counter() - start


def main() -> None:
    """Measure and print."""
    for threads in (1, 2):
        print(json.dumps(measure(threads)))


def measure(threads: int) -> dict[str, Any]:
    """Both on `threads` threads."""
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    config = ModelConfig(d_model=128, num_layers=4, d_ff=256)
    ours = Transformer(config)
    theirs = FlexOlmoForCausalLM(FlexOlmoConfig(**hf_config(config)))
    theirs.load_state_dict({k: torch.from_numpy(v) for k, v in hf_tensors(ours).items()})
    held = Transformer(config, experts=[0, 1])
    frozen = Transformer(config)
    for name, parameter in frozen.named_parameters():
        parameter.requires_grad_(".experts." not in name or ".experts.0." in name)
    tokens = torch.randint(0, 256, (BATCH, LENGTH + 1))
    prompt = tokens[:1, :16]
    steps = {
        "ours": (lambda x: ours(x).logits_BTV, list(ours.parameters())),
        "transformers": (lambda x: theirs(x, use_cache=False).logits, list(theirs.parameters())),
        "ours_1_of_8_trained": (lambda x: frozen(x).logits_BTV, list(frozen.parameters())),
        "ours_held_2": (lambda x: held(x).logits_BTV, list(held.parameters())),
    }
    streams = {
        "ours": lambda: list(generate(ours, prompt[0].tolist(), DECODED, temperature=0)),
        "transformers": lambda: theirs.generate(
            prompt, do_sample=False, min_new_tokens=DECODED, max_new_tokens=DECODED
        ),
    }
    step_s, decode_s = dict.fromkeys(steps, math.inf), dict.fromkeys(streams, math.inf)
    for _ in range(REPEATS):
        for name, (forward, parameters) in steps.items():
            step_s[name] = min(step_s[name], step(forward, tokens, parameters))
        for name, stream in streams.items():
            decode_s[name] = min(decode_s[name], decode(stream))
    return {
        "bench": "moe",
        "threads": threads,
        "train_tokens_per_s": {name: round(BATCH * LENGTH / s) for name, s in step_s.items()},
        "train_ratio": round(step_s["transformers"] / step_s["ours"], 2),
        "decode_tokens_per_s": {name: round(DECODED / s) for name, s in decode_s.items()},
        "decode_ratio": round(decode_s["transformers"] / decode_s["ours"], 2),
    }


if __name__ == "__main__":
    main()
