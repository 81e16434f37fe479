"""Tables and a plot of the lines of bench_allreduce.py.

    .venv/bin/python tests/benchmarks/bench_allreduce.py --results docs       # runs and writes
    cd tests/benchmarks && python -m allreduce.table LINES.jsonl... ../../docs   # writes only

Replaces what stands between two marks in results.md, and writes allreduce.svg beside it.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from allreduce import plot

Line = dict[str, Any]
BEGIN, END = "<!-- allreduce: begin -->", "<!-- allreduce: end -->"
TITLE = "# Results\n"
COMMAND = 'make bench BENCH=allreduce ARGS="--results docs"'
COLUMNS = ("MiB", "median s", "MiB/s", "min to max s", "CPU s/GiB", "max error")
LINK_COLUMNS = ("link Mbit/s", "MiB", "median s", "bound s", "bound / median", "CPU s/GiB")
KILL_COLUMNS = ("MiB", "undisturbed s", "kill to result s", "survivors hold")


def machine() -> Line:
    """Where and with what the lines were measured."""
    cpu = platform.processor() or platform.machine()
    if Path("/proc/cpuinfo").exists():
        names = [x for x in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in x]
        cpu = names[0].partition(":")[2].strip() if names else cpu
    control = Path("/proc/sys/net/ipv4/tcp_congestion_control")
    return {
        "bench": "machine",
        "cpu": cpu,
        "cores": len(os.sched_getaffinity(0)),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "loopback_congestion": control.read_text().strip() if control.exists() else "",
        **{name: importlib.metadata.version(name) for name in ("torch", "hivemind", "numpy")},
        "pccl": "1.0.0",
    }


def comparisons(lines: Iterable[Line]) -> list[Line]:
    """For each case on loopback: speed by ratios, and what encryption costs."""
    cases: dict[tuple[int, int], dict[str, Line]] = {}
    for line in lines:
        if line.get("part") == "loopback" and line["median_s"] is not None:
            cases.setdefault((line["peers"], line["mib"]), {})[name_of(line)] = line
    found = []
    for (peers, mib), by_name in cases.items():

        def faster(ours: str, other: str, case: dict[str, Line] = by_name) -> float | None:
            if ours not in case or other not in case:
                return None
            return float(round(case[other]["median_s"] / case[ours]["median_s"], 2))

        sealed, plain = "ours/direct/fp32", "ours/plain/fp32"
        ratios = {
            "direct_to_hivemind": faster(sealed, "hivemind/libp2p/fp32"),
            "tunnel_to_hivemind": faster("ours/tunnel/fp32", "hivemind/libp2p/fp32"),
            "direct_int8_to_hivemind": faster("ours/direct/int8", "hivemind/libp2p/fp32"),
            "tunnel_int8_to_hivemind": faster("ours/tunnel/int8", "hivemind/libp2p/fp32"),
            "direct_to_pccl": faster(sealed, "pccl/tcp/fp32"),
            "direct_to_gloo": faster(sealed, "gloo/tcp/fp32"),
            "plain_to_pccl": faster(plain, "pccl/tcp/fp32"),
            "plain_to_gloo": faster(plain, "gloo/tcp/fp32"),
            "direct_int8_to_fp32": faster("ours/direct/int8", sealed),
            "tunnel_int8_to_fp32": faster("ours/tunnel/int8", "ours/tunnel/fp32"),
        }
        if sealed in by_name and plain in by_name:
            with_s, without_s = (by_name[name]["median_s"] for name in (sealed, plain))
            ratios["encryption_share_of_time"] = round(1 - without_s / with_s, 3)
            with_cpu, without_cpu = (by_name[name]["cpu_s_per_gib"] for name in (sealed, plain))
            ratios["encryption_cpu_s_per_gib"] = round(with_cpu - without_cpu, 2)
        case = {"bench": "allreduce_ratios", "peers": peers, "mib": mib}
        found.append(case | {name: x for name, x in ratios.items() if x is not None})
    return found


def name_of(line: Line) -> str:
    """impl/route/codec."""
    return f"{line['impl']}/{line['route']}/{line['codec']}"


def write(lines: Sequence[Line], folder: Path) -> None:
    """Write results.md (between its marks) and allreduce.svg into the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "results.md"
    text = path.read_text() if path.exists() else f"{TITLE}\n{BEGIN}\n{END}\n"
    if BEGIN not in text or END not in text:
        text += f"\n{BEGIN}\n{END}\n"
    before, after = text.partition(BEGIN)[0], text.partition(END)[2]
    path.write_text(f"{before}{BEGIN}\n{markdown(lines)}{END}{after}")
    (folder / "allreduce.svg").write_text(plot.svg(lines))


