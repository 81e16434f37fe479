"""A tuned router: the experts' rows and biases, trained together on public proxy text.

    tuning = tune_router(base, experts, [proxy_law, proxy_forum], TuningRecipe(steps=200))
    tuned = tuning.apply(model, base.id, expert_ids)     # raises TUNING_MISMATCH for another set

It is kept apart from the weights, because each tuned row depends on the other experts that were
there: when one is withdrawn, the tuning goes with it, and what is left is what the owners made
(FlexOlmo 3.3.2 tunes in place, so its opt-out is not clean).
"""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import safetensors.numpy
import torch
import torch.nn.functional as F
from torch import nn

from swarm.data.corpus import Corpus
from swarm.data.sampler import Sampler
from swarm.errors import Code, SwarmError
from swarm.experts.artifact import Expert
from swarm.experts.base import Base
from swarm.experts.mixture import in_order, mixture
from swarm.experts.safe_files import parse_tensors, read_json
from swarm.files import write_atomic
from swarm.hashing import bulk_hash
from swarm.model.transformer import Transformer

TUNING_FILE = "tuning.json"
TUNING_WEIGHTS = "tuning.safetensors"
F32 = npt.NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class TuningRecipe:
    """How a router is tuned."""

    steps: int = 200
    batch_size: int = 16
    sequence_length: int = 128
    learning_rate: float = 1e-3
    seed: int = 0


@dataclass(frozen=True)
class RouterTuning:
    """Rows and biases by parameter name, for exactly the experts `experts` (ids by place)."""

    base: str
    experts: tuple[str, ...]
    tuned: Mapping[str, F32]

    @torch.no_grad()
    def apply(self, model: Transformer, base: str, experts: Sequence[str]) -> Transformer:
        """A copy of `model`, a mixture of `base` and `experts` (ids by place), with tuned router.

        Raises `TUNING_MISMATCH` when the tuning was made for others.
        """
        model = copy.deepcopy(model)
        parameters = dict(model.named_parameters())
        fits = (base, tuple(experts)) == (self.base, self.experts)
        if not fits or not self.tuned.keys() <= parameters.keys():
            raise SwarmError(
                Code.TUNING_MISMATCH,
                f"the router was tuned for {len(self.experts)} other experts or another base",
                "tune it again for this set, or assemble without",
            )
        for name, values in self.tuned.items():
            parameters[name].copy_(torch.from_numpy(values.copy()))
        return model


def tune_router(
    base: Base,
    experts: Sequence[Expert],
    proxies: Sequence[Corpus],
    recipe: TuningRecipe,
    top_k: int | None = None,
    on_step: Callable[[int, float], None] = lambda step, loss: None,
    margin: float | None = None,
) -> RouterTuning:
    """Train rows and biases of the owners' experts on public text, one corpus after the other.

    The base's rows stay: they are the anchor. No balance loss: the text decides. `margin` as for
    the `mixture` to begin with. Raises `USAGE` without experts or text, `DATA_EMPTY` for too short
    a text.
    """
    if not experts or not proxies:
        raise SwarmError(Code.USAGE, "tuning a router needs experts and proxy text")
    model = mixture(base, experts, top_k, margin).requires_grad_(False)
    own = _router_parameters(model, base.size)
    samplers = [
        Sampler(corpus, recipe.batch_size, recipe.sequence_length, recipe.seed)
        for corpus in proxies
    ]
    adam = torch.optim.Adam(own.values(), lr=recipe.learning_rate)
    for step in range(recipe.steps):
        batch_BT = torch.from_numpy(samplers[step % len(samplers)].next_batch())
        logits_BTV = model(batch_BT[:, :-1]).logits_BTV
        loss = F.cross_entropy(logits_BTV.flatten(0, 1), batch_BT[:, 1:].flatten())
        adam.zero_grad(set_to_none=True)
        torch.autograd.backward(loss)
        adam.step()
        on_step(step + 1, loss.item())
    tuned = {name: value.detach().numpy().copy() for name, value in own.items()}
    return RouterTuning(base.id, tuple(e.id for e in in_order(experts)), tuned)


def save_tuning(tuning: RouterTuning, directory: Path) -> None:
    """Write `tuning.safetensors` and `tuning.json`. Raises `DISK_FULL`, `DIR_NOT_WRITABLE`."""
    weights = safetensors.numpy.save(dict(tuning.tuned))
    content = {
        "base": tuning.base,
        "experts": list(tuning.experts),
        "weights": bulk_hash(weights).hex(),
    }
    write_atomic(directory / TUNING_WEIGHTS, weights)
    text = json.dumps(content, indent=2, sort_keys=True) + "\n"
    write_atomic(directory / TUNING_FILE, text.encode())


def load_tuning(directory: Path) -> RouterTuning | None:
    """The tuning in a directory, if there is one. Raises `MODEL_UNREADABLE` when it is damaged."""
    if not (directory / TUNING_FILE).exists():
        return None
    content = read_json(directory / TUNING_FILE, Code.MODEL_UNREADABLE)
    try:
        weights = (directory / TUNING_WEIGHTS).read_bytes()
        if bulk_hash(weights).hex() != content["weights"]:
            raise ValueError(f"{TUNING_WEIGHTS} does not have its hash")
        tuned = parse_tensors(weights, TUNING_WEIGHTS)
        return RouterTuning(str(content["base"]), tuple(map(str, content["experts"])), tuned)
    except (OSError, KeyError, TypeError, ValueError) as error:
        raise SwarmError(
            Code.MODEL_UNREADABLE,
            f"{directory / TUNING_FILE}: {error}",
            "remove both tuning files; the assembly works without",
        ) from error


def _router_parameters(model: Transformer, base_size: int) -> dict[str, nn.Parameter]:
    chosen: dict[str, nn.Parameter] = {}
    for name, parameter in model.named_parameters():
        if ".mlp.gate." in name and int(name.rpartition(".")[2]) >= base_size:
            parameter.requires_grad_(True)
            chosen[name] = parameter
    return chosen
