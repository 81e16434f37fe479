"""Text for a terminal, made safe where it came from a model or another peer."""

from __future__ import annotations

import codecs
from collections.abc import Iterable, Iterator

REPLACEMENT = "\N{REPLACEMENT CHARACTER}"


def printable(text: str) -> str:
    """`text` with control characters, escape sequences' start included, made visible."""
    return "".join(
        character if character.isprintable() or character in "\n\t" else REPLACEMENT
        for character in text
    )


def plural(count: int, noun: str) -> str:
    """`1 peer`, `2 peers`."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def stream_text(tokens: Iterable[int]) -> Iterator[str]:
    """Pieces of text as byte tokens arrive; a character of several bytes comes when complete."""
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    for token in tokens:
        if token < 256:
            piece = decoder.decode(bytes([token]))
            if piece:
                yield piece
    tail = decoder.decode(b"", final=True)
    if tail:
        yield tail
