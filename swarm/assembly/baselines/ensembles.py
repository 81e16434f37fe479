"""Many models that stay apart: their outputs mixed, or one of them chosen by the prompt.

All work on the models' losses of each token, [J models, W windows, T tokens] in nats, as
`swarm.evaluation.token_losses` gives them: what an ensemble gives to the right token needs no more.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from swarm.errors import Code, SwarmError

F64 = npt.NDArray[np.float64]


def posterior(losses_JWT: F64, top_k: int | None = None) -> F64:
    """Probability of each model before each token, given the window so far, [J, W, T].

    Bayes' rule from equal odds at the start of a window; with `top_k` only so many models keep
    their share (BTM, arXiv 2208.03306, section 3.3). Sums to 1 over the models.
    """
    seen_JWT = np.cumsum(losses_JWT, axis=2) - losses_JWT
    log_JWT = seen_JWT.min(axis=0) - seen_JWT
    weights_JWT = np.exp(log_JWT)
    if top_k is not None and top_k < len(losses_JWT):
        kept = np.argsort(-log_JWT, axis=0, kind="stable")[:top_k]
        mask = np.zeros(losses_JWT.shape, dtype=bool)
        np.put_along_axis(mask, kept, True, axis=0)
        weights_JWT = np.where(mask, weights_JWT, 0.0)
    shares: F64 = weights_JWT / weights_JWT.sum(axis=0)
    return shares


def output_ensemble(losses_JWT: F64, top_k: int | None = None) -> F64:
    """Loss of each token [W, T] when the models' probabilities are mixed by their posterior."""
    mixed = (posterior(losses_JWT, top_k) * np.exp(-losses_JWT)).sum(axis=0)
    losses: F64 = -np.log(mixed)
    return losses


def prompt_routing(losses_JWT: F64, prompt: int, default: int = 0) -> F64:
    """Loss of each token [W, T] when one model answers, chosen by the first `prompt` tokens.

    The prompt itself is read by the model `default`. Raises `USAGE` when a window is no longer
    than the prompt.
    """
    if not 0 < prompt < losses_JWT.shape[2]:
        raise SwarmError(Code.USAGE, f"a prompt of {prompt} tokens leaves nothing of the window")
    best_W = losses_JWT[:, :, :prompt].sum(axis=2).argmin(axis=0)
    windows = np.arange(losses_JWT.shape[1])
    answers_WT = losses_JWT[best_W, windows]
    return np.concatenate([losses_JWT[default, :, :prompt], answers_WT[:, prompt:]], axis=1)
