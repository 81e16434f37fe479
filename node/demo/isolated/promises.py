"""What the demo of isolated experts has to show, as pure functions over its measurements."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from rich.table import Table
from rich.text import Text

from node.demo.tables import BITS, table_of_domains

Bits = Mapping[str, float]  # bits per byte of held-out text, by domain


@dataclass(frozen=True)
class Outcome:
    """Measurements of one demo.

    `own[d]` is measured on domain d only, with the owner's expert beside the base; `experts[e][d]`
    has that expert on all domains. `without` is the assembly with the expert `out` left out.
    """

    base: Bits
    experts: Mapping[str, Bits]
    assembly: Bits
    out: str
    without: Bits
    withdrawal_refused: bool
    trace_left: bool
    returned_equal: bool
    none_left_equal: bool

    @property
    def own(self) -> Bits:
        """Each owner's expert on its own domain."""
        return {domain: self.experts[domain][domain] for domain in self.base}

    def as_json(self) -> dict[str, Any]:
        """For --json."""
        return {
            "domains": {
                domain: {
                    "base": round(self.base[domain], 4),
                    "own": round(self.own[domain], 4),
                    "assembly": round(self.assembly[domain], 4),
                    "without": round(self.without[domain], 4),
                }
                for domain in self.base
            },
            "out": self.out,
            "withdrawal_refused": self.withdrawal_refused,
            "trace_left": self.trace_left,
            "returned_equal": self.returned_equal,
            "none_left_equal": self.none_left_equal,
        }


def broken_promises(outcome: Outcome) -> list[str]:
    """What did not hold, in words; empty when all did."""
    broken = [
        f"the assembly is not better than the base on {domain}"
        for domain, base in outcome.base.items()
        if outcome.assembly[domain] >= base
    ]
    broken += [
        f"the assembly is not better on the average than the expert of {name} alone"
        for name, bits in outcome.experts.items()
        if _mean(outcome.assembly) >= _mean(bits)
    ]
    if outcome.without[outcome.out] <= outcome.assembly[outcome.out]:
        broken.append(f"{outcome.out} is not worse without its expert")
    facts = {
        "a withdrawn expert was assembled": not outcome.withdrawal_refused,
        "a part of the expert that is out remains": outcome.trace_left,
        "with the expert in again the model is another": not outcome.returned_equal,
        "with all experts out the model is not the base": not outcome.none_left_equal,
    }
    return broken + [problem for problem, holds in facts.items() if holds]


def outcome_table(outcome: Outcome) -> Table:
    """Domains by models; a domain that moved when another's expert left shows by how much."""
    table = table_of_domains(BITS)
    for name in ("base", "own expert", "assembly", f"without {outcome.out}", "moved"):
        table.add_column(name, justify="right")
    for domain in outcome.base:
        values = [outcome.base[domain], outcome.own[domain], outcome.assembly[domain]]
        moved = outcome.without[domain] / outcome.assembly[domain] - 1
        cells = [f"{value:.3f}" for value in (*values, outcome.without[domain])]
        table.add_row(domain, *cells, Text(f"{moved:+.1%}"))
    table.add_section()
    means = (outcome.base, outcome.own, outcome.assembly, outcome.without)
    table.add_row("average", *(f"{_mean(bits):.3f}" for bits in means), "")
    return table


def _mean(bits: Bits) -> float:
    return sum(bits.values()) / len(bits)
