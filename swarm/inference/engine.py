"""Token-by-token generation with a key/value cache.

generator = torch.Generator().manual_seed(0)
for token in generate(model, prompt, max_new_tokens=200, generator=generator, stop={EOS}):
    ...
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence

import torch
from torch import Tensor

from swarm.errors import Code, SwarmError
from swarm.inference.kv_cache import KVCache
from swarm.model.transformer import Transformer


def generate(
    model: Transformer,
    tokens: Sequence[int],
    max_new_tokens: int,
    *,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float = 1.0,
    generator: torch.Generator | None = None,
    stop: Collection[int] = (),
) -> Iterator[int]:
    """Yield up to `max_new_tokens` token ids that continue `tokens`, each as soon as it is known.

    `temperature` 0 always takes the likeliest token; else `generator` (on the CPU) draws among the
    `top_k` likeliest and the smallest set with probability `top_p`. Ends before a token in `stop`.
    A sequence longer than the context goes on with the latest half of the context.

    Raises `USAGE` for an empty prompt, a token outside the vocabulary, or a sampling option out of
    range; all before the first token.
    """
    _check(model, tokens, temperature, top_k, top_p)
    return _stream(model, list(tokens), max_new_tokens, temperature, top_k, top_p, generator, stop)


@torch.inference_mode()
def sample(
    logits_V: Tensor,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float = 1.0,
    generator: torch.Generator | None = None,
) -> int:
    """Draw one token id from the scores of the vocabulary; options as in `generate`."""
    logits_V = logits_V.float().cpu()
    if temperature == 0:
        return int(logits_V.argmax())
    sorted_V, ids_V = (logits_V / temperature).sort(descending=True)
    probs_V = sorted_V.softmax(dim=-1)
    keep = len(probs_V) if top_k is None else top_k
    # A token is kept while the ones before it have less than top_p; the first always is.
    nucleus = int((probs_V.cumsum(dim=-1) - probs_V < top_p).sum())
    probs_V = probs_V[: max(1, min(keep, nucleus))]
    return int(ids_V[torch.multinomial(probs_V, 1, generator=generator)])


def _stream(
    model: Transformer,
    tokens: list[int],
    max_new_tokens: int,
    temperature: float,
    top_k: int | None,
    top_p: float,
    generator: torch.Generator | None,
    stop: Collection[int],
) -> Iterator[int]:
    weight = model.lm_head.weight
    context = model.config.context_length
    cache = KVCache(model.config, device=weight.device, dtype=weight.dtype)
    pending = tokens[-context:]  # not yet in the cache
    for _ in range(max_new_tokens):
        if cache.length + len(pending) > context:
            cache.clear()
            pending = tokens[-max(1, context // 2) :]
        # inference_mode is left before each yield, else it would leak into the caller's code.
        with torch.inference_mode():
            logits_BTV = model(torch.tensor([pending], device=weight.device), cache).logits_BTV
        token = sample(logits_BTV[0, -1], temperature, top_k, top_p, generator)
        if token in stop:
            return
        tokens.append(token)
        pending = [token]
        yield token


def _check(
    model: Transformer, tokens: Sequence[int], temperature: float, top_k: int | None, top_p: float
) -> None:
    vocabulary = model.config.vocab_size
    problems = [
        (len(tokens) == 0, "the prompt is empty"),
        (any(not 0 <= t < vocabulary for t in tokens), f"a token is not in 0..{vocabulary - 1}"),
        (not 0 <= temperature < float("inf"), "temperature must not be negative"),
        (top_k is not None and top_k < 1, "top_k must be at least 1"),
        (not 0 < top_p <= 1, "top_p must be in (0, 1]"),
    ]
    for wrong, problem in problems:
        if wrong:
            raise SwarmError(Code.USAGE, problem)
