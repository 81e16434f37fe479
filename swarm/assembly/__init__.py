"""Whole models: from a run's fragments, or from a base and owners' experts."""

from swarm.assembly.assemble import assemble, load_assembled
from swarm.assembly.isolated import Assembly, assemble_experts, load_assembly, save_assembly
from swarm.assembly.loading import load_model

__all__ = [
    "Assembly",
    "assemble",
    "assemble_experts",
    "load_assembled",
    "load_assembly",
    "load_model",
    "save_assembly",
]
