"""Tables and the plot of docs/results.md, from the lines of all arms and seeds."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from tests.benchmarks.assembly.arms import MARGINS, RANKS, arms
from tests.benchmarks.assembly.plot import svg
from tests.benchmarks.assembly.texts import OWNERS, PUBLIC, UNSEEN

BEGIN, END = "<!-- assembly -->", "<!-- /assembly -->"
OURS = ("assembly", "assembly + router tuning", "assembly + router tuning, chosen text")
BEATEN = (  # what the assembly should be better than on the mean
    "soup", "weighted soup", "BTM ensemble", "BTM ensemble top-2", "prompt routing",
    "BTX without pooled data", "own experts: soup", "own experts: ensemble",
    "own experts: prompt routing",
)  # fmt: skip
UNRESTRICTED = ("unrestricted MoE", "unrestricted MoE, twice the compute")
MAIN = ("base", "own expert", "own branch", *OURS, *BEATEN, *UNRESTRICTED)
ABLATION = (
    "assembly", "assembly - bias", "assembly - public text", "assembly - embedding",
    "assembly - anchor",
    "assembly, n-grams", *OURS[1:],
    *(f"assembly margin {margin}" for margin in MARGINS),
    "assembly top-1", "assembly top-2", "assembly top-3", "assembly top-7",
)  # fmt: skip

Lines = Sequence[dict[str, Any]]


def write_tables(lines: Lines, docs: Path) -> None:
    """Replace the part between the marks in `results.md` and draw `assembly.svg`."""
    page = docs / "results.md"
    text = page.read_text(encoding="utf-8")
    before, _, rest = text.partition(BEGIN)
    _, found, after = rest.partition(END)
    if not found:
        raise SystemExit(f"{page} lacks the marks {BEGIN} and {END}")
    (docs / "assembly.svg").write_text(svg(means(lines, MAIN)), encoding="utf-8")
    page.write_text(f"{before}{BEGIN}\n{report(lines)}\n{END}{after}", encoding="utf-8")


def report(lines: Lines) -> str:
    """Markdown: the comparison, what was promised, the ablation, leave-one-out, ranks."""
    domains = (*OWNERS, PUBLIC, UNSEEN)
    left_out = relative(lines, [f"assembly without {domain}" for domain in OWNERS], domains)
    ranked = relative(lines, [f"assembly rank {rank}" for rank in RANKS], domains)
    sections = {
        "What was asked for": "\n".join(f"- {verdict}" for verdict in verdicts(lines)),
        "Ablation and number of active experts": table(lines, ABLATION, domains),
        "One expert left out": left_out and f"Change in percent from all.\n\n{left_out}",
        "Experts of low rank": ranked
        and f"Change in percent from whole matrices.\n\n{ranked}\n\n{ranks(lines)}",
        "One owner's expert alone on every domain": table(
            lines, [f"solo {domain}" for domain in OWNERS], domains
        ),
    }
    head = (
        f"Seeds: {len({line['seed'] for line in lines})}. The mean of own experts and branches is "
        "over the owners' domains alone."
    )
    parts = [f"### {title}\n\n{text}" for title, text in sections.items() if text]
    return "\n\n".join([head, table(lines, MAIN, domains), *parts])


def table(lines: Lines, names: Sequence[str], domains: Sequence[str]) -> str:
    """Mean over the seeds of bits per byte, for the arms that are there."""
    head = ["arm", *domains, "mean", "±", "parameters", "active"]
    rows = []
    for name in names:
        if not (found := of(lines, name)):
            continue
        spread = stdev(line["mean_bpb"] for line in found) if len(found) > 1 else 0.0
        cells = [f"{mean(found, d):.3f}" if d in found[0]["bpb"] else "" for d in domains]
        rows.append(
            [name, *cells, f"{fmean(line['mean_bpb'] for line in found):.3f}", f"{spread:.3f}"]
            + [f"{found[0][key] / 1e6:.2f} M" for key in ("parameters", "active_parameters")]
        )
    return markdown(head, rows)


def relative(lines: Lines, names: Sequence[str], domains: Sequence[str]) -> str:
    """Percent by which arms differ from the assembly."""
    whole = of(lines, "assembly")
    rows = [
        [name.removeprefix("assembly ")]
        + [f"{100 * (mean(found, d) / mean(whole, d) - 1):+.1f}" for d in domains]
        + [f"{100 * (mean_of(found) / mean_of(whole) - 1):+.2f}"]
        for name in names
        if (found := of(lines, name))
    ]
    return markdown(["", *domains, "mean"], rows)


def ranks(lines: Lines) -> str:
    """For every owner's domain the smallest rank within 1 % of the whole matrices."""
    whole = of(lines, "assembly")
    if not whole:
        return ""
    found = {rank: of(lines, f"assembly rank {rank}") for rank in RANKS}

    def smallest(value: Callable[[Lines], float]) -> str:
        fits = [r for r, at in found.items() if at and value(at) <= 1.01 * value(whole)]
        return str(min(fits)) if fits else f"over {max(RANKS)}"

    own = ", ".join(f"{d} {smallest(lambda at, d=d: mean(at, d))}" for d in OWNERS)
    base = of(lines, "base")
    sizes = ", ".join(
        f"{rank}: {share(at, base) / share(whole, base):.0%}" for rank, at in found.items() if at
    )
    return (
        f"Smallest rank within 1 %: on the mean {smallest(mean_of)}; by domain {own}. "
        f"Size of the experts by rank, of whole ones: {sizes}."
    )


