"""Token shards: the file of one split, little-endian uint16 ids, written in one step, hashed.

`ShardWriter` frames each document by BOS and EOS; `open_shard` maps a shard and checks it.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from swarm.data.tokenizer import ByteTokenizer, Tokens
from swarm.errors import Code, SwarmError
from swarm.files import storage_error

TEMPORARY_SUFFIX = ".tmp"


class ShardWriter:
    """Writes one split, one document late, so that the last one can still go elsewhere."""

    def __init__(self, file: BinaryIO, name: str) -> None:
        self.file = file
        self.name = name
        self.tokens = 0
        self.digest = hashlib.sha256()
        self.last: bytes | None = None

    def add(self, document: bytes) -> None:
        """Append a document."""
        self.flush()
        self.last = document

    def flush(self) -> None:
        """Write the last document."""
        if self.last is None:
            return
        body = ByteTokenizer().encode(self.last)
        framed = np.concatenate(([ByteTokenizer.BOS], body, [ByteTokenizer.EOS]))
        data = framed.astype("<u2").tobytes()
        self.file.write(data)
        self.digest.update(data)
        self.tokens += len(framed)
        self.last = None

    def entry(self) -> dict[str, Any]:
        """What the index says about the shard."""
        return {"file": self.name, "tokens": self.tokens, "sha256": self.digest.hexdigest()}


@contextlib.contextmanager
def shard_writer(directory: Path, name: str) -> Iterator[ShardWriter]:
    """A writer whose file becomes `directory/name`, durably, when the block ends well.

    Write errors are raised as `DISK_FULL` or `DIR_NOT_WRITABLE`; nothing is left behind then.
    """
    path = directory / name
    temporary = path.with_name(f"{name}.{secrets.token_hex(4)}{TEMPORARY_SUFFIX}")
    try:
        with open(temporary, "wb") as file:
            writer = ShardWriter(file, name)
            yield writer
            writer.flush()
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        raise storage_error(path, error) from error
    finally:
        temporary.unlink(missing_ok=True)


def open_shard(directory: Path, entry: dict[str, Any]) -> Tokens:
    """Map the shard that the index entry describes. Raises `SHARD_CORRUPT`."""
    path = directory / Path(entry["file"]).name
    try:
        tokens: Tokens = np.memmap(path, dtype="<u2", mode="r")
    except (OSError, ValueError) as error:  # gone, empty, or an odd number of bytes
        raise corrupt(directory, f"{path.name}: {error}") from error
    if len(tokens) != entry["tokens"] or _sha256(tokens) != entry["sha256"]:
        raise corrupt(directory, f"{path.name} does not match its hash")
    return tokens


def corrupt(directory: Path, problem: str) -> SwarmError:
    """`SHARD_CORRUPT`, saying what to do."""
    return SwarmError(
        Code.SHARD_CORRUPT,
        f"{directory}: {problem}",
        f"delete the directory {directory} to rebuild",
    )


def _sha256(tokens: Tokens, block: int = 1 << 22) -> str:
    digest = hashlib.sha256()
    for start in range(0, len(tokens), block):
        digest.update(tokens[start : start + block].data)
    return digest.hexdigest()
