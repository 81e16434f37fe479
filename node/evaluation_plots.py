"""The results of `node eval` as PNG files, drawn with matplotlib, which is an extra."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from swarm.errors import Code, SwarmError
from swarm.files import storage_error

Values = Mapping[str, Any]


def require_matplotlib() -> Any:
    """`matplotlib.pyplot` without a screen. Raises `USAGE` when it is not installed."""
    try:
        import matplotlib
    except ImportError as error:
        hint = "pip install 'expertswarm[plot]', or leave --plots out"
        raise SwarmError(Code.USAGE, "--plots needs matplotlib", hint) from error
    matplotlib.use("Agg")
    from matplotlib import pyplot

    return pyplot


def write_plots(result: Values, directory: Path) -> list[Path]:
    """One file for each part of `swarm.evaluation.report` that there is.

    Raises `USAGE` without matplotlib, `DIR_NOT_WRITABLE` or `DISK_FULL`.
    """
    pyplot = require_matplotlib()
    figures = {
        "bits-per-byte": _bars(pyplot, result["domains"]),
        "routing": _routing(pyplot, result),
    }
    for kind, label in (
        ("leave_one_out", "left out"), ("top_k", "active experts"), ("rank", "rank of the experts"),
        ("size", "number of experts"),
    ):  # fmt: skip
        if kind in result:
            figures[kind.replace("_", "-")] = _sweep(pyplot, result, kind, label)
    if "switch" in result:
        figures["switch"] = _switch(pyplot, result)
    written = []
    try:
        directory.mkdir(parents=True, exist_ok=True)
        for name, figure in figures.items():
            path = directory / f"{name}.png"
            figure.savefig(path, dpi=120, bbox_inches="tight")
            written.append(path)
    except OSError as error:
        raise storage_error(directory, error) from error
    finally:
        pyplot.close("all")
    return written


def _bars(pyplot: Any, domains: Values) -> Any:
    figure, axes = pyplot.subplots(figsize=(6, 0.4 * len(domains) + 1))
    values = [result["bits_per_byte"] for result in domains.values()]
    colors = ["#c8792b" if result["unseen"] else "#1b6ca8" for result in domains.values()]
    axes.barh(list(domains), values, color=colors)
    axes.invert_yaxis()
    axes.set_xlabel("bits per byte")
    return figure


def _routing(pyplot: Any, result: Values) -> Any:
    """One panel for each layer: domains by experts."""
    domains, experts = result["domains"], result["experts"]
    layers = len(next(iter(domains.values()))["routing_by_layer"])
    size = (1.2 + 0.5 * len(experts), 0.4 * len(domains) + 1.6)
    figure, panels = pyplot.subplots(
        1, layers, figsize=(size[0] * layers, size[1]), sharey=True, squeeze=False
    )
    largest = max(max(map(max, found["routing_by_layer"])) for found in domains.values())
    for layer, axes in enumerate(panels[0]):
        shares = [found["routing_by_layer"][layer] for found in domains.values()]
        image = axes.imshow(shares, vmin=0, vmax=largest, cmap="Blues", aspect="auto")
        axes.set_title(f"layer {layer}")
        axes.set_xticks(range(len(experts)), experts, rotation=90)
        axes.set_yticks(range(len(domains)), list(domains))
    figure.colorbar(image, ax=list(panels[0]), label="share of the routed tokens")
    return figure


def _sweep(pyplot: Any, result: Values, kind: str, label: str) -> Any:
    """Change of each domain's bits per byte from the model as it is, in percent."""
    figure, axes = pyplot.subplots(figsize=(7, 4))
    variants = result[kind]
    line = "-" if all(label.isdigit() for label in variants) else ""  # else nothing lies between
    for domain, whole in result["domains"].items():
        changes = [100 * (v[domain] / whole["bits_per_byte"] - 1) for v in variants.values()]
        axes.plot(list(variants), changes, line, marker="o", label=domain)
    axes.axhline(0, color="#222", linewidth=0.8)
    axes.set_xlabel(label)
    axes.set_ylabel("change in bits per byte, %")
    axes.tick_params(axis="x", rotation=0 if line else 90)
    axes.legend(fontsize=8)
    return figure


def _switch(pyplot: Any, result: Values) -> Any:
    """Cost of a switch by quarter of the text after it, mean over what came before."""
    figure, axes = pyplot.subplots(figsize=(7, 4))
    for domain in result["domains"]:
        rows = [
            found["by_quarter"]
            for name, found in result["switch"].items()
            if name.endswith(f"> {domain}")
        ]
        if rows:
            means = [sum(column) / len(rows) for column in zip(*rows, strict=True)]
            axes.plot(["first", "second", "third", "last"], means, marker="o", label=domain)
    axes.set_xlabel("quarter of the text after the switch")
    axes.set_ylabel("bits per byte more than at home")
    axes.legend(fontsize=8)
    return figure
