"""Texts that change their subject in the middle of a window: how fast does the model follow?

found = switch(model, law_tokens, code_tokens, length=128)
found.cost                  # bits per byte more than after text of the same domain
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from swarm.errors import Code, SwarmError
from swarm.evaluation.measure import Tokens, token_losses
from swarm.model.transformer import Transformer

_BYTES = 256


@dataclass(frozen=True)
class Switch:
    """Bits per byte of the second half of windows.

    `after_switch` follows a first half of another domain, `at_home` the half that precedes it in
    the text. `by_quarter` is what the switch costs in each quarter of the half, in the same unit.
    """

    after_switch: float
    at_home: float
    by_quarter: tuple[float, float, float, float]

    @property
    def cost(self) -> float:
        """Bits per byte that the switch costs."""
        return self.after_switch - self.at_home


def switch(
    model: Transformer, first: Tokens, second: Tokens, length: int, windows: int = 64
) -> Switch:
    """Put halves of `first` before halves of `second`, ids [N] both, in windows of `length`.

    Raises `DATA_EMPTY` when one of them fills no window, `USAGE` for windows below 8 tokens.
    """
    if length < 8:
        raise SwarmError(Code.USAGE, f"windows of {length} tokens can not change their subject")
    half = length // 2
    before_WT, home_WT = (_rows(tokens, 2 * half + 1, windows) for tokens in (first, second))
    rows = min(len(before_WT), len(home_WT))
    home_WT = home_WT[:rows]
    mixed_WT = np.concatenate([before_WT[:rows, :half], home_WT[:, half:]], axis=1)
    nats = [_second_half(model, rows_WT, half) for rows_WT in (mixed_WT, home_WT)]
    is_byte = home_WT[:, half + 1 :] < _BYTES
    parts = np.array_split(np.arange(is_byte.shape[1]), 4)
    quarters = [
        _bits(nats[0][:, part], is_byte[:, part]) - _bits(nats[1][:, part], is_byte[:, part])
        for part in parts
    ]
    a, b, c, d = quarters
    return Switch(_bits(nats[0], is_byte), _bits(nats[1], is_byte), (a, b, c, d))


def _rows(tokens: Tokens, width: int, windows: int) -> npt.NDArray[np.int64]:
    count = min(windows, len(tokens) // width)
    if count == 0:
        raise SwarmError(Code.DATA_EMPTY, f"{len(tokens)} tokens fill no window of {width}")
    return np.asarray(tokens[: count * width], dtype=np.int64).reshape(count, width)


def _second_half(
    model: Transformer, rows_WT: npt.NDArray[np.int64], half: int
) -> npt.NDArray[np.float64]:
    losses = [token_losses(model, row, len(row) - 1)[0, half:] for row in rows_WT]
    return np.stack(losses)


def _bits(nats: npt.NDArray[np.float64], is_byte: npt.NDArray[np.bool_]) -> float:
    return float(nats.sum()) / math.log(2) / max(1, int(is_byte.sum()))
