"""Assemblies of owners' experts: chosen, mixed, written, read back.

    chosen = choose(offered, notices, Choice(exclude=["law"]))
    assembly = assemble_experts(base, chosen, top_k=2)
    save_assembly(assembly, Path("model"))
    assembly = load_assembly(Path("model"))

Equal choices make equal bytes, in whatever order the experts come. An expert that is left out is
not in the directory in any form, and without any the model is the base, bit for bit. The directory
is a model directory (`swarm.model.hf`) with `assembly.json`, which holds the cards.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from swarm.assembly.directories import replaced_directory
from swarm.assembly.router_tuning import RouterTuning, load_tuning, save_tuning
from swarm.errors import Code, SwarmError
from swarm.experts.artifact import Expert
from swarm.experts.base import Base
from swarm.experts.cards import SignedCard
from swarm.experts.mixture import in_order, mixture
from swarm.experts.safe_files import read_json
from swarm.experts.withdrawals import Notices
from swarm.files import write_atomic
from swarm.hashing import bulk_hash
from swarm.model.hf import WEIGHTS, load_hf, save_hf
from swarm.model.transformer import Transformer

ASSEMBLY_FILE = "assembly.json"
FORMAT = 1


@dataclass(frozen=True)
class Offer:
    """A checked expert with its card."""

    card: SignedCard
    expert: Expert


@dataclass(frozen=True, kw_only=True)
class Choice:
    """Which of the offered experts to take, by id (or its first 8 letters and more) or domain.

    `include`: only these, None is all. `exclude` wins over it.
    """

    include: Collection[str] | None = None
    exclude: Collection[str] = ()


@dataclass(frozen=True)
class Assembly:
    """A model and what it was made of. `cards` are in the order of the experts' places.

    `mixed` is the mixture as the owners made its parts, `model` the one to use: with the tuned
    router where there is one.
    """

    mixed: Transformer
    base: str
    base_size: int
    cards: tuple[SignedCard, ...]
    tuning: RouterTuning | None = None

    @functools.cached_property
    def model(self) -> Transformer:
        """The model to use. Raises `TUNING_MISMATCH` when the tuning is of other experts."""
        if self.tuning is None:
            return self.mixed
        return self.tuning.apply(self.mixed, self.base, [card.id for card in self.cards])


def choose(offers: Iterable[Offer], notices: Notices, choice: Choice) -> list[Offer]:
    """The experts to assemble.

    Raises `EXPERT_WITHDRAWN` when one of them was withdrawn by its owner, `USAGE` when the choice
    names one that is not there.
    """
    offered = list(offers)
    for name in (*(choice.include or ()), *choice.exclude):
        if not any(_is_named(offer, name) for offer in offered):
            known = ", ".join(sorted({offer.expert.domain for offer in offered})) or "none"
            raise SwarmError(Code.USAGE, f"there is no expert {name!r}", f"there are: {known}")
    chosen = [
        offer
        for offer in offered
        if (choice.include is None or any(_is_named(offer, name) for name in choice.include))
        and not any(_is_named(offer, name) for name in choice.exclude)
    ]
    for offer in chosen:
        notices.require_offered(offer.card.id)
    return chosen


def assemble_experts(
    base: Base,
    offers: Sequence[Offer],
    top_k: int | None = None,
    tuning: RouterTuning | None = None,
    margin: float | None = None,
) -> Assembly:
    """The assembly of the base and the offered experts; arguments and errors as `mixture`."""
    cards = {offer.card.id: offer.card for offer in offers}
    experts = [offer.expert for offer in offers]
    ordered = tuple(cards[expert.id] for expert in in_order(experts))
    mixed = mixture(base, experts, top_k, margin)
    return Assembly(mixed, base.id, base.size, ordered, tuning)


def save_assembly(assembly: Assembly, out_dir: Path) -> dict[str, Any]:
    """Write the assembly; returns the content of `assembly.json`.

    `out_dir` appears complete or not at all; an earlier assembly there is replaced. A tuned router
    is a file of its own beside untuned weights. Raises `DISK_FULL` or `DIR_NOT_WRITABLE`.
    """
    mixed = assembly.mixed
    with replaced_directory(out_dir, ASSEMBLY_FILE) as made:
        save_hf(made, mixed.config, mixed)
        if assembly.tuning is not None:
            save_tuning(assembly.tuning, made)
        content = {
            "format": FORMAT,
            "base": assembly.base,
            "base_size": assembly.base_size,
            "top_k": mixed.config.top_k,
            "cards": [json.loads(card.to_json()) for card in assembly.cards],
            "weights": bulk_hash((made / WEIGHTS).read_bytes()).hex(),
        }
        text = json.dumps(content, indent=2, sort_keys=True) + "\n"
        write_atomic(made / ASSEMBLY_FILE, text.encode())
    return content


def load_assembly(directory: Path) -> Assembly:
    """Read what `save_assembly` wrote, every card's signature and the weights' hash checked.

    Raises `MODEL_UNREADABLE`, `CARD_INVALID` or `SIGNATURE_INVALID`.
    """
    content = read_json(directory / ASSEMBLY_FILE, Code.MODEL_UNREADABLE)
    model = load_hf(directory)
    try:
        if content["format"] != FORMAT:
            raise ValueError(f"format {content['format']}; this version reads {FORMAT}")
        if bulk_hash((directory / WEIGHTS).read_bytes()).hex() != content["weights"]:
            raise ValueError(f"{WEIGHTS} changed since it was assembled")
        cards = tuple(SignedCard.parse(json.dumps(card).encode()) for card in content["cards"])
        base, base_size = str(content["base"]), int(content["base_size"])
        if base_size + len(cards) != model.config.num_experts:
            raise ValueError(f"{len(cards)} cards for {model.config.num_experts} experts")
    except (OSError, KeyError, TypeError, ValueError) as error:
        raise SwarmError(
            Code.MODEL_UNREADABLE,
            f"{directory / ASSEMBLY_FILE}: {error}",
            "assemble it again: node assemble --base",
        ) from error
    return Assembly(model, base, base_size, cards, load_tuning(directory))


def _is_named(offer: Offer, name: str) -> bool:
    by_id = len(name) >= 8 and offer.card.id.startswith(name)
    return by_id or offer.expert.domain == name
