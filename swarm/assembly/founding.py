"""A run that begins with a model: an assembly of owners' experts, a base, or another run's result.

    manifest, fragments = found_with(manifest, model)

Low-rank experts are whole in an assembly already; router biases, and the margin of its base among
them, come along and are trained like the rows that they belong to.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from swarm.config import RunManifest
from swarm.model.fragment_io import read_fragment
from swarm.model.transformer import Transformer
from swarm.training.genesis import F32, begun_with, layout_of


def found_with(manifest: RunManifest, model: Transformer) -> tuple[RunManifest, dict[str, F32]]:
    """`manifest` with the model's dimensions and the hashes of its fragments, and these by name.

    Raises `CONFIG_INVALID` when the manifest can not be that of a run of such a model.
    """
    manifest = dataclasses.replace(manifest, model=model.config)
    layout = layout_of(manifest)
    fragments = {name: np.empty(layout.numel(name), np.float32) for name in layout.names}
    for name, values in fragments.items():
        read_fragment(model, layout, name, values)
    return begun_with(manifest, fragments), fragments
