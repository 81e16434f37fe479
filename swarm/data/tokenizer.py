"""Byte tokenizer: one token per UTF-8 byte, and three special tokens.

Bytes need no file and no licence, are fair to all languages, and make losses comparable: nats per
token divided by ln 2 is bits per byte.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import numpy.typing as npt

Tokens = npt.NDArray[np.uint16]


class ByteTokenizer:
    """Token ids 0..255 are bytes; `BOS`, `EOS` and `PAD` follow."""

    BOS = 256
    EOS = 257
    PAD = 258
    vocab_size = 259

    def encode(self, text: str | bytes) -> Tokens:
        """The bytes of `text` (UTF-8) as ids, uint16 of shape (bytes,), without BOS and EOS.

        Lone surrogates, which UTF-8 can not hold, become question marks.
        """
        data = text.encode("utf-8", errors="replace") if isinstance(text, str) else text
        return np.frombuffer(data, dtype=np.uint8).astype(np.uint16)

    def decode(self, ids: Iterable[int]) -> str:
        """The text of `ids`; special tokens are dropped, broken UTF-8 shows as U+FFFD."""
        return bytes(i for i in map(int, ids) if i < self.BOS).decode("utf-8", errors="replace")
