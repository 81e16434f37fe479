"""Whole models from fragments."""

from swarm.assembly.assemble import assemble, load_assembled

__all__ = ["assemble", "load_assembled"]
