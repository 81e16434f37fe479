"""All measurements of one model on many domains, as plain values for JSON, tables and plots."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np

from swarm.data.corpus import Corpus
from swarm.evaluation.extraction import extract
from swarm.evaluation.measure import measure
from swarm.evaluation.reducing import merged, pruned
from swarm.evaluation.switching import switch
from swarm.evaluation.variants import Origins, with_rank, with_top_k, without_expert
from swarm.model.transformer import Transformer

Values = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What to measure beside bits per byte and routing of each domain.

    `leave_out`: experts to leave out, one at a time. `ranks` need `origins`. `sizes`: numbers of
    experts to merge and to prune the model to, the first `protected` being kept as they are.
    """

    sequence_length: int | None = None
    limit_tokens: int = 100_000
    leave_out: Sequence[int] = ()
    top_k: Sequence[int] = ()
    ranks: Sequence[int] = ()
    origins: Origins = field(default_factory=dict)
    sizes: Sequence[int] = ()
    protected: int = 0
    switches: bool = False
    extraction: bool = False


def report(
    model: Transformer,
    names: Sequence[str],
    texts: Mapping[str, Corpus],
    plan: Plan,
    unseen: Sequence[str] = (),
    progress: Callable[[str], None] = lambda what: None,
) -> Values:
    """Measure `model`, whose experts are called `names`, on the held-out parts of `texts`.

    `unseen` are those among `texts` that no expert was trained on. The result has the keys
    `experts`, `domains`, and those of `leave_one_out`, `top_k`, `rank`, `size`, `switch`,
    `extraction` that the plan asks for. Raises `DATA_EMPTY` or `USAGE` as what it measures with.
    """
    progress("domains")
    result: Values = {
        "experts": list(names),
        "domains": {
            domain: _domain(model, corpus, plan, domain in unseen)
            for domain, corpus in texts.items()
        },
    }
    sweeps: dict[str, Mapping[str, Callable[[], Transformer]]] = {
        "leave_one_out": {
            names[expert]: partial(without_expert, model, expert) for expert in plan.leave_out
        },
        "top_k": {str(k): partial(with_top_k, model, k) for k in plan.top_k},
        "rank": {str(rank): partial(with_rank, model, plan.origins, rank) for rank in plan.ranks},
        "size": _reduced(model, result["domains"], plan),
    }
    for kind, variants in sweeps.items():
        if variants:
            result[kind] = {}
        for label, make in variants.items():
            progress(f"{kind.replace('_', ' ')} {label}")
            result[kind][label] = _bits(make(), texts, plan)
    if plan.switches:
        progress("switches of the domain")
        result["switch"] = _switches(model, texts, plan)
    if plan.extraction:
        progress("extraction")
        result["extraction"] = {
            domain: _extraction(model, corpus) for domain, corpus in texts.items()
        }
    return result


def _domain(model: Transformer, corpus: Corpus, plan: Plan, unseen: bool) -> Values:
    found = measure(model, corpus.valid, plan.sequence_length, limit_tokens=plan.limit_tokens)
    return {
        "bits_per_byte": found.bits_per_byte,
        "tokens": found.tokens,
        "routing": found.routing_shares.mean(axis=0).tolist(),
        "routing_by_layer": found.routing_shares.tolist(),
        "unseen": unseen,
    }


def _reduced(
    model: Transformer, domains: Values, plan: Plan
) -> dict[str, Callable[[], Transformer]]:
    """Merged and pruned models by label; how the domains use the experts decides what is kept."""
    shares = [np.asarray(found["routing_by_layer"]) for found in domains.values()]
    use_LE = np.mean(shares, axis=0)
    return {
        f"{name} to {size}": partial(reduce, model, size, use_LE, plan.protected)
        for size in plan.sizes
        for name, reduce in (("merged", merged), ("pruned", pruned))
    }


def _bits(model: Transformer, texts: Mapping[str, Corpus], plan: Plan) -> dict[str, float]:
    length, limit = plan.sequence_length, plan.limit_tokens
    return {
        domain: measure(model, corpus.valid, length, limit_tokens=limit).bits_per_byte
        for domain, corpus in texts.items()
    }


def _switches(model: Transformer, texts: Mapping[str, Corpus], plan: Plan) -> Values:
    """From every domain to every other, by `"first > second"`."""
    length = plan.sequence_length or model.config.context_length
    found: Values = {}
    for first, before in texts.items():
        for second, after in texts.items():
            if first == second:
                continue
            result = switch(model, before.valid, after.valid, length)
            found[f"{first} > {second}"] = {**dataclasses.asdict(result), "cost": result.cost}
    return found


def _extraction(model: Transformer, corpus: Corpus) -> Values:
    """What comes out of the training text beside what comes out of the held-out text."""
    size = min(32, model.config.context_length // 2)
    parts = {"training": corpus.train, "held_out": corpus.valid}
    return {
        name: dataclasses.asdict(extract(model, tokens, size, size))
        for name, tokens in parts.items()
    }
