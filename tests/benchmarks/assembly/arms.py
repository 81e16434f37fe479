"""What is compared. Each arm is a name and what makes its losses on all held-out texts.

for arm in arms(workshop):
    line = arm.line(workshop)
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from swarm.assembly.baselines import btx, output_ensemble, posterior, prompt_routing, soup
from swarm.assembly.router_tuning import TuningRecipe, tune_router
from swarm.data.corpus import Corpus
from swarm.evaluation import token_losses
from swarm.experts.artifact import Expert, ExpertTensors
from swarm.experts.mixture import in_order, margin_of, mixture
from swarm.experts.proxies import choose_proxies
from swarm.model.transformer import Transformer
from swarm.training.low_rank import Decomposed, by_number
from tests.benchmarks.assembly.texts import OWNERS, PUBLIC, PUBLIC_ONE_IN, corpus
from tests.benchmarks.assembly.workshop import Workshop

PROMPT = 32  # tokens of a window by which prompt routing chooses
RANKS = (1, 2, 4, 8, 16, 32)
MARGINS = (0, 1, 2, 3, 4)
TOP_K = 4  # active experts of mixtures that nobody trained whole
TUNING_RATE = 1e-2
Losses = dict[str, np.ndarray]  # by domain, [windows, tokens] in nats


@dataclass(frozen=True)
class Result:
    """Losses by domain and how large the model is; an ensemble counts all its members."""

    losses: Losses
    parameters: int
    active_parameters: int


@dataclass(frozen=True)
class Arm:
    """`make` trains what is missing and measures."""

    name: str
    make: Callable[[Workshop], Result]

    def line(self, workshop: Workshop) -> dict[str, Any]:
        """The arm's JSON line for the workshop's seed."""
        result = self.make(workshop)
        bpb = {
            domain: bits_per_byte(workshop.texts.valid[domain], losses)
            for domain, losses in result.losses.items()
        }
        counted = [bpb[domain] for domain in (*OWNERS, PUBLIC) if domain in bpb]
        return {
            "arm": self.name,
            "seed": workshop.seed,
            "bpb": {domain: round(value, 5) for domain, value in bpb.items()},
            "mean_bpb": round(sum(counted) / len(counted), 5),
            "parameters": result.parameters,
            "active_parameters": result.active_parameters,
        }


def bits_per_byte(tokens: np.ndarray, losses_WT: np.ndarray) -> float:
    """Bits of all predicted tokens for each byte among them."""
    predicted = tokens[1 : losses_WT.size + 1]
    return float(losses_WT.sum()) / math.log(2) / int((predicted < 256).sum())


def arms() -> list[Arm]:
    """All arms, the most telling first."""
    return [
        Arm("base", lambda w: measured(w, w.base().model)),
        Arm("own expert", own_expert),
        Arm("assembly", lambda w: measured(w, assembled(w, w.experts()))),
        Arm("assembly + router tuning", tuned),
        Arm("assembly + router tuning, chosen text", tuned_on_chosen),
        Arm("soup", lambda w: measured(w, soup(w.branches()))),
        Arm("weighted soup", weighted_soup),
        Arm("BTM ensemble", lambda w: ensemble(w, output_ensemble)),
        Arm("BTM ensemble top-2", lambda w: ensemble(w, lambda x: output_ensemble(x, 2))),
        Arm("prompt routing", lambda w: ensemble(w, lambda x: prompt_routing(x, PROMPT))),
        Arm("BTX without pooled data", branch_train_mix),
        Arm("own experts: soup", lambda w: measured(w, soup(beside_base(w)))),
        Arm("own experts: ensemble", lambda w: ensemble(w, output_ensemble, own_members)),
        Arm(
            "own experts: prompt routing",
            lambda w: ensemble(w, lambda x: prompt_routing(x, PROMPT), own_members),
        ),
        Arm("assembly - bias", without_bias),
        Arm(
            "assembly - public text",
            lambda w: measured(w, assembled(w, w.experts_without_public())),
        ),
        Arm(
            "assembly - embedding",
            lambda w: measured(w, assembled(w, w.experts_without_embedding())),
        ),
        Arm("assembly, n-grams", lambda w: measured(w, assembled(w, w.experts_of_ngrams()))),
        Arm("assembly - anchor", lambda w: measured(w, assembled(w, w.experts_without_anchor()))),
        *(Arm(f"assembly margin {m}", functools.partial(margin, margin=m)) for m in MARGINS),
        *(Arm(f"assembly top-{k}", functools.partial(top_k, k=k)) for k in (1, 2, 3, 7)),
        *(Arm(f"assembly without {d}", functools.partial(without, domain=d)) for d in OWNERS),
        *(Arm(f"assembly rank {r}", functools.partial(cut, rank=r)) for r in RANKS),
        Arm("unrestricted MoE", lambda w: measured(w, w.unrestricted(1))),
        Arm("unrestricted MoE, twice the compute", lambda w: measured(w, w.unrestricted(2))),
        Arm("own branch", own_branch),
        *(Arm(f"solo {d}", functools.partial(solo, domain=d)) for d in OWNERS),
    ]


def measured(workshop: Workshop, model: Transformer, domains: Sequence[str] = ()) -> Result:
    """One model on all held-out texts, or on some."""
    valid = workshop.texts.valid
    losses = {
        domain: token_losses(model, valid[domain], workshop.scale.length)
        for domain in domains or valid
    }
    total = sum(p.numel() for p in model.parameters())
    one = sum(p.numel() for p in model.moe_layers[0].experts["0"].parameters())
    idle = model.config.num_layers * (model.config.num_experts - model.config.top_k)
    return Result(losses, total, total - idle * one)


def assembled(
    workshop: Workshop,
    experts: Sequence[Expert],
    top_k: int = TOP_K,
    margin: float | None = None,
) -> Transformer:
    """As `node assemble` makes it, by default with its margin."""
    return mixture(workshop.base(), experts, min(top_k, len(experts) + 1), margin)


def own_expert(workshop: Workshop) -> Result:
    """Each owner's expert beside the base, on its own domain alone."""
    parts = [
        measured(workshop, assembled(workshop, [expert]), [expert.domain])
        for expert in workshop.experts()
    ]
    losses = {domain: values for part in parts for domain, values in part.losses.items()}
    return Result(losses, parts[0].parameters, parts[0].active_parameters)


