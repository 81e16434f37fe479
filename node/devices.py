"""Which devices this machine has to train on; loads torch."""

from __future__ import annotations


def available_devices() -> list[str]:
    """Of cuda, mps and cpu those that are there, the best one first."""
    import torch

    there = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    return [*(kind for kind, is_there in there.items() if is_there), "cpu"]
