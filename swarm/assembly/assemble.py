"""Put a run's fragments together to one model directory, and read such a directory back.

    assemble(manifest, fragments, hashes, Path("model"), {"commit_id": "ab12...", "round": 17})
    model, metadata = load_assembled(Path("model"))

The directory holds `model.safetensors` and `config.json` (see `swarm.model.hf`) and
`expertswarm.json`, which says what the model was made of. Equal input gives equal bytes.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from swarm.assembly.directories import replaced_directory
from swarm.config import RunManifest
from swarm.errors import Code, SwarmError
from swarm.files import write_atomic
from swarm.model.config import BYTE_VOCAB
from swarm.model.fragment_io import read_fragment
from swarm.model.fragments import (
    FragmentLayout,
    fragment_hash,
    fragment_tensors,
    state_root,
)
from swarm.model.hf import load_hf, save_hf
from swarm.model.transformer import Transformer

METADATA = "expertswarm.json"
FORMAT = 1


def assemble(
    manifest: RunManifest,
    fragments: Mapping[str, np.ndarray],
    expected_hashes: Mapping[str, bytes],
    out_dir: Path,
    provenance: Mapping[str, Any],
) -> dict[str, Any]:
    """Verify every fragment and write the model; returns the content of `expertswarm.json`.

    `fragments` are flat fp32 by name, `expected_hashes` their hashes in the commit. `provenance`
    is stored as it is; it must be JSON and should have `commit_id` and `round`.

    `out_dir` appears complete or not at all; an earlier model there is replaced, anything else is
    left alone. Raises `FRAGMENT_UNAVAILABLE` (missing), `FRAGMENT_CORRUPT` (wrong size or hash),
    `DISK_FULL` or `DIR_NOT_WRITABLE`.
    """
    layout = _layout(manifest)
    for name in layout.names:
        _verify(layout, name, fragments.get(name), expected_hashes.get(name))
    hashes = {name: expected_hashes[name] for name in layout.names}
    metadata = {
        "format": FORMAT,
        "run_id": manifest.run_id.hex(),
        "run_name": manifest.name,
        "tokenizer": "bytes" if manifest.model.vocab_size == BYTE_VOCAB else "unknown",
        "trunk_fragments": manifest.sync.trunk_fragments,
        "router_rows": manifest.sync.router_rows,
        "state_root": state_root(hashes).hex(),
        "fragments": {name: digest.hex() for name, digest in hashes.items()},
        "provenance": dict(provenance),
    }
    content = json.dumps(metadata, indent=2, sort_keys=True) + "\n"
    with replaced_directory(out_dir, METADATA) as made:
        save_hf(made, manifest.model, fragment_tensors(layout, fragments))
        write_atomic(made / METADATA, content.encode())
    return metadata


def load_assembled(directory: Path) -> tuple[Transformer, dict[str, Any]]:
    """The model of `assemble` and its `expertswarm.json`, every fragment's hash checked again.

    Raises `MODEL_UNREADABLE`, or `FRAGMENT_CORRUPT` naming the fragment that changed.
    """
    model = load_hf(directory)
    try:
        metadata = json.loads((directory / METADATA).read_text(encoding="utf-8"))
        if metadata["format"] != FORMAT:
            raise ValueError(f"format {metadata['format']}; this version reads {FORMAT}")
        layout = FragmentLayout.of(
            model.config, metadata["trunk_fragments"], metadata["router_rows"]
        )
        hashes = {name: bytes.fromhex(metadata["fragments"][name]) for name in layout.names}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise SwarmError(
            Code.MODEL_UNREADABLE,
            f"{directory / METADATA}: {error!r}",
            "needs a directory that node assemble wrote",
        ) from error
    for name in layout.names:
        values = np.empty(layout.numel(name), dtype=np.float32)
        read_fragment(model, layout, name, values)
        _verify(layout, name, values, hashes[name])
    return model, metadata


def _layout(manifest: RunManifest) -> FragmentLayout:
    return FragmentLayout.of(
        manifest.model, manifest.sync.trunk_fragments, manifest.sync.router_rows
    )


def _verify(
    layout: FragmentLayout, name: str, values: np.ndarray | None, expected: bytes | None
) -> None:
    if values is None or expected is None:
        what = "fragment" if values is None else "hash"
        raise SwarmError(Code.FRAGMENT_UNAVAILABLE, f"no {what} of {name}")
    if values.shape != (layout.numel(name),) or values.dtype != np.float32:
        raise SwarmError(
            Code.FRAGMENT_CORRUPT,
            f"{name} has {values.size} values of {values.dtype}, not {layout.numel(name)} of fp32",
        )
    actual = fragment_hash(values)
    if actual != expected:
        raise SwarmError(
            Code.FRAGMENT_CORRUPT,
            f"{name} has SHA-256 {actual.hex()[:16]}, not {expected.hex()[:16]}",
            "assemble again: node assemble fetches every fragment by its hash",
        )
