"""Sheets: lines of text above one table, cut to the room that a terminal has. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from node.swarm_view import BARS, resample
from node.text import printable

Cell = str | Text


@dataclass(frozen=True)
class Column:
    """A column; shown where the terminal has at least `from_width` columns.

    Attributes:
        limit: widest that it gets, in characters; 0: the one that takes what is left.
    """

    title: str
    limit: int = 12
    right: bool = False
    from_width: int = 0


@dataclass(frozen=True)
class Sheet:
    """What a page shows. A row has a cell for every column and is one line."""

    above: Sequence[Text] = ()
    columns: Sequence[Column] = ()
    rows: Sequence[Sequence[Cell]] = field(default_factory=tuple)
    styles: Sequence[str] = ()
    """Of the rows; none: all plain."""

    empty: str = ""
    """Said in place of a table without rows."""


def line(*parts: str | tuple[str, str]) -> Text:
    """One line of parts, plain or (text, style), that is cut where the terminal ends."""
    text = Text(no_wrap=True, overflow="ellipsis")
    for part in parts:
        words, style = (part, "") if isinstance(part, str) else part
        text.append(printable(words).replace("\n", " "), style or None)
    return text


def draw(sheet: Sheet, width: int, room: int, scroll: int) -> tuple[RenderableType, int]:
    """The sheet in `room` lines and the number of lines used; its rows from `scroll` on."""
    above = list(sheet.above[:room])
    if not sheet.columns or room - len(above) < 2:
        return Group(*above), len(above)
    if not sheet.rows:
        return Group(*above, line((sheet.empty, "dim"))), len(above) + 1
    space = room - len(above) - 1
    first = min(scroll, max(0, len(sheet.rows) - space))
    shown = range(first, min(first + space, len(sheet.rows)))
    table = _table(sheet, width, shown)
    return Group(*above, table), len(above) + 1 + len(shown)


def _table(sheet: Sheet, width: int, shown: range) -> Table:
    table = Table(
        box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold", width=width,
        expand=True,
    )  # fmt: skip
    kept = [i for i, column in enumerate(sheet.columns) if column.from_width <= width]
    for column in (sheet.columns[i] for i in kept):
        table.add_column(
            column.title, no_wrap=True, overflow="ellipsis", ratio=None if column.limit else 1,
            max_width=column.limit or None, justify="right" if column.right else "left",
        )  # fmt: skip
    for number in shown:
        cells = [sheet.rows[number][i] for i in kept]
        style = sheet.styles[number] if sheet.styles else ""
        table.add_row(*(c if isinstance(c, Text) else line(c) for c in cells), style=style)
    return table


def chart(values: Sequence[float], width: int, height: int) -> list[str]:
    """`height` lines of bars, the newest value right; from the smallest value to the largest."""
    shown = resample(values, width)
    low, high = min(shown, default=0.0), max(shown, default=0.0)
    steps = len(BARS) * height - 1
    tops = [round((v - low) / (high - low) * steps) if high > low else 0 for v in shown]
    lines = []
    for row in reversed(range(height)):
        levels = [top - row * len(BARS) for top in tops]
        lines.append("".join(" " if n < 0 else BARS[min(n, len(BARS) - 1)] for n in levels))
    return lines
