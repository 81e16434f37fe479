"""Tables and the plot of the results: the part of docs/results.md between two marks."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
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
    learning_curves(experiment, [x for x in lines if "part" not in x], docs / "learning.svg")


def markdown(experiment: Experiment, lines: Sequence[Line]) -> str:
    """The tables. Numbers are means over the seeds."""
    of_arm = {
        arm.name: [x for x in lines if x["arm"] == arm.name and "part" not in x]
        for arm in experiment.arms
    }
    done = [arm for arm in experiment.arms if of_arm[arm.name]]
    arms = [arm for arm in done if not arm.idea]
    parts = [
        "![Learning curves](learning.svg)\n",
        _learning(experiment, arms, of_arm),
        _ideas([arm for arm in done if arm.idea], of_arm),
        _costs(arms, of_arm),
        _own(experiment, arms, of_arm),
        _memory([x for x in lines if x.get("part") == "memory"]),
        _processes([x for x in lines if x.get("part") == "processes"]),
    ]
    return "\n".join(part for part in parts if part)


def _learning(experiment: Experiment, arms: list[Arm], of_arm: dict[str, list[Line]]) -> str:
    head = ["arm", "", *experiment.domains, "mean", "± of seeds", "seeds", f"against {CENTRAL}"]
    rows = []
    for arm in arms:
        lines = of_arm[arm.name]
        means = [line["mean_bpb"] for line in lines]
        rows.append(
            [
                arm.name,
                arm.title,
                *(f"{_mean(lines, lambda x, d=d: x['bpb'][d]):.3f}" for d in experiment.domains),
                f"{statistics.mean(means):.3f}",
                f"{statistics.stdev(means):.3f}" if len(means) > 1 else "–",
                str(len(means)),
                _against(of_arm[CENTRAL], {x["seed"]: x["mean_bpb"] for x in lines}),
            ]
        )
    return "Bits per byte on held-out text:\n\n" + _table(head, rows)


def _ideas(arms: list[Arm], of_arm: dict[str, list[Line]]) -> str:
    rows = []
    for arm in arms:
        means = {line["seed"]: line["mean_bpb"] for line in of_arm[arm.name]}
        mean = f"{statistics.mean(means.values()):.3f}"
        against = _against(of_arm[CENTRAL], means)
        rows.append([f"`{arm.name}`", arm.title, mean, str(len(means)), against])
    head = ["idea", "", "mean", "seeds", f"against {CENTRAL}"]
    return "What was tried to come closer:\n\n" + _table(head, rows) if rows else ""


def _costs(arms: list[Arm], of_arm: dict[str, list[Line]]) -> str:
    head = [
        "arm", "MB sent by a peer", "times fewer than gradients", "training memory of a peer, MB",
        "CPU s of all peers", "routing entropy",
    ]  # fmt: skip
    gradients = _mean(of_arm[CENTRAL], lambda x: x["bytes_sent_per_peer"])
    rows = []
    for arm in arms:
        lines = of_arm[arm.name]
        sent = _mean(lines, lambda x: x["bytes_sent_per_peer"])
        rows.append(
            [
                arm.name,
                f"{sent / 1e6:.3g}",
                f"{gradients / sent:.3g}" if sent else "–",
                f"{_mean(lines, lambda x: x['peak_train_bytes_per_peer']) / 1e6:.1f}",
                f"{_mean(lines, lambda x: x['seconds']):.0f}",
                f"{_mean(lines, lambda x: x['routing']['entropy']):.3f}",
            ]
        )
    return "What it costs:\n\n" + _table(head, rows)


def _own(experiment: Experiment, arms: list[Arm], of_arm: dict[str, list[Line]]) -> str:
    """What peers have by themselves, and held-only swarms after router calibration."""
    head = ["arm", "what", *experiment.domains, "mean", f"against {CENTRAL}"]
    names = {
        "own_bpb": "each domain by its own peer's part",
        "mixture_bpb": "the peers' parts mixed, no label of the domain",
        "calibrated_bpb": "the whole model, routers calibrated",
    }
    rows = []
    for arm in arms:
        for key, what in names.items():
            lines = [line for line in of_arm[arm.name] if key in line]
            if lines:
                by_domain = [
                    _mean(lines, lambda x, k=key, d=d: x[k][d]) for d in experiment.domains
                ]
                cells = [f"{x:.3f}" for x in (*by_domain, statistics.mean(by_domain))]
                by_seed = {x["seed"]: statistics.mean(x[key].values()) for x in lines}
                rows.append([arm.name, what, *cells, _against(of_arm[CENTRAL], by_seed)])
    return "Parts of models:\n\n" + _table(head, rows) if rows else ""


def _memory(lines: Sequence[Line]) -> str:
    head = ["model", "peer", "parameters, MB", "peak of a training step, MB", "of DiLoCo's"]
    full = {x["model"]: x["peak_train_bytes"] for x in lines if x["arm"] == "B"}
    rows = [
        [
            x["model"],
            x["title"],
            f"{x['parameter_bytes'] / 1e6:.1f}",
            f"{x['peak_train_bytes'] / 1e6:.1f}",
            f"{x['peak_train_bytes'] / full[x['model']]:.2f}",
        ]
        for x in lines
    ]
    return "Memory of tensors, measured:\n\n" + _table(head, rows) if rows else ""


def _processes(lines: Sequence[Line]) -> str:
    head = [
        "arm with real processes", "rounds", "with the same bits as in one process",
        "bytes sent by a node, counted", "computed", "seconds per round",
    ]  # fmt: skip
    keys = ("arm", "rounds", "equal_rounds", "bytes_sent_counted", "bytes_sent_computed")
    rows = [[*(str(x[key]) for key in keys), str(x["seconds_per_round"])] for x in lines]
    return _table(head, rows) if rows else ""


def _against(central: Sequence[Line], mean_bpb: Mapping[int, float]) -> str:
    """Mean difference, seed by seed: all arms of a seed read the same text."""
    others = {line["seed"]: line["mean_bpb"] for line in central}
    found = [own / others[seed] - 1 for seed, own in mean_bpb.items() if seed in others]
    return f"{100 * statistics.mean(found):+.1f} %" if found else "–"


def _mean(lines: Sequence[Line], value: Callable[[Line], float]) -> float:
    return statistics.mean(value(line) for line in lines)


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "".join(f"| {' | '.join(cells)} |\n" for cells in lines)