def markdown(lines: Sequence[Line]) -> str:
    """The section of results.md."""
    parts = [_head(lines)]
    loopback = [line for line in lines if line.get("part") == "loopback" and "peers" in line]
    for peers in sorted({line["peers"] for line in loopback}):
        rows = [line for line in loopback if line["peers"] == peers]
        parts.append(f"### Loopback, {peers} peers\n\n" + _table(COLUMNS, rows, _loopback_cells))
    ratios = [line for line in lines if line.get("bench") == "allreduce_ratios"]
    if ratios:
        parts.append("### Ratios on loopback (times faster)\n\n" + _ratio_table(ratios))
    limited = [line for line in lines if line.get("part") == "links" and "peers" in line]
    if limited:
        note = (
            "Network namespaces, token buckets on both ends of each link, cubic. The bound is what "
            "a ring of fp32 needs at the slowest link's rate: 2 (N-1)/N bytes / rate.\n\n"
        )
        parts.append("### Limited links\n\n" + note + _table(LINK_COLUMNS, limited, _link_cells))
    killed = [line for line in lines if line.get("part") == "kill"]
    if killed:
        title = "### One of four peers killed (SIGKILL) halfway\n\n"
        parts.append(title + _table(KILL_COLUMNS, killed, _kill_cells))
    return "\n".join(parts)


def _head(lines: Sequence[Line]) -> str:
    where = next((line for line in lines if line.get("bench") == "machine"), {})
    facts = ", ".join(f"{name} {x}" for name, x in where.items() if name not in ("bench", "cpu"))
    return f"""## All-reduce

`{COMMAND}` measures all of this and writes this section.
Measured on {where.get("cpu", "?")}: {facts}.

One fp32 buffer per peer is averaged; medians of interleaved turns; every value is checked against
the true mean. Ours: from the call to the committed result, agreement included. hivemind: without
its matchmaking. CPU: all processes, per GiB of fp32 that a ring would send. A dash: not measured,
or it failed.

![All-reduce side by side](allreduce.svg)
"""


def _table(
    columns: Sequence[str], lines: Iterable[Line], cells: Callable[[Line], Sequence[str]]
) -> str:
    head = ["implementation", "encrypted", *columns]
    rows = []
    for line in lines:
        name = f"{line['impl']}, {line['route']}, {line['codec']}"
        rows.append([name, "yes" if line["encrypted"] else "no", *cells(line)])
    return _rows(head, rows)


def _rows(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "".join(f"| {' | '.join(cells)} |\n" for cells in lines)


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.3g}" if value < 100 else f"{value:.0f}"


def _loopback_cells(line: Line) -> list[str]:
    spread = f"{line['min_s']:.3g} to {line['max_s']:.3g}" if "min_s" in line else "–"
    return [
        str(line["mib"]),
        _number(line["median_s"]),
        _number(line["mib_per_s"]),
        spread,
        _number(line.get("cpu_s_per_gib")),
        _number(line.get("max_error")),
    ]


def _link_cells(line: Line) -> list[str]:
    rates = f"{line['link_mbit']}, one {line['slow_mbit']}" if "slow_mbit" in line else ""
    numbers = (line["median_s"], line["bound_s"], line.get("bound_ratio"))
    cells = [rates or str(line["link_mbit"]), str(line["mib"]), *map(_number, numbers)]
    return [*cells, _number(line.get("cpu_s_per_gib"))]


def _kill_cells(line: Line) -> list[str]:
    numbers = (line.get("undisturbed_s"), line["recovery_s"])
    return [str(line["mib"]), *map(_number, numbers), line["outcome"].replace("|", "/")]


def _ratio_table(ratios: Sequence[Line]) -> str:
    names = list(dict.fromkeys(x for line in ratios for x in line))
    names = [name for name in names if name not in ("bench", "peers", "mib")]
    head = ["", *(f"{line['peers']} peers, {line['mib']} MiB" for line in ratios)]
    rows = [
        [name.replace("_", " "), *(_number(line.get(name)) for line in ratios)] for name in names
    ]
    return _rows(head, rows)


if __name__ == "__main__":
    *sources, target = map(Path, sys.argv[1:])
    texts = [text for source in sources for text in source.read_text().splitlines()]
    write([json.loads(text) for text in texts if text.startswith("{")], target)
