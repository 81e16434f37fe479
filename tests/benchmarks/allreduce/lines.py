"""The JSON lines of bench_allreduce.py."""

from __future__ import annotations

import statistics
from dataclasses import dataclass, field
from typing import Any

from allreduce.group import Outcome
from allreduce.variants import Variant


@dataclass
class Samples:
    """What one implementation did in one case."""

    outcomes: list[Outcome] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)


def case(part: str, variant: Variant, peers: int, mib: int) -> dict[str, Any]:
    """What was measured."""
    return {
        "bench": "allreduce",
        "part": part,
        "impl": variant.impl,
        "route": variant.route,
        "codec": variant.codec,
        "encrypted": variant.encrypted,
        "peers": peers,
        "mib": mib,
    }


def figures(samples: Samples, mib: int, sent_gib: float, bound_s: float | None) -> dict[str, Any]:
    """What came out. `sent_gib`: fp32 that a ring of all peers sends; see bench_allreduce.py."""
    line: dict[str, Any] = {"median_s": None, "mib_per_s": None, "bound_s": bound_s}
    if bound_s is not None:
        line["bound_s"] = round(bound_s, 3)
    if samples.outcomes:
        seconds = [outcome.seconds for outcome in samples.outcomes]
        median_s = statistics.median(seconds)
        cpu_s = statistics.median(outcome.cpu_s for outcome in samples.outcomes)
        line |= {
            "median_s": round(median_s, 4),
            "mib_per_s": round(mib / median_s, 1),
            "min_s": round(min(seconds), 4),
            "max_s": round(max(seconds), 4),
            "repeats": len(seconds),
            "cpu_s_per_gib": round(cpu_s / sent_gib, 2),
            "max_error": float(f"{max(o.max_error for o in samples.outcomes):.2g}"),
        }
        if bound_s is not None:
            line["bound_ratio"] = round(bound_s / median_s, 3)
        steps = [o.step_s for o in samples.outcomes if o.step_s is not None]
        if steps:
            line["with_matchmaking_s"] = round(statistics.median(steps), 4)
    if samples.failures:
        line |= {"failures": len(samples.failures), "failure": samples.failures[-1]}
    return line
