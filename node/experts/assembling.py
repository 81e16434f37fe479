"""`node assemble --base`: read and check experts, choose, tune, write."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from node.experts.folder import load_notice
from swarm.assembly.isolated import Choice, Offer, assemble_experts, choose, save_assembly
from swarm.assembly.router_tuning import RouterTuning, TuningRecipe, tune_router
from swarm.data import prepare_corpus
from swarm.experts.artifact import load_card, load_expert
from swarm.experts.base import Base, load_base
from swarm.experts.withdrawals import Notice, Notices

Report = Callable[[str], None]
SAY_EVERY_STEPS = 50


@dataclass(frozen=True, kw_only=True)
class AssemblyRequest:
    """What the command line asks for."""

    base: Path
    experts: Sequence[Path]
    include: Collection[str] | None = None
    exclude: Collection[str] = ()
    top_k: int | None = None
    margin: float | None = None
    proxies: Sequence[str] = ()
    tuning_steps: int = 200


def assemble_from(request: AssemblyRequest, out: Path, report: Report) -> dict[str, Any]:
    """Write the assembly to `out`; returns the content of its `assembly.json`.

    Every expert directory is checked, those left out too. Raises what is wrong with one,
    `EXPERT_WITHDRAWN`, `USAGE`, errors of the proxy text or of writing.
    """
    torch.set_num_threads(1)
    base = load_base(request.base)
    offers, notices = read_experts(request.experts, base)
    choice = Choice(include=request.include, exclude=request.exclude)
    chosen = choose(offers, notices, choice)
    for offer in chosen:
        report(f"takes {offer.expert.domain} {offer.card.id[:16]} of {offer.expert.owner}")
    tuning = _tune(base, chosen, request, report) if request.proxies else None
    assembly = assemble_experts(base, chosen, request.top_k, tuning, request.margin)
    return save_assembly(assembly, out)


def read_experts(directories: Sequence[Path], base: Base) -> tuple[list[Offer], Notices]:
    """Experts and notices of the directories, all checked. Raises as `load_expert`."""
    offers: list[Offer] = []
    found: list[Notice] = []
    for directory in directories:
        signed = load_card(directory)
        offers.append(Offer(signed, load_expert(directory, base)))
        if notice := load_notice(directory, signed):
            found.append(notice)
    return offers, Notices(found)


def _tune(
    base: Base, chosen: Sequence[Offer], request: AssemblyRequest, report: Report
) -> RouterTuning:
    recipe = TuningRecipe(
        steps=request.tuning_steps, sequence_length=min(128, base.model.config.context_length)
    )

    def say(step: int, loss: float) -> None:
        if step % SAY_EVERY_STEPS == 0:
            report(f"router step {step}/{recipe.steps}  loss {loss:.3f}")

    with tempfile.TemporaryDirectory(prefix="proxy-") as temporary:
        proxies = [
            prepare_corpus(source, Path(temporary) / str(number))
            for number, source in enumerate(request.proxies)
        ]
        experts = [offer.expert for offer in chosen]
        return tune_router(base, experts, proxies, recipe, request.top_k, say, request.margin)
