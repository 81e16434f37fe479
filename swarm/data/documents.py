"""From a path to a stream of documents: UTF-8 text, in the same order on every run.

A document is a text or source file (a piece of it if it is huge), or the `text` field of one line
of a `.jsonl` or `.jsonl.gz` file. What can not be used is skipped, counted and named in
`DataReport`, never fatal. Memory stays below a few `MAX_DOCUMENT_BYTES`.
"""

from __future__ import annotations

import codecs
import gzip
import hashlib
import json
import os
import stat
import zlib
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from swarm.errors import Code, SwarmError

MAX_DOCUMENT_BYTES = 16 << 20
BINARY_PROBE_BYTES = 8192
EXAMPLES_SHOWN = 5


@dataclass(frozen=True)
class SourceFile:
    """One regular file of a source; `name` is its path relative to the source's root."""

    name: str
    path: Path
    size_bytes: int
    modified_ns: int


@dataclass
class DataReport:
    """What became of a source's text, in counts (documents unless named otherwise)."""

    documents: int = 0
    bytes: int = 0
    skipped_not_utf8: int = 0
    skipped_binary: int = 0
    skipped_empty: int = 0
    malformed_lines: int = 0
    unreadable_files: int = 0
    limited: bool = False
    examples: list[str] = field(default_factory=list)

    def note(self, name: str, reason: str) -> None:
        """Remember what was skipped and why, for the first few cases."""
        if len(self.examples) < EXAMPLES_SHOWN:
            self.examples.append(f"{name}: {reason}")


BinaryStream = IO[bytes] | gzip.GzipFile
Extract = Callable[[SourceFile, DataReport], Iterator[bytes]]


def list_files(
    root: Path, excluded: Collection[Path] = (), skipped_names: Collection[str] = ()
) -> list[SourceFile]:
    """The regular files at or below `root`, sorted by name; hidden ones are left out.

    So are the directories in `excluded` and everything called one of `skipped_names`.

    Symbolic links are followed, each real file and directory being visited once, so that loops
    end. Sockets, pipes and devices are left out: reading them could block for ever.
    Raises `DATA_MISSING` when `root` is not a readable file or directory.
    """
    try:
        info = root.stat()
        if stat.S_ISREG(info.st_mode):
            return [SourceFile(root.name, root, info.st_size, info.st_mtime_ns)]
        if not stat.S_ISDIR(info.st_mode):
            raise SwarmError(Code.DATA_MISSING, f"{root} is neither a file nor a directory")
        os.scandir(root).close()
    except OSError as error:
        raise SwarmError(
            Code.DATA_MISSING,
            f"{root}: {error.strerror or error}",
            "name a directory of text, a .txt or .jsonl file, or a demo domain like demo:python",
        ) from error
    barred = {path.resolve() for path in excluded}
    skipped = {"__pycache__", *skipped_names}
    files = list(_walk(root, "", {(info.st_dev, info.st_ino)}, barred, skipped))
    return sorted(files, key=lambda file: file.name)


def _walk(
    directory: Path,
    prefix: str,
    seen: set[tuple[int, int]],
    barred: set[Path],
    skipped: set[str],
) -> Iterator[SourceFile]:
    try:
        entries = sorted(os.scandir(directory), key=lambda entry: entry.name)
    except OSError:
        return
    for entry in entries:
        if entry.name.startswith(".") or entry.name in skipped:
            continue
        try:
            info = entry.stat()
        except OSError:  # a dangling link, or removed in the meantime
            continue
        identity = (info.st_dev, info.st_ino)
        if identity in seen:
            continue
        seen.add(identity)
        path, name = Path(entry.path), prefix + entry.name
        if stat.S_ISDIR(info.st_mode):
            if path.resolve() not in barred:
                yield from _walk(path, f"{name}/", seen, barred, skipped)
        elif stat.S_ISREG(info.st_mode):
            yield SourceFile(name, path, info.st_size, info.st_mtime_ns)


def spread_order(files: Iterable[SourceFile]) -> list[SourceFile]:
    """The files in the order of the hash of their names: any prefix samples the whole tree."""
    return sorted(
        files, key=lambda file: hashlib.sha256(file.name.encode(errors="replace")).digest()
    )