def own_branch(workshop: Workshop) -> Result:
    """Each owner's copy of the whole base, on its own domain alone."""
    pairs = zip(OWNERS, workshop.branches(), strict=True)
    parts = [measured(workshop, model, [domain]) for domain, model in pairs]
    losses = {domain: values for part in parts for domain, values in part.losses.items()}
    return Result(losses, parts[0].parameters, parts[0].active_parameters)


def solo(workshop: Workshop, domain: str) -> Result:
    """One owner's expert beside the base, on every domain."""
    experts = [e for e in workshop.experts() if e.domain == domain]
    return measured(workshop, assembled(workshop, experts))


def members(workshop: Workshop) -> list[Transformer]:
    """What ensembles are made of: the base and all branches."""
    return [workshop.base().model, *workshop.branches()]


def beside_base(workshop: Workshop) -> list[Transformer]:
    """Each owner's expert beside the base, as it was trained."""
    return [assembled(workshop, [expert]) for expert in workshop.experts()]


def own_members(workshop: Workshop) -> list[Transformer]:
    """The same parts as in the assembly, kept apart."""
    return [workshop.base().model, *beside_base(workshop)]


def ensemble(
    workshop: Workshop,
    mix: Callable[[np.ndarray], np.ndarray],
    members: Callable[[Workshop], list[Transformer]] = members,
) -> Result:
    """The members' losses put together by `mix`, [J, W, T] to [W, T]."""
    parts = [measured(workshop, model) for model in members(workshop)]
    losses = {
        domain: mix(np.stack([part.losses[domain] for part in parts]))
        for domain in workshop.texts.valid
    }
    total = sum(part.parameters for part in parts)
    return Result(losses, total, total)


