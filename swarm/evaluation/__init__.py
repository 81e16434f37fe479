"""Measures of trained models: bits per byte and routing, by domain."""

from swarm.evaluation.measure import (
    Comparison,
    bits_per_byte,
    evaluate,
    measure,
    routing_shares,
    token_losses,
)

__all__ = [
    "Comparison",
    "bits_per_byte",
    "evaluate",
    "measure",
    "routing_shares",
    "token_losses",
]
