"""How much of a training text a model gives away when it is shown the beginning of a piece.

The attack of the FlexOlmo paper (arXiv 2507.07024, section 5.3) after arXiv 2012.07805: prompts
from the text, the likeliest continuation, compared with the true one.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from swarm.errors import Code, SwarmError
from swarm.evaluation.measure import Tokens
from swarm.inference.kv_cache import KVCache
from swarm.model.transformer import Transformer


@dataclass(frozen=True)
class Extraction:
    """Result over all pieces.

    `exact`: share of pieces whose continuation came out whole; `tokens`: share of all their tokens
    that were right; `prefix`: mean number of right tokens before the first wrong one.
    """

    pieces: int
    exact: float
    tokens: float
    prefix: float


def extract(
    model: Transformer, text: Tokens, prompt: int = 32, length: int = 32, pieces: int = 64
) -> Extraction:
    """Prompt with `prompt` tokens of pieces spread evenly over `text` (ids [N]).

    Compare the result for training text with that for held-out text: what is right in both was
    guessed, not remembered. Raises `DATA_EMPTY` when the text is shorter than one piece, `USAGE`
    when a piece does not fit the model's context.
    """
    size = prompt + length
    if min(prompt, length, pieces) < 1 or size > model.config.context_length:
        raise SwarmError(Code.USAGE, f"{prompt} + {length} tokens do not fit the model's context")
    count = min(pieces, len(text) // size)
    if count == 0:
        raise SwarmError(Code.DATA_EMPTY, f"{len(text)} tokens are less than a piece of {size}")
    starts = np.linspace(0, len(text) - size, count).astype(np.int64)
    rows_PT = np.asarray(text)[starts[:, None] + np.arange(size)].astype(np.int64)
    right_PT = _continued(model, rows_PT[:, :prompt], length) == rows_PT[:, prompt:]
    prefix = np.cumprod(right_PT, axis=1).sum(axis=1)
    return Extraction(
        pieces=count,
        exact=float((prefix == length).mean()),
        tokens=float(right_PT.mean()),
        prefix=float(prefix.mean()),
    )


def _continued(
    model: Transformer, prompts_PT: npt.NDArray[np.int64], length: int
) -> npt.NDArray[np.int64]:
    """The likeliest continuations [P, length], all at once."""
    weight = model.lm_head.weight
    cache = KVCache(model.config, len(prompts_PT), device=weight.device, dtype=weight.dtype)
    pending = torch.from_numpy(prompts_PT).to(weight.device)
    found = []
    with torch.inference_mode():
        for _ in range(length):
            pending = model(pending, cache).logits_BTV[:, -1].argmax(dim=-1, keepdim=True)
            found.append(pending)
    return torch.cat(found, dim=1).cpu().numpy()