def weighted_soup(workshop: Workshop) -> Result:
    """For every domain a soup weighted by how likely the members find its first windows."""
    models, parts = members(workshop), []
    for domain, tokens in workshop.texts.valid.items():
        length = workshop.scale.length
        seen = [token_losses(model, tokens[: 8 * length + 1], length) for model in models]
        weights = posterior(np.stack(seen))[:, :, -1].mean(axis=1)
        parts.append(measured(workshop, soup(models, weights.tolist()), [domain]))
    losses = {domain: values for part in parts for domain, values in part.losses.items()}
    return Result(losses, parts[0].parameters, parts[0].active_parameters)


def branch_train_mix(workshop: Workshop) -> Result:
    """Branches as experts beside the base's, all else averaged, router as the assembly's start."""
    base, routers = workshop.base(), {e.domain: e for e in workshop.routers()}
    layers, width = base.model.config.num_layers, base.model.config.d_model
    rows = np.zeros((layers, len(OWNERS) + 1, width), np.float32)
    bias = np.zeros((layers, len(OWNERS) + 1), np.float32)
    for layer in range(layers):
        rows[layer, 0] = base.model.moe_layers[layer].gate.weight["0"].numpy()
        for place, domain in enumerate(OWNERS, start=1):
            rows[layer, place] = routers[domain].tensors.row(layer)
            bias[layer, place] = routers[domain].tensors.bias(layer)
    bias[:, 0] = margin_of(len(OWNERS))
    return measured(workshop, btx(members(workshop), rows, bias, TOP_K))


def without_bias(workshop: Workshop) -> Result:
    """The biases lost on the way into the assembly, as in the published merging script."""
    model = assembled(workshop, workshop.experts())
    for moe in model.moe_layers:
        for bias in moe.gate.bias.values():
            bias.data.zero_()
    return measured(workshop, model)


def tuned(workshop: Workshop, parts: Sequence[Corpus] = ()) -> Result:
    """Rows and biases tuned on the public text and its parts of every owner's domain."""
    base, experts = workshop.base(), workshop.experts()
    steps = 2 * workshop.scale.owner_steps
    recipe = TuningRecipe(steps=steps, learning_rate=TUNING_RATE, seed=workshop.seed)
    proxies = [workshop.texts.public, *(parts or workshop.texts.proxies.values())]
    tuning = tune_router(base, experts, proxies, recipe, TOP_K)
    ids = [expert.id for expert in in_order(experts)]
    return measured(workshop, tuning.apply(assembled(workshop, experts), base.id, ids))


def tuned_on_chosen(workshop: Workshop) -> Result:
    """The same, on parts that each owner chooses by a classifier, knowing no domain's name."""
    texts = workshop.texts
    public = [document.encode() for document in texts.public_documents]
    parts = []
    for documents in texts.own_documents.values():
        own = [document.encode() for document in documents]
        count = len(own) // (PUBLIC_ONE_IN - 1)  # about as many as the public has of the domain
        chosen = choose_proxies(own, public, count)
        parts.append(corpus([texts.public_documents[place] for place in chosen]))
    return tuned(workshop, parts)


def margin(workshop: Workshop, margin: float) -> Result:
    """The base's biases raised by another margin, which leaves more or less to it."""
    return measured(workshop, assembled(workshop, workshop.experts(), margin=margin))


def top_k(workshop: Workshop, k: int) -> Result:
    return measured(workshop, assembled(workshop, workshop.experts(), k))


def without(workshop: Workshop, domain: str) -> Result:
    experts = [expert for expert in workshop.experts() if expert.domain != domain]
    return measured(workshop, assembled(workshop, experts))


def cut(workshop: Workshop, rank: int) -> Result:
    """All experts cut to `rank`; parameters are those of the factors."""
    experts = list(truncated(workshop, rank))
    result = measured(workshop, assembled(workshop, experts))
    factors = sum(v.size for expert in experts for v in expert.tensors.arrays.values())
    total = sum(p.numel() for p in workshop.base().model.parameters()) + factors
    return Result(result.losses, total, total - factors * (len(OWNERS) - 1) // len(OWNERS))


def truncated(workshop: Workshop, rank: int) -> Iterator[Expert]:
    for expert in workshop.experts():
        cut_tensors: ExpertTensors = Decomposed.of(workshop.base(), expert.tensors).cut(
            by_number(rank)
        )
        yield Expert(expert.id, expert.domain, cut_tensors)
