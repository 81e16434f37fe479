"""Reading JSON and safetensors of strangers: sizes are checked before anything is parsed.

Safetensors hold plain numbers and nothing that runs, but their header is JSON of any length: a
file can claim one of 10 GB (https://github.com/huggingface/safetensors#format).
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.numpy
from safetensors import SafetensorError

from swarm.errors import Code, SwarmError

MAX_JSON_BYTES = 1 << 20
MAX_HEADER_BYTES = 4 << 20
_LENGTH_BYTES = 8


def read_bounded(path: Path, limit: int, code: Code) -> bytes:
    """The bytes of a file. Raises `ARTIFACT_OVERSIZED` above `limit`, `code` without one."""
    try:
        with path.open("rb") as file:
            if os.fstat(file.fileno()).st_size > limit:
                raise _oversized(f"{path} is above {limit} bytes")
            data = file.read(limit + 1)  # a pipe has no size
    except OSError as error:
        raise SwarmError(code, f"{path}: {error.strerror}") from error
    if len(data) > limit:
        raise _oversized(f"{path} is above {limit} bytes")
    return data


def read_json(path: Path, code: Code) -> dict[str, Any]:
    """The object in a JSON file. Raises `ARTIFACT_OVERSIZED`, or `code` when it has none."""
    return parse_json(read_bounded(path, MAX_JSON_BYTES, code), code, str(path))


def parse_json(data: bytes, code: Code, origin: str) -> dict[str, Any]:
    """The object in JSON text; NaN and infinities are no JSON. Raises `code`."""
    try:
        content = json.loads(data, parse_constant=_refuse)
    except (ValueError, RecursionError) as error:
        raise SwarmError(code, f"{origin} is not JSON: {error}") from error
    if not isinstance(content, dict):
        raise SwarmError(code, f"{origin} is not a JSON object")
    return content


def read_tensors(path: Path, limit: int) -> dict[str, np.ndarray]:
    """All tensors of a safetensors file whose values take `limit` bytes at most.

    Raises as `parse_tensors`, and `ARTIFACT_OVERSIZED` for a larger file, which is not read.
    """
    largest = _LENGTH_BYTES + MAX_HEADER_BYTES + limit
    return parse_tensors(read_bounded(path, largest, Code.EXPERT_CORRUPT), str(path))


def parse_tensors(data: bytes, origin: str) -> dict[str, np.ndarray]:
    """All tensors in safetensors bytes, which must be fp32.

    Raises `ARTIFACT_OVERSIZED` for a header above 4 MiB, before it is read; `EXPERT_CORRUPT` when
    the bytes are not safetensors of fp32.
    """
    check_header(data[:_LENGTH_BYTES], len(data), origin)
    try:
        tensors: dict[str, np.ndarray] = safetensors.numpy.load(data)
    except (SafetensorError, ValueError, KeyError, TypeError, OverflowError) as error:
        raise SwarmError(Code.EXPERT_CORRUPT, f"{origin}: {error}") from error
    for name, values in tensors.items():
        if values.dtype != np.float32:
            message = f"{origin}: {name} is of {values.dtype}, not fp32"
            raise SwarmError(Code.EXPERT_CORRUPT, message)
    return tensors


def check_header(first: bytes, total_bytes: int, origin: str) -> None:
    """Check the length that a safetensors file's first 8 bytes claim for its header."""
    claimed = int.from_bytes(first, "little")
    if len(first) < _LENGTH_BYTES:
        raise SwarmError(Code.EXPERT_CORRUPT, f"{origin} has only {total_bytes} bytes")
    if claimed > MAX_HEADER_BYTES:
        raise _oversized(f"{origin} claims a header of {claimed} bytes, over {MAX_HEADER_BYTES}")


def _oversized(message: str) -> SwarmError:
    return SwarmError(Code.ARTIFACT_OVERSIZED, message, "do not use it; ask its owner")


def _refuse(constant: str) -> float:
    raise ValueError(f"{constant} is not a number")
