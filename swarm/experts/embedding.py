"""Domain embeddings: what a text is about, in numbers that router rows are made of.

    space = make_space(base_model, public_tokens)        # once, kept in the base artifact
    embedding_LP = embed(base_model, space, own_tokens)  # zero is "like the public text"
    rows_LD, bias_L = router_start(space, embedding_LP)

An embedding is the mean hidden state of the base model before each layer's router, relative to the
public text and whitened by its covariance. In raw hidden states all domains look alike (cosines
near 1, which is why FlexOlmo needed a separate embedder); whitened, a row and its bias are the
log-odds of the domain against the public text under Gaussians of one covariance (linear
discriminant analysis), so independently made rows compose. Letters in names: L layers, D d_model,
P dimensions of the embedding.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from swarm.data.ngrams import hashed_ngrams
from swarm.errors import Code, SwarmError
from swarm.model.transformer import Transformer

F32 = npt.NDArray[np.float32]
Tokens = npt.NDArray[np.integer[Any]]

MAX_DIMENSIONS = 256
RIDGE = 0.1  # of the mean variance; directions that the public text hardly uses are noise
EMBED_TOKENS = 200_000
NGRAM_BITS = 9  # 512 buckets
NGRAM_RIDGE = 0.1  # of the mean variance of a bucket
BYTES = 256  # token ids below are one byte each, the others none
_BATCH = 16


@dataclass(frozen=True)
class EmbeddingSpace:
    """Mean hidden state of the public text [L, D] and the fixed projection [L, P, D].

    The projection whitens, and is orthogonal to the mean: what all texts share says nothing, and
    rows made of it need no positive bias to make up for it. With `ngrams_LFD` a text's mean state
    is not measured but told from its hashed n-grams and a constant, F of them, by a ridge
    regression over windows of public text.
    """

    mean_LD: F32
    projection_LPD: F32
    ngrams_LFD: F32 | None = None

    @staticmethod
    def most_bytes(model: Transformer) -> int:
        """Upper bound of what the arrays of any space of `model` take."""
        rows = 1 + MAX_DIMENSIONS + (1 << NGRAM_BITS) + 1
        return 4 * rows * model.config.num_layers * model.config.d_model

    def fits(self, model: Transformer) -> bool:
        """Whether the arrays have the shapes that the model asks for."""
        layers, width = model.config.num_layers, model.config.d_model
        dimensions = self.projection_LPD.shape[1:2]
        return (
            self.mean_LD.shape == (layers, width)
            and self.projection_LPD.shape == (layers, *dimensions, width)
            and (
                self.ngrams_LFD is None
                or self.ngrams_LFD.shape == (layers, (1 << NGRAM_BITS) + 1, width)
            )
        )


def make_space(
    model: Transformer,
    public_tokens: Tokens,
    limit_tokens: int = EMBED_TOKENS,
    *,
    ngrams: bool = False,
) -> EmbeddingSpace:
    """The space of the base `model`, from windows spread evenly over public text, ids [N].

    With `ngrams` texts are embedded by their n-grams. Raises `DATA_EMPTY` when there are fewer
    than two tokens.
    """
    shape = (model.config.num_layers, model.config.d_model)
    sum_LD = torch.zeros(shape, dtype=torch.float64)
    square_LDD = torch.zeros(*shape, shape[1], dtype=torch.float64)
    count = 0
    for x_LND in _router_inputs(model, public_tokens, limit_tokens):
        x = x_LND.double()
        sum_LD += x.sum(dim=1)
        square_LDD += x.transpose(1, 2) @ x
        count += x.shape[1]
    mean_LD = sum_LD / count
    covariance = square_LDD / count - mean_LD[:, :, None] * mean_LD[:, None, :]
    direction = mean_LD / mean_LD.norm(dim=1, keepdim=True).clamp_min(1e-12)
    without_mean = torch.eye(mean_LD.shape[1]) - direction[:, :, None] * direction[:, None, :]
    values, vectors = torch.linalg.eigh(without_mean @ covariance @ without_mean)
    kept = min(MAX_DIMENSIONS, mean_LD.shape[1] - 1)  # one direction is the mean's
    values, vectors = values[:, -kept:].clamp_min(0), vectors[:, :, -kept:]
    floor = RIDGE * values.mean(dim=1, keepdim=True) + 1e-12
    projection_LPD = vectors.transpose(1, 2) / (values + floor).sqrt()[:, :, None]
    fitted = _fit_ngrams(model, public_tokens, limit_tokens, mean_LD.numpy()) if ngrams else None
    return EmbeddingSpace(
        mean_LD.float().numpy(), projection_LPD.float().contiguous().numpy(), fitted
    )


def embed(
    model: Transformer, space: EmbeddingSpace, tokens: Tokens, limit_tokens: int = EMBED_TOKENS
) -> F32:
    """Embedding [L, P] of a text, ids [N]. Raises `DATA_EMPTY` for fewer than two tokens."""
    if space.ngrams_LFD is not None:
        windows = [_ngrams(batch_BT) for batch_BT in _windows(model, tokens, limit_tokens)]
        mean_LD = np.concatenate(windows).mean(axis=0) @ space.ngrams_LFD
    else:
        mean_LD = _mean_state(model, space, tokens, limit_tokens)
    embedding_LP: F32 = np.einsum("lpd,ld->lp", space.projection_LPD, mean_LD).astype(np.float32)
    return embedding_LP


def _mean_state(
    model: Transformer, space: EmbeddingSpace, tokens: Tokens, limit_tokens: int
) -> npt.NDArray[np.float64]:
    sum_LD = torch.zeros(space.mean_LD.shape, dtype=torch.float64)
    count = 0
    for x_LND in _router_inputs(model, tokens, limit_tokens):
        sum_LD += x_LND.double().sum(dim=1)
        count += x_LND.shape[1]
    mean_LD: npt.NDArray[np.float64] = (sum_LD / count).numpy()
    return mean_LD


def _fit_ngrams(
    model: Transformer, tokens: Tokens, limit_tokens: int, mean_LD: npt.NDArray[np.float64]
) -> F32:
    """Coefficients [L, F, D] from windows' n-grams to their mean states; the last is a constant."""
    features, states = [], []
    with _recording(model) as take, torch.inference_mode():
        for batch_BT in _windows(model, tokens, limit_tokens):
            model(batch_BT)
            seen_LND = torch.stack([x.double().cpu() for x in take()])
            seen_LBTD = seen_LND.view(len(seen_LND), *batch_BT.shape, -1)
            states.append(seen_LBTD.mean(dim=2).numpy())
            features.append(_ngrams(batch_BT))
    x_WF, y_LWD = np.concatenate(features)[:, :-1], np.concatenate(states, axis=1)
    center_F = x_WF.mean(axis=0)
    centered_WF = x_WF - center_F
    square_FF = centered_WF.T @ centered_WF
    ridge = NGRAM_RIDGE * np.trace(square_FF) / len(square_FF) + 1e-12
    inverse_FW = np.linalg.solve(square_FF + ridge * np.eye(len(square_FF)), centered_WF.T)
    slope_LFD = inverse_FW @ (y_LWD - mean_LD[:, None, :])
    constant_L1D = (mean_LD - center_F @ slope_LFD)[:, None, :]
    return np.concatenate([slope_LFD, constant_L1D], axis=1).astype(np.float32)