def share(found: Lines, base: Lines) -> int:
    """Parameters beside the base's."""
    return int(found[0]["parameters"] - base[0]["parameters"])


def verdicts(lines: Lines) -> list[str]:
    """Each promise with its number, for the assembly as it is and for two that public text made."""
    base, own = of(lines, "base"), of(lines, "own expert")
    found = []
    for name in OURS if base and own else ():
        if assembly := of(lines, name):
            found += [f"{name}: {text}" for text in verdicts_of(lines, assembly, base, own)]
    return found


def verdicts_of(lines: Lines, assembly: Lines, base: Lines, own: Lines) -> list[str]:
    worse = [d for d in (*OWNERS, PUBLIC) if mean(assembly, d) >= mean(base, d)]
    found = ["better than the base on every domain: " + (f"not on {worse}" if worse else "yes")]
    for name in BEATEN:
        if other := of(lines, name):
            gap = 100 * (mean_of(assembly) / mean_of(other) - 1)
            found.append(f"better than {name} on the mean: {yes(gap < 0)} ({gap:+.2f} %)")
    gaps = {d: 100 * (mean(assembly, d) / mean(own, d) - 1) for d in OWNERS}
    listed = ", ".join(f"{d} {gap:+.1f} %" for d, gap in gaps.items())
    ok = yes(max(gaps.values()) <= 3)
    found.append(f"within 3 % of each owner's own expert on its domain: {ok} ({listed})")
    for name in UNRESTRICTED:
        if other := of(lines, name):
            gap = 100 * (mean_of(assembly) / mean_of(other) - 1)
            found.append(f"distance to {name}: {gap:+.2f} %")
    return found


def yes(holds: bool) -> str:
    return "yes" if holds else "no"


def of(lines: Lines, name: str) -> list[dict[str, Any]]:
    return [line for line in lines if line["arm"] == name]


def mean(found: Lines, domain: str) -> float:
    return fmean(line["bpb"][domain] for line in found)


def mean_of(found: Lines) -> float:
    return fmean(line["mean_bpb"] for line in found)


def means(lines: Lines, names: Sequence[str]) -> dict[str, float]:
    return {name: mean_of(found) for name in names if (found := of(lines, name))}


def markdown(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    if not rows:
        return ""
    rule = ["---", *["---:"] * (len(head) - 1)]
    return "\n".join("| " + " | ".join(row) + " |" for row in (head, rule, *rows))


assert {*MAIN, *ABLATION} <= {arm.name for arm in arms()}
