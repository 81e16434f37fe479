"""A trainer's state in one crash-safe file: safetensors with JSON metadata, never pickle.

The file is replaced in one step, and its metadata holds a BLAKE3 hash of everything else in it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
from torch import Tensor

from swarm.errors import Code, SwarmError
from swarm.files import write_atomic
from swarm.hashing import blake3


def save_checkpoint(
    path: Path, tensors: Mapping[str, Tensor], meta: Mapping[str, Any], *, sync: bool = True
) -> None:
    """Write tensors and JSON values to `path`. Raises `DISK_FULL` or `DIR_NOT_WRITABLE`.

    Without `sync` it outlives this process; what a power cut leaves of it is `CHECKPOINT_CORRUPT`.
    """
    whole = {name: tensor.contiguous() for name, tensor in tensors.items()}
    encoded = json.dumps(meta, sort_keys=True)
    metadata = {"meta": encoded, "blake3": _digest(whole, encoded)}
    write_atomic(path, safetensors.torch.save(whole, metadata=metadata), sync=sync)


def load_checkpoint(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read what `save_checkpoint` wrote. Raises `CHECKPOINT_CORRUPT`."""
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            metadata = file.metadata()
            tensors = {name: file.get_tensor(name) for name in file.keys()}
        meta = json.loads(metadata["meta"])
        if not isinstance(meta, dict) or metadata["blake3"] != _digest(tensors, metadata["meta"]):
            raise ValueError("its content does not match its hash")
    except (OSError, KeyError, TypeError, ValueError, safetensors.SafetensorError) as error:
        raise SwarmError(
            Code.CHECKPOINT_CORRUPT,
            f"{path}: {error}",
            "delete the file; training goes on with a fresh optimizer state",
        ) from error
    return tensors, meta


def _digest(tensors: Mapping[str, Tensor], meta: str) -> str:
    digest = blake3(meta.encode())
    for name in sorted(tensors):
        tensor = tensors[name]
        digest.update(f"\0{name} {tensor.dtype} {tuple(tensor.shape)}\0".encode())
        digest.update(tensor.reshape(-1).numpy().view("u1").data)
    return digest.hexdigest()