def _ngrams(batch_BT: Tensor) -> npt.NDArray[np.float64]:
    """Features [B, F] of windows, a constant 1 behind the n-grams."""
    texts = [row_T[row_T < BYTES].to(torch.uint8).numpy().tobytes() for row_T in batch_BT.cpu()]
    counts_BF = hashed_ngrams(texts, NGRAM_BITS)
    return np.concatenate([counts_BF, np.ones((len(texts), 1))], axis=1, dtype=np.float64)


def router_start(
    space: EmbeddingSpace, embedding_LP: F32, scale: float = 1.0, margin: float = 0.0
) -> tuple[F32, F32]:
    """Rows [L, D] to add to the anchor's, and biases [L], none of them positive.

    `scale` sharpens or softens the log-odds; `margin` is taken off each bias, so that an expert
    is left alone with what it is surer of (FlexOlmo's negative bias).
    """
    rows = scale * np.einsum("lpd,lp->ld", space.projection_LPD, embedding_LP)
    bias = -0.5 * scale * np.square(embedding_LP).sum(axis=1) - margin
    return rows.astype(np.float32), bias.astype(np.float32)


def most_used(
    model: Transformer, tokens: Tokens, limit_tokens: int = EMBED_TOKENS
) -> tuple[int, ...]:
    """By layer, the expert that most of a text, ids [N], goes to. Raises `DATA_EMPTY`."""
    if model.config.num_experts == 1:
        return (0,) * model.config.num_layers
    counts_LE: Any = 0
    with torch.inference_mode():
        for batch_BT in _windows(model, tokens, limit_tokens):
            routing = model(batch_BT).routing
            counts_LE = counts_LE + torch.stack([layer.counts_E for layer in routing])
    return tuple(counts_LE.argmax(dim=1).tolist())


def _router_inputs(model: Transformer, tokens: Tokens, limit_tokens: int) -> Iterator[Tensor]:
    """What the routers of all layers see, [L, N, D] on the CPU, batch by batch."""
    with _recording(model) as take, torch.inference_mode():
        for batch_BT in _windows(model, tokens, limit_tokens):
            model(batch_BT)
            yield torch.stack([x.float().cpu() for x in take()])


def _windows(model: Transformer, tokens: Tokens, limit_tokens: int) -> Iterator[Tensor]:
    """Batches [B, T] of at most `limit_tokens`, taken from all over the text."""
    length = min(model.config.context_length, len(tokens))
    if length < 2:
        raise SwarmError(Code.DATA_EMPTY, f"{len(tokens)} tokens are no text to embed")
    rows = max(1, min(len(tokens), limit_tokens) // length)
    starts = np.linspace(0, len(tokens) - length, rows).astype(np.int64)
    for some in np.array_split(starts, -(-rows // _BATCH)):
        windows_BT = tokens[some[:, None] + np.arange(length)].astype(np.int64)
        yield torch.from_numpy(windows_BT).to(model.lm_head.weight.device)


@contextmanager
def _recording(model: Transformer) -> Iterator[Callable[[], list[Tensor]]]:
    seen: list[Tensor] = []

    def note(module: torch.nn.Module, inputs: tuple[Tensor, ...]) -> None:
        seen.append(inputs[0])

    def take() -> list[Tensor]:
        taken = list(seen)
        seen.clear()
        return taken

    hooks = [moe.gate.register_forward_pre_hook(note) for moe in model.moe_layers]
    try:
        yield take
    finally:
        for hook in hooks:
            hook.remove()
