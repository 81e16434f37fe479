"""The results of `node eval` as tables for a terminal."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from rich.table import Table

Values = Mapping[str, Any]


def tables(result: Values) -> Iterator[Table]:
    """One table for each part of `swarm.evaluation.report` that there is."""
    yield _domains(result)
    yield from _routing(result)
    titles = {
        "leave_one_out": "left out",
        "top_k": "active experts",
        "rank": "rank",
        "size": "experts",
    }
    for kind, title in titles.items():
        if kind in result:
            yield _sweep(result, kind, title)
    if "switch" in result:
        yield _switch(result["switch"])
    if "extraction" in result:
        yield _extraction(result["extraction"])


def _table(first: str, *numbers: str) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column(first)
    for column in numbers:
        table.add_column(column, justify="right")
    return table


def _domains(result: Values) -> Table:
    table = _table("domain", "bits per byte", "tokens")
    table.add_column("share of tokens by expert")
    for name, found in result["domains"].items():
        label = f"{name} (unseen)" if found["unseen"] else name
        shares = " ".join(f"{share:.0%}" for share in found["routing"])
        table.add_row(label, f"{found['bits_per_byte']:.4f}", str(found["tokens"]), shares)
    return table


def _routing(result: Values) -> Iterator[Table]:
    """Domains by experts, for each layer; only for experts with names of their own."""
    if all(name.isdigit() for name in result["experts"]):
        return
    layers = len(next(iter(result["domains"].values()))["routing_by_layer"])
    for layer in range(layers):
        table = _table(f"layer {layer}: tokens of", *(f"to {e}" for e in result["experts"]))
        for name, found in result["domains"].items():
            table.add_row(name, *(f"{s:.0%}" for s in found["routing_by_layer"][layer]))
        yield table


def _sweep(result: Values, kind: str, title: str) -> Table:
    """Bits per byte, and the change from the model as it is."""
    table = _table(title, *result["domains"], "mean")
    whole = [found["bits_per_byte"] for found in result["domains"].values()]
    for label, by_domain in result[kind].items():
        values = list(by_domain.values())
        cells = [_changed(*pair) for pair in zip(values, whole, strict=True)]
        table.add_row(label, *cells, _changed(sum(values), sum(whole), len(values)))
    return table


def _changed(value: float, whole: float, count: int = 1) -> str:
    return f"{value / count:.3f} {100 * (value / whole - 1):+.1f} %"


def _switch(found: Values) -> Table:
    table = _table("first half > second half", "at home", "after the switch", "cost by quarter")
    for name, result in found.items():
        quarters = " ".join(f"{cost:+.2f}" for cost in result["by_quarter"])
        table.add_row(name, f"{result['at_home']:.3f}", f"{result['after_switch']:.3f}", quarters)
    return table


def _extraction(found: Values) -> Table:
    table = _table("drawn out of", "training text", "held-out text", "tokens right")
    for name, parts in found.items():
        training, held_out = parts["training"], parts["held_out"]
        tokens = f"{training['tokens']:.1%} {held_out['tokens']:.1%}"
        table.add_row(name, f"{training['exact']:.1%}", f"{held_out['exact']:.1%}", tokens)
    return table
