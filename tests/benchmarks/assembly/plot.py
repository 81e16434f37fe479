"""The bars of docs/assembly.svg, drawn without a library."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape

WIDTH, LABEL, BAR, GAP, HEAD = 760, 260, 16, 6, 34
TEXT = 'font-family="sans-serif" font-size="12" fill="#222"'


def svg(means: Mapping[str, float]) -> str:
    """One bar for each arm: mean bits per byte, from zero."""
    scale = (WIDTH - LABEL - 70) / max(means.values())
    parts = [f'<text x="8" y="20" {TEXT}>mean bits per byte, lower is better</text>']
    for number, (name, value) in enumerate(means.items()):
        y = HEAD + number * (BAR + GAP)
        color = "#1b6ca8" if name.startswith("assembly") else "#9a9a9a"
        width = value * scale
        parts += [
            f'<text x="{LABEL - 8}" y="{y + 12}" text-anchor="end" {TEXT}>{escape(name)}</text>',
            f'<rect x="{LABEL}" y="{y}" width="{width:.1f}" height="{BAR}" fill="{color}"/>',
            f'<text x="{LABEL + width + 6:.1f}" y="{y + 12}" {TEXT}>{value:.3f}</text>',
        ]
    height = HEAD + len(means) * (BAR + GAP) + 8
    body = "\n".join(parts)
    size = f'width="{WIDTH}" height="{height}"'
    return f'<svg xmlns="http://www.w3.org/2000/svg" {size}>\n{body}\n</svg>\n'
