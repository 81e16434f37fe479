"""Any model directory of this program: an assembled run, an assembly of experts, or a base."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from swarm.assembly.assemble import METADATA, load_assembled
from swarm.assembly.isolated import ASSEMBLY_FILE, load_assembly
from swarm.errors import Code, SwarmError
from swarm.experts.base import BASE_FILE, load_base
from swarm.model.transformer import Transformer


def load_model(directory: Path) -> tuple[Transformer, dict[str, Any]]:
    """The model and what is known of where it came from; everything in it is checked.

    Raises `MODEL_UNREADABLE`, or as `load_assembled`, `load_assembly` and `load_base`.
    """
    if (directory / ASSEMBLY_FILE).exists():
        assembly = load_assembly(directory)
        domains = [signed.card.domain for signed in assembly.cards]
        return assembly.model, {"base": assembly.base, "experts": domains}
    if (directory / BASE_FILE).exists():
        base = load_base(directory)
        return base.model, {"base": base.id, "provenance": dict(base.provenance)}
    if (directory / METADATA).exists():
        return load_assembled(directory)
    raise SwarmError(
        Code.MODEL_UNREADABLE,
        f"{directory} has none of {METADATA}, {ASSEMBLY_FILE}, {BASE_FILE}",
        "name a directory that node assemble or node base make wrote",
    )