def fingerprint(files: Iterable[SourceFile], *settings: object) -> str:
    """SHA-256 (hex) over names, sizes and modification times of `files`, and `settings`."""
    digest = hashlib.sha256(repr(settings).encode())
    for file in files:
        line = f"{file.name}\0{file.size_bytes}\0{file.modified_ns}\n"
        digest.update(line.encode(errors="surrogateescape"))
    return digest.hexdigest()


def read_documents(
    files: Iterable[SourceFile], extract: Extract, report: DataReport, max_bytes: int | None
) -> Iterator[bytes]:
    """Usable documents of `files` until `max_bytes` (UTF-8) are reached; fills `report`."""
    for file in files:
        try:
            for document in extract(file, report):
                if not document.strip():
                    report.skipped_empty += 1
                    continue
                if max_bytes is not None and report.bytes + len(document) > max_bytes:
                    report.limited = True
                    document = cut_utf8(document, max_bytes - report.bytes)
                if document:
                    report.documents += 1
                    report.bytes += len(document)
                    yield document
                if report.limited:
                    return
        except (OSError, EOFError, zlib.error) as error:
            report.unreadable_files += 1
            report.note(file.name, str(getattr(error, "strerror", None) or error))


def extract_text(file: SourceFile, report: DataReport) -> Iterator[bytes]:
    """The documents of one file, by its name: JSON lines (gzipped or not), else plain text."""
    with open(file.path, "rb") as raw:
        if file.name.endswith(".jsonl"):
            yield from _json_lines(raw, file.name, report)
        elif file.name.endswith(".jsonl.gz"):
            with gzip.open(raw) as unpacked:
                yield from _json_lines(unpacked, file.name, report)
        else:
            yield from _plain_text(raw, file.name, report)


def _json_lines(stream: BinaryStream, name: str, report: DataReport) -> Iterator[bytes]:
    for line in _bounded_lines(stream):
        try:
            if line is None or line.strip():
                yield json.loads(line or b"")["text"].encode("utf-8")
        except UnicodeError:
            report.skipped_not_utf8 += 1
            report.note(name, "a line that is not UTF-8")
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            report.malformed_lines += 1
            report.note(name, "a line that is not a JSON object with a text")


def _bounded_lines(stream: BinaryStream) -> Iterator[bytes | None]:
    """Lines of `stream`; None for one that is longer than a document may be."""
    while line := stream.readline(MAX_DOCUMENT_BYTES):
        oversized = False
        while len(line) == MAX_DOCUMENT_BYTES and not line.endswith(b"\n"):
            oversized = True
            line = stream.readline(MAX_DOCUMENT_BYTES)
        yield None if oversized else line


def _plain_text(stream: BinaryStream, name: str, report: DataReport) -> Iterator[bytes]:
    head = True
    while piece := stream.read(MAX_DOCUMENT_BYTES):
        if head and b"\0" in piece[:BINARY_PROBE_BYTES]:
            report.skipped_binary += 1
            report.note(name, "binary")
            return
        if len(piece) == MAX_DOCUMENT_BYTES:
            # A huge file becomes several documents, cut after a line or at least a character.
            end = piece.rfind(b"\n") + 1 or len(cut_utf8(piece, len(piece) - 1))
            stream.seek(end - len(piece), os.SEEK_CUR)
            piece = piece[:end]
        if head:
            piece = piece.removeprefix(codecs.BOM_UTF8)
        head = False
        try:
            piece.decode("utf-8")
        except UnicodeDecodeError as error:
            report.skipped_not_utf8 += 1
            report.note(name, f"not UTF-8 at byte {error.start}")
            continue
        yield piece


def cut_utf8(text: bytes, limit_bytes: int) -> bytes:
    """The longest prefix of at most `limit_bytes` that does not end inside a character."""
    if len(text) <= limit_bytes:
        return text
    end = limit_bytes
    while end > max(0, limit_bytes - 3) and text[end] & 0xC0 == 0x80:
        end -= 1
    return text[:end]
