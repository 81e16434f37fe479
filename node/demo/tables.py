"""The demo's closing tables: pure functions from its results to `rich` tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from rich import box
from rich.table import Table
from rich.text import Text

from node.demo.results import Scores, mean

SHADES = " ░▒▓█"
BITS = "bits per byte on held-out text (lower is better)"


def table_of_domains(title: str) -> Table:
    """A table without rows, whose first column is for domains."""
    table = Table(title=title, title_justify="left", box=box.SIMPLE, padding=(0, 1, 0, 0))
    table.add_column("domain")
    return table


def score_table(scores: Scores) -> Table:
    """Bits per byte: rows domains, columns models; the best of a row is bold."""
    table = table_of_domains(BITS)
    columns = {"initial": scores.initial}
    columns |= {f"{peer}\nalone": by_domain for peer, by_domain in scores.solo.items()}
    columns["swarm,\nassembled"] = scores.assembled
    for name in columns:
        table.add_column(name, justify="right")
    for domain in scores.initial:
        table.add_row(domain, *_row([by[domain] for by in columns.values()]))
    table.add_section()
    table.add_row("average", *_row([mean(by) for by in columns.values()]))
    return table


def routing_table(shares: Mapping[str, Sequence[float]], holders: Mapping[int, str]) -> Table:
    """Share of each domain's tokens that go to each expert; `holders` says who trained it."""
    table = table_of_domains("share of tokens by expert and who trained it")
    experts = len(next(iter(shares.values())))
    for expert in range(experts):
        holder = holders.get(expert, "")
        table.add_column(f"{expert}\n{holder}", justify="right")
    for domain, row in shares.items():
        top = max(row)
        cells = (f"{SHADES[round(s / top * (len(SHADES) - 1))]}{s:4.0%}" for s in row)
        table.add_row(domain, *cells)
    return table


def _row(values: Sequence[float]) -> list[Text]:
    best = min(values)
    return [Text(f"{v:.3f}", style="bold green" if v == best else "") for v in values]
