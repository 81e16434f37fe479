"""Token shards of one domain: made once from a source, memory-mapped ever after.

    corpus = prepare_corpus("texts/", Path("runs/data"))      # or "demo:python", see `domains`
    corpus.train, corpus.valid                                # uint16 token ids

A directory holds one shard per split and `index.json`, which names the shards, their SHA-256 and
the fingerprint of the source; it is written last, so a crash leaves the old corpus or none.
"""

from __future__ import annotations

import dataclasses
import fcntl
import hashlib
import json
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from swarm.data.documents import (
    DataReport,
    Extract,
    SourceFile,
    cut_utf8,
    extract_text,
    fingerprint,
    list_files,
    read_documents,
    spread_order,
)
from swarm.data.domains import demo_domain
from swarm.data.shards import TEMPORARY_SUFFIX, ShardWriter, corrupt, open_shard, shard_writer
from swarm.data.tokenizer import Tokens
from swarm.errors import Code, SwarmError
from swarm.files import storage_error, write_atomic

INDEX = "index.json"
FORMAT = 1
VALID_ONE_IN = 20
DEMO_MAX_BYTES = 3_000_000
PROGRESS_EVERY_DOCUMENTS = 50

Progress = Callable[[DataReport], None]


@dataclass(frozen=True)
class Corpus:
    """Memory-mapped token ids of both splits, every document framed by BOS and EOS."""

    train: Tokens
    valid: Tokens
    report: DataReport
    sha256: str  # of both splits, hexadecimal

    @classmethod
    def open(cls, directory: Path) -> Corpus:
        """Map a prepared corpus after checking its hashes (one read of the shards).

        Raises `DATA_MISSING` when there is none, `SHARD_CORRUPT` when it is damaged.
        """
        index = _read_index(directory)
        if index is None:
            raise SwarmError(Code.DATA_MISSING, f"no prepared corpus in {directory}")
        try:
            shards = [index["shards"][split] for split in ("train", "valid")]
            train, valid = (open_shard(directory, shard) for shard in shards)
            report = DataReport(**index["report"])
            digests = "".join(shard["sha256"] for shard in shards)
        except (KeyError, TypeError, ValueError, OSError) as error:
            raise corrupt(directory, f"{INDEX}: {error}") from error
        return cls(train, valid, report, hashlib.sha256(digests.encode()).hexdigest())


def prepare_corpus(
    source: str,
    out_dir: Path,
    *,
    max_bytes: int | None = None,
    progress: Progress | None = None,
) -> Corpus:
    """Tokenize `source` into `out_dir`, or reuse what is there when the source is unchanged.

    `source` is a path or `demo:NAME`. With `max_bytes` files are taken in the order of the hash
    of their names, so the same part of the whole tree is used every time; demo domains have
    `DEMO_MAX_BYTES` by default. `progress` is called with the report so far.

    Raises `DATA_MISSING`, `DATA_EMPTY`, `SHARD_CORRUPT`, `DISK_FULL`, `DIR_NOT_WRITABLE`.
    """
    files, extract, max_bytes = _resolve(source, out_dir, max_bytes)
    mark = fingerprint(files, FORMAT, source, max_bytes, VALID_ONE_IN)
    try:
        out_dir.mkdir(parents=True, exist_ok=True)
        lock = open(out_dir / ".lock", "wb")
    except OSError as error:
        raise storage_error(out_dir, error) from error
    with lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # two processes on one corpus: the second one reuses it
        index = _read_index(out_dir)
        if index is None or index.get("fingerprint") != mark:
            report = DataReport()
            documents = read_documents(files, extract, report, max_bytes)
            _write_corpus(out_dir, source, mark, documents, report, progress)
    return Corpus.open(out_dir)


def _resolve(
    source: str, out_dir: Path, max_bytes: int | None
) -> tuple[list[SourceFile], Extract, int | None]:
    if source.startswith("demo:"):
        domain = demo_domain(source.removeprefix("demo:"))
        limit = DEMO_MAX_BYTES if max_bytes is None else max_bytes
        return spread_order(domain.files()), domain.extract, limit
    files = list_files(Path(source).expanduser(), excluded=[out_dir])
    return files if max_bytes is None else spread_order(files), extract_text, max_bytes


def _write_corpus(
    out_dir: Path,
    source: str,
    mark: str,
    documents: Iterable[bytes],
    report: DataReport,
    progress: Progress | None,
) -> None:
    for leftover in out_dir.glob(f"*{TEMPORARY_SUFFIX}"):
        leftover.unlink(missing_ok=True)
    names = [f"{split}-{mark[:16]}.tokens" for split in ("train", "valid")]
    with ExitStack() as stack:
        train, valid = (stack.enter_context(shard_writer(out_dir, name)) for name in names)
        for document in documents:
            is_valid = int.from_bytes(hashlib.sha256(document).digest(), "big") % VALID_ONE_IN == 0
            (valid if is_valid else train).add(document)
            if progress and report.documents % PROGRESS_EVERY_DOCUMENTS == 0:
                progress(report)
        _fill_empty_split(train, valid, source, report)
    index = {
        "format": FORMAT,
        "source": source,
        "fingerprint": mark,
        "shards": {"train": train.entry(), "valid": valid.entry()},
        "report": dataclasses.asdict(report),
    }
    write_atomic(out_dir / INDEX, json.dumps(index, indent=2).encode())
    for old in out_dir.glob("*.tokens"):
        if old.name not in names:
            old.unlink(missing_ok=True)


def _fill_empty_split(
    train: ShardWriter, valid: ShardWriter, source: str, report: DataReport
) -> None:
    """Give an empty split the other's last document, or the tail of the only one."""
    if report.documents == 0:
        skipped = dataclasses.asdict(report)
        counts = ", ".join(f"{key} {skipped[key]}" for key in skipped if skipped[key])
        raise SwarmError(
            Code.DATA_EMPTY,
            f"{source} has no usable text" + (f" ({counts})" if counts else ""),
            "text must be UTF-8; JSON lines need a text field",
        )
    full, empty = (train, valid) if train.last is not None else (valid, train)
    if empty.last is not None:
        return
    if report.documents > 1:
        empty.last, full.last = full.last, None
        return
    whole = full.last or b""
    head = cut_utf8(whole, len(whole) - max(1, len(whole) // VALID_ONE_IN))
    if not head:
        raise SwarmError(Code.DATA_EMPTY, f"{source} is a single character", "give it more text")
    train.last, valid.last = head, whole[len(head) :]


def _read_index(directory: Path) -> dict[str, Any] | None:
    try:
        index = json.loads((directory / INDEX).read_bytes())
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise corrupt(directory, f"{INDEX}: {error}") from error
    if not isinstance(index, dict):
        raise corrupt(directory, f"{INDEX} is not an object")
    return index
