"""What a peer's contribution to each fragment weighs."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import numpy.typing as npt

from swarm.model.fragments import FragmentLayout

MIN_ROUTED_TOKENS = 16  # below this, an expert's update is optimizer noise and is not offered


def contribution_weights(
    layout: FragmentLayout, held: Iterable[int], tokens: int, routed_LE: npt.NDArray[np.int64]
) -> dict[str, float]:
    """Tokens for the trunk, routed tokens (mean over layers) for each held expert; 0 = no offer."""
    weights = {name: float(tokens) for name in layout.trunk_names}
    for expert in held:
        routed = float(routed_LE[:, expert].mean())
        weights[layout.expert_name(expert)] = routed if routed >= MIN_ROUTED_TOKENS else 0.0
    return weights
