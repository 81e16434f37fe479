"""Tables and the plot of the results: the part of docs/results.md between two marks."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from pathlib import Path

from tests.benchmarks.learning.plot import learning_curves
from tests.benchmarks.learning.results import Line
from tests.benchmarks.learning.settings import Arm, Experiment

BEGIN, END = "<!-- learning: begin -->", "<!-- learning: end -->"
CENTRAL = "A"


def write(experiment: Experiment, lines: Sequence[Line], docs: Path) -> None:
    """Write the tables into results.md, and learning.svg beside it."""
    path = docs / "results.md"
    before, _, rest = path.read_text(encoding="utf-8").partition(BEGIN)
    assert END in rest, f"{path} has no {BEGIN} ... {END}"
    after = rest.partition(END)[2]
    path.write_text(f"{before}{BEGIN}\n{markdown(experiment, lines)}{END}{after}", encoding="utf-8")
    learning_curves(experiment, lines, docs / "learning.svg")


def markdown(experiment: Experiment, lines: Sequence[Line]) -> str:
    """The tables. Numbers are means over the seeds."""
    of_arm = {arm.name: [x for x in lines if x["arm"] == arm.name] for arm in experiment.arms}
    arms = [arm for arm in experiment.arms if of_arm[arm.name]]
    central = of_arm[CENTRAL]
    head = [
        "arm", "", *experiment.domains, "mean", "± over seeds", f"to {CENTRAL}", "MB sent per peer",
        "times fewer bytes", "training memory, MB", "CPU s",
    ]  # fmt: skip
    rows = [_row(experiment, arm, of_arm[arm.name], central) for arm in arms]
    return "\n".join(["![Learning curves](learning.svg)", "", _table(head, rows)])


def _row(experiment: Experiment, arm: Arm, lines: list[Line], central: list[Line]) -> list[str]:
    by_domain = [_mean(lines, lambda x, d=d: x["bpb"][d]) for d in experiment.domains]
    means = [line["mean_bpb"] for line in lines]
    mean, sent = statistics.mean(means), _mean(lines, lambda x: x["bytes_sent_per_peer"])
    reference, gradients = (_mean(central, lambda x, k=k: x[k]) for k in ("mean_bpb", "bytes_sent_per_peer"))
    return [
        arm.name,
        arm.title,
        *(f"{x:.3f}" for x in by_domain),
        f"**{mean:.3f}**",
        f"{statistics.stdev(means):.3f}" if len(means) > 1 else "one seed",
        f"{100 * (mean / reference - 1):+.1f} %",
        f"{sent / 1e6:.3g}",
        f"{gradients / sent:.0f}" if sent else "–",
        f"{_mean(lines, lambda x: x['peak_train_bytes_per_peer']) / 1e6:.1f}",
        f"{_mean(lines, lambda x: x['seconds']):.0f}",
    ]


def _mean(lines: Sequence[Line], value: Callable[[Line], float]) -> float:
    return statistics.mean(value(line) for line in lines)


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "".join(f"| {' | '.join(cells)} |\n" for cells in lines)
