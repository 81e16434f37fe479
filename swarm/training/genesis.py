"""A run that begins with a model: its initial fragments in a file, pinned by the manifest.

    manifest = begun_with(manifest, fragments)          # the manifest now names their hashes
    write_genesis(Path("RUN.genesis"), fragments)
    fragments = read_genesis(Path("RUN.genesis"), manifest)

The file is safetensors, a flat fp32 tensor for each fragment. Who has the manifest alone can found
the run or join it all the same: what the fragments are is known, and any peer that has them serves
them by their hashes. A run that begins with a seed needs no file, every peer makes the same bits.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt
import safetensors
import safetensors.numpy

from swarm.config import RunManifest
from swarm.config.fields import require
from swarm.errors import Code, SwarmError
from swarm.files import write_atomic
from swarm.model.fragments import FragmentLayout, fragment_hash, state_root

F32 = npt.NDArray[np.float32]


def begun_with(manifest: RunManifest, fragments: Mapping[str, F32]) -> RunManifest:
    """The manifest of a run that begins with all `fragments` of a layout of its own."""
    layout = layout_of(manifest)
    hashes = {name: fragment_hash(fragments[name]) for name in layout.names}
    genesis = dataclasses.replace(
        manifest.genesis,
        state_root=state_root(hashes).hex(),
        fragments=tuple(hashes[name].hex() for name in layout.names),
    )
    return dataclasses.replace(manifest, genesis=genesis)


def pinned_hashes(manifest: RunManifest, layout: FragmentLayout) -> dict[str, bytes] | None:
    """Hashes of the initial fragments by name; None when the run begins with a seed.

    Raises `CONFIG_INVALID` when the manifest does not name one for each, or others than its root.
    """
    named = manifest.genesis.fragments
    if not named:
        return None
    field = "genesis.fragments"
    require(len(named) == len(layout.names), field, f"needs {len(layout.names)} hashes")
    try:
        hashes = dict(zip(layout.names, map(bytes.fromhex, named), strict=True))
    except ValueError as error:
        raise SwarmError(Code.CONFIG_INVALID, f"{field}: a hash is not hexadecimal") from error
    root = state_root(hashes).hex()
    require(root == manifest.genesis.state_root, "genesis.state_root", f"is not that of {field}")
    return hashes


def write_genesis(path: Path, fragments: Mapping[str, F32]) -> None:
    """Write the file. Raises `DISK_FULL` or `DIR_NOT_WRITABLE`."""
    write_atomic(path, safetensors.numpy.save(dict(fragments)))


def read_genesis(path: Path, manifest: RunManifest) -> dict[str, F32]:
    """The initial fragments, flat fp32, each with the hash that the manifest pins.

    Raises `CHECKPOINT_CORRUPT` when the file is damaged or of another run.
    """
    layout = layout_of(manifest)
    hashes = pinned_hashes(manifest, layout) or {}
    try:
        with safetensors.safe_open(path, framework="np") as file:
            fragments = {name: file.get_tensor(name) for name in hashes}
        for name, values in fragments.items():
            if values.shape != (layout.numel(name),) or fragment_hash(values) != hashes[name]:
                raise ValueError(f"{name} does not have the hash that the manifest names")
    except (OSError, ValueError, safetensors.SafetensorError) as error:
        raise SwarmError(
            Code.CHECKPOINT_CORRUPT,
            f"{path}: {error}",
            "copy it again from who founded the run, or remove it: other peers have the weights",
        ) from error
    return fragments


def layout_of(manifest: RunManifest) -> FragmentLayout:
    """How the run's model is cut into fragments."""
    sync = manifest.sync
    return FragmentLayout.of(manifest.model, sync.trunk_fragments, sync.router_rows)
