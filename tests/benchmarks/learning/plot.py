"""Learning curves of all arms, as an SVG."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import matplotlib
import numpy as np

from tests.benchmarks.learning.results import Line
from tests.benchmarks.learning.settings import Experiment

matplotlib.use("Agg")
matplotlib.rcParams["svg.hashsalt"] = "learning"  # the same file from the same numbers
from matplotlib import pyplot as plt  # noqa: E402


def learning_curves(experiment: Experiment, lines: Sequence[Line], path: Path) -> None:
    """Mean bits per byte over tokens; a line is the mean of an arm's seeds, a band their range."""
    figure, axes = plt.subplots(figsize=(9, 5.5))
    colors = plt.get_cmap("tab20")
    for index, arm in enumerate(a for a in experiment.arms if not a.idea):
        curves = [line["curve"] for line in lines if line["arm"] == arm.name]
        if not curves:
            continue
        points = min(map(len, curves))
        tokens = np.mean([[x for x, _ in curve[:points]] for curve in curves], axis=0) / 1e6
        bpb = np.array([[y for _, y in curve[:points]] for curve in curves])
        axes.plot(tokens, bpb.mean(axis=0), color=colors(index), label=f"{arm.name} {arm.title}")
        axes.fill_between(tokens, bpb.min(axis=0), bpb.max(axis=0), color=colors(index), alpha=0.2)
    axes.set(xlabel="million training tokens of all peers", ylabel="bits per byte, mean of domains")
    axes.set_yscale("log")
    axes.grid(alpha=0.3, which="both")
    axes.legend(fontsize=8)
    figure.tight_layout()
    figure.savefig(path, metadata={"Date": None})
    plt.close(figure)
