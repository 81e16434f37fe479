"""Proxy text: the public documents that are most like an owner's, and unlike each other.

    chosen = choose_proxies(own_documents, public_documents, count=200)      # places in the public

A router is tuned on such text in the place of the owners' own (FlexOlmo, arXiv 2507.07024, section
3.3.2). A classifier of own against public text says how fitting a document is; of the most fitting
ones a determinantal point process takes a set that also covers what there is (MetaMoE, arXiv
2605.14289). Documents are seen as counts of hashed n-grams of bytes, so no model is needed. Equal
arguments give equal choices on one machine. Which documents are chosen tells something of the
owner's text.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F

from swarm.data.ngrams import hashed_ngrams
from swarm.errors import Code, SwarmError

F32 = npt.NDArray[np.float32]

BUCKET_BITS = 12
SEEN_BYTES = 20_000  # of a document
LEARNED_DOCUMENTS = 2000  # of each side that the classifier learns from
POOL = 3000  # most fitting documents among which the diverse ones are looked for (MetaMoE)
DECAY = 1e-3  # of the classifier's weights


def choose_proxies(own: Sequence[bytes], public: Sequence[bytes], count: int) -> list[int]:
    """Places in `public` of at most `count` documents, the most telling first.

    Each half of the public documents is judged by a classifier that learned from the other half.
    Raises `DATA_EMPTY` for fewer than two documents on either side.
    """
    if len(own) < 2 or len(public) < 2:
        raise SwarmError(
            Code.DATA_EMPTY, f"{len(own)} own and {len(public)} public documents are too few"
        )
    own_ND = seen(_some(own, LEARNED_DOCUMENTS))
    public_ND = seen(public)
    fitting_N = np.empty(len(public), np.float32)
    halves = np.arange(len(public)) % 2
    for half in (0, 1):
        learned_ND = public_ND[halves != half]
        step = -(-len(learned_ND) // LEARNED_DOCUMENTS)
        weight_D, bias = classifier(own_ND, learned_ND[::step])
        fitting_N[halves == half] = public_ND[halves == half] @ weight_D + bias
    pool = np.argsort(-fitting_N, kind="stable")[:POOL]
    relevance_N = 1 / (1 + np.exp(-fitting_N[pool]))
    return [int(pool[place]) for place in diverse(relevance_N, public_ND[pool], count)]


def seen(documents: Sequence[bytes]) -> F32:
    """Features of the beginnings of documents, [N, D]."""
    return hashed_ngrams([document[:SEEN_BYTES] for document in documents], BUCKET_BITS)


def classifier(own_ND: F32, public_ND: F32) -> tuple[F32, float]:
    """Logistic regression, both sides weighing the same: weight [D] and bias of the log-odds."""
    x_ND = torch.from_numpy(np.concatenate([own_ND, public_ND]))
    sizes = (len(own_ND), len(public_ND))
    label_N = torch.cat([torch.ones(sizes[0]), torch.zeros(sizes[1])])
    share_N = torch.cat([torch.full((size,), 0.5 / size) for size in sizes])
    weight_D = torch.zeros(x_ND.shape[1], requires_grad=True)
    bias = torch.zeros((), requires_grad=True)
    optimizer = torch.optim.LBFGS([weight_D, bias], max_iter=30, line_search_fn="strong_wolfe")

    def loss() -> torch.Tensor:
        optimizer.zero_grad()
        odds_N = x_ND @ weight_D + bias
        error = F.binary_cross_entropy_with_logits(odds_N, label_N, share_N, reduction="sum")
        total = error + DECAY * weight_D.square().sum()
        torch.autograd.backward(total)
        return total

    optimizer.step(loss)  # type: ignore[no-untyped-call]
    return weight_D.detach().numpy(), float(bias.detach())


def diverse(relevance_N: npt.NDArray[np.floating], features_ND: F32, count: int) -> list[int]:
    """Greedy most probable set of a process with the kernel diag(r) X X' diag(r).

    The fast form of Chen et al. (arXiv 1709.05135). Stops early when what is left adds nothing.
    """
    count = min(count, len(features_ND))
    gain_N = np.square(relevance_N * np.linalg.norm(features_ND, axis=1)).astype(np.float64)
    taken_KN = np.zeros((count, len(features_ND)))
    chosen: list[int] = []
    for k in range(count):
        best = int(np.argmax(gain_N))
        if gain_N[best] < 1e-10:
            break
        row_N = relevance_N[best] * relevance_N * (features_ND @ features_ND[best])
        row_N = (row_N - taken_KN[:k, best] @ taken_KN[:k]) / np.sqrt(gain_N[best])
        taken_KN[k] = row_N
        gain_N = gain_N - np.square(row_N)
        gain_N[best] = -np.inf
        chosen.append(best)
    return chosen


def _some(documents: Sequence[bytes], count: int) -> list[bytes]:
    """At most `count` of them, evenly spread."""
    places = np.linspace(0, len(documents) - 1, min(count, len(documents))).astype(int)
    return [documents[place] for place in places]
