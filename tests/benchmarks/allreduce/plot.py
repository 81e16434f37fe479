"""The bars of docs/allreduce.svg, drawn without a library."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import Any, TypeAlias

WIDTH, LABEL, BAR, GAP, HEAD = 860, 250, 16, 6, 40
SCALE = WIDTH - LABEL - 90
COLORS = {"ours": "#1b6ca8", "hivemind": "#c8792b", "gloo": "#7a7a7a", "pccl": "#5d8a3a"}
TEXT = 'font-family="sans-serif" font-size="12" fill="#222"'

Panel: TypeAlias = "tuple[str, list[dict[str, Any]], float | None]"  # title, bars, bound


def svg(lines: Sequence[dict[str, Any]]) -> str:
    """One panel per number of peers (largest buffer, MiB/s) and one per kind of limited links."""
    parts: list[str] = []
    height = 0
    for title, bars, bound in _panels(lines):
        parts.append(f'<g transform="translate(0,{height})">{_panel(title, bars, bound)}</g>')
        height += HEAD + len(bars) * (BAR + GAP) + GAP
    box = f'viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}"'
    background = f'<rect width="{WIDTH}" height="{height}" fill="white"/>'
    body = "\n".join([background, *parts])
    return f'<svg xmlns="http://www.w3.org/2000/svg" {box}>\n{body}\n</svg>\n'


def _panels(lines: Sequence[dict[str, Any]]) -> list[Panel]:
    found: list[Panel] = []
    measured = [line for line in lines if line.get("mib_per_s") is not None]
    loopback = [line for line in measured if line["part"] == "loopback"]
    for peers in sorted({line["peers"] for line in loopback}):
        mib = max(line["mib"] for line in loopback if line["peers"] == peers)
        bars = [x for x in loopback if (x["peers"], x["mib"]) == (peers, mib)]
        found.append((f"Loopback, {peers} peers, {mib} MiB: MiB/s", bars, None))
    limited = [line for line in measured if line["part"] == "links"]
    for slow in dict.fromkeys(line.get("slow_mbit") for line in limited):
        bars = [line for line in limited if line.get("slow_mbit") == slow]
        rates = f"{bars[0]['link_mbit']} Mbit/s" + (f", one peer {slow}" if slow else "")
        title = f"{bars[0]['peers']} peers over {rates}, {bars[0]['mib']} MiB: MiB/s"
        bound = bars[0]["mib"] / bars[0]["bound_s"]
        found.append((f"{title} (line: the bound of a ring)", bars, bound))
    return found


def _panel(title: str, bars: Sequence[dict[str, Any]], bound: float | None) -> str:
    largest = max([line["mib_per_s"] for line in bars] + [bound or 0.0])
    parts = [f'<text x="8" y="24" {TEXT} font-weight="bold">{escape(title)}</text>']
    for index, line in enumerate(bars):
        top = HEAD + index * (BAR + GAP)
        width = line["mib_per_s"] / largest * SCALE
        name = f"{line['impl']} {line['route']} {line['codec']}"
        name += " (encrypted)" if line["encrypted"] else ""
        value = (
            f"{line['mib_per_s']:.3g}" if line["mib_per_s"] < 100 else f"{line['mib_per_s']:.0f}"
        )
        color = COLORS.get(line["impl"], "#999")
        middle = top + BAR - 4
        parts += [
            f'<text x="{LABEL - 8}" y="{middle}" {TEXT} text-anchor="end">{escape(name)}</text>',
            f'<rect x="{LABEL}" y="{top}" width="{width:.1f}" height="{BAR}" fill="{color}"/>',
            f'<text x="{LABEL + width + 6:.1f}" y="{middle}" {TEXT}>{value}</text>',
        ]
    if bound is not None:
        x, bottom = LABEL + bound / largest * SCALE, HEAD + len(bars) * (BAR + GAP)
        points = f'x1="{x:.1f}" x2="{x:.1f}" y1="{HEAD - 4}" y2="{bottom}"'
        parts.append(f'<line {points} stroke="#b00" stroke-dasharray="4 3"/>')
    return "".join(parts)
