"""Bits per byte and routing shares of models on held-out tokens.

    bits_per_byte(model, corpus.valid, sequence_length=128)
    table = evaluate({"initial": a, "assembled": b}, {"law": law.valid, "code": code.valid})
    table.bits_per_byte["law"]["assembled"]

All results are plain numbers; formatting is the application's.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from swarm.errors import Code, SwarmError
from swarm.model.config import BYTE_VOCAB
from swarm.model.transformer import Transformer

Tokens = npt.NDArray[np.integer]
Shares = npt.NDArray[np.float64]
_BYTES = 256  # token ids below are one byte each, the others none


@dataclass(frozen=True)
class Measurement:
    """What one pass over a text gives.

    `nats` is the total loss of `tokens` predicted tokens, of which `bytes` stand for a byte;
    `counts_le` [L, E] are the tokens that each layer's router sent to each expert.
    """

    nats: float
    tokens: int
    bytes: int
    counts_le: npt.NDArray[np.int64]

    @property
    def bits_per_byte(self) -> float:
        """Bits to encode one byte of the text, special tokens included."""
        return self.nats / math.log(2) / self.bytes

    @property
    def routing_shares(self) -> Shares:
        """[L, E], each row sums to 1."""
        return np.asarray(self.counts_le / self.counts_le.sum(axis=1, keepdims=True))


@dataclass(frozen=True)
class Comparison:
    """Models by domains: `bits_per_byte[domain][model]`, `routing[domain][model]` as [L, E]."""

    domains: tuple[str, ...]
    models: tuple[str, ...]
    bits_per_byte: Mapping[str, Mapping[str, float]]
    routing: Mapping[str, Mapping[str, Shares]]

    def mean(self, model: str) -> float:
        """Bits per byte of `model`, averaged over the domains."""
        return sum(self.bits_per_byte[domain][model] for domain in self.domains) / len(self.domains)


def measure(
    model: Transformer,
    tokens: Tokens,
    sequence_length: int | None = None,
    batch_size: int = 16,
    limit_tokens: int | None = None,
) -> Measurement:
    """Predict every token but the first exactly once, in windows of `sequence_length` inputs.

    `tokens`: ids [N] of the byte tokenizer; `sequence_length` is the model's context by default;
    at most `limit_tokens` tokens are predicted. The result does not depend on `batch_size` but
    for rounding. Raises `DATA_EMPTY` when there is no byte to predict.
    """
    if model.config.vocab_size != BYTE_VOCAB:
        raise SwarmError(Code.USAGE, "bits per byte needs a model with the byte tokenizer")
    length = sequence_length or model.config.context_length
    if limit_tokens is not None:
        tokens = tokens[: limit_tokens + 1]
    byte_count = int((tokens[1:] < _BYTES).sum())
    if byte_count == 0:
        raise SwarmError(Code.DATA_EMPTY, f"nothing to predict in {len(tokens)} tokens")
    device = model.lm_head.weight.device
    nats = torch.zeros((), dtype=torch.float64)
    shape = (model.config.num_layers, model.config.num_experts)
    counts_le = torch.zeros(shape, dtype=torch.int64)
    with torch.inference_mode():
        for window_BT in _windows(tokens, length, batch_size):
            window_BT = window_BT.to(device)
            output = model(window_BT[:, :-1])
            losses = F.cross_entropy(
                output.logits_BTV.flatten(0, 1).float(),
                window_BT[:, 1:].flatten(),
                reduction="none",
            )
            nats += losses.double().sum().cpu()
            counts_le += torch.stack([layer.counts_E for layer in output.routing]).cpu()
    return Measurement(float(nats), len(tokens) - 1, byte_count, counts_le.numpy())


def bits_per_byte(
    model: Transformer,
    tokens: Tokens,
    sequence_length: int | None = None,
    batch_size: int = 16,
    limit_tokens: int | None = None,
) -> float:
    """Bits per byte of `tokens` [N]; arguments and errors as `measure`."""
    return measure(model, tokens, sequence_length, batch_size, limit_tokens).bits_per_byte


def routing_shares(
    model: Transformer,
    tokens: Tokens,
    sequence_length: int | None = None,
    batch_size: int = 16,
    limit_tokens: int | None = None,
) -> Shares:
    """Share of the routed tokens that each expert gets, [L, E], rows sum to 1; as `measure`."""
    return measure(model, tokens, sequence_length, batch_size, limit_tokens).routing_shares


def token_losses(
    model: Transformer, tokens: Tokens, sequence_length: int, batch_size: int = 16
) -> npt.NDArray[np.float64]:
    """Loss in nats of every token but the first, [windows, sequence_length]; a rest is left out.

    Raises `DATA_EMPTY` when `tokens` [N] do not fill one window.
    """
    full = (len(tokens) - 1) // sequence_length
    if full < 1:
        raise SwarmError(Code.DATA_EMPTY, f"{len(tokens)} tokens fill no window")
    whole = tokens[: full * sequence_length + 1]
    with torch.inference_mode():
        rows = [
            F.cross_entropy(
                model(window_BT[:, :-1]).logits_BTV.float().transpose(1, 2),
                window_BT[:, 1:],
                reduction="none",
            )
            for window_BT in _windows(whole, sequence_length, batch_size)
        ]
    return torch.cat(rows).double().numpy()


def evaluate(
    models: Mapping[str, Transformer],
    corpora: Mapping[str, Tokens],
    sequence_length: int | None = None,
    batch_size: int = 16,
    limit_tokens: int | None = None,
) -> Comparison:
    """Every model on every domain; `corpora` are held-out token ids [N] by domain."""
    results = {
        domain: {
            name: measure(model, tokens, sequence_length, batch_size, limit_tokens)
            for name, model in models.items()
        }
        for domain, tokens in corpora.items()
    }
    return Comparison(
        domains=tuple(corpora),
        models=tuple(models),
        bits_per_byte={
            domain: {name: result.bits_per_byte for name, result in row.items()}
            for domain, row in results.items()
        },
        routing={
            domain: {name: result.routing_shares for name, result in row.items()}
            for domain, row in results.items()
        },
    )


def _windows(tokens: Tokens, length: int, batch_size: int) -> Iterator[Tensor]:
    """Batches [B, length + 1] that overlap by one token; the last one is a shorter row."""
    full = (len(tokens) - 1) // length
    for start in range(0, full, batch_size):
        rows = range(start, min(start + batch_size, full))
        batch = np.stack([tokens[row * length : (row + 1) * length + 1] for row in rows])
        yield torch.from_numpy(batch.astype(np.int64))
    rest = tokens[full * length :]
    if len(rest) > 1:
        yield torch.from_numpy(rest.astype(np.int64))[None]
