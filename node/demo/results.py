"""The demo's outcome as data: what goes into out.json, and whether it counts as a success. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from node.recorder import Recorder, RoundResult

MIN_ROUNDS = 3


@dataclass
class KillDrill:
    """What became of the peer that was killed; times in seconds since training began."""

    peer: str
    at_s: float
    restarted_at_s: float = 0.0
    rejoined_at_s: float | None = None
    voted_again_round: int | None = None

    def as_json(self) -> dict[str, Any]:
        """For out.json; `rejoined_after_s` counts from the kill."""
        rejoined = self.rejoined_at_s
        return {
            "peer": self.peer,
            "at_s": round(self.at_s, 2),
            "restarted_after_s": round(self.restarted_at_s - self.at_s, 2),
            "rejoined_after_s": round(rejoined - self.at_s, 2) if rejoined is not None else None,
            "voted_again": self.voted_again_round is not None,
            "voted_again_round": self.voted_again_round,
        }


@dataclass
class Scores:
    """Bits per byte of each model on each domain's validation text."""

    initial: dict[str, float] = field(default_factory=dict)
    assembled: dict[str, float] = field(default_factory=dict)
    solo: dict[str, dict[str, float]] = field(default_factory=dict)
    """Peer that trained alone -> domain -> bits per byte."""

    def by_domain(self) -> dict[str, dict[str, Any]]:
        """`{domain: {initial, assembled, solo: {peer: bpb}}}`."""
        return {
            domain: {
                "initial": round(self.initial[domain], 4),
                "assembled": round(self.assembled[domain], 4),
                "solo": {peer: round(by[domain], 4) for peer, by in self.solo.items()},
            }
            for domain in self.initial
        }


def mean(values: Mapping[str, float]) -> float:
    """Average over all domains."""
    return sum(values.values()) / len(values)


def rounds_as_json(rounds: Sequence[RoundResult]) -> list[dict[str, Any]]:
    """For out.json, oldest first."""
    return [
        {
            "round": item.round,
            "outcome": item.outcome,
            "hashes_equal": item.hashes_equal,
            "seconds": round(item.seconds, 3),
            "contributors": list(item.contributors),
            "voters": list(item.voters),
            "missing": list(item.missing),
            "attempts": item.attempts,
            "peers_compared": item.compared,
            "loss": round(item.loss, 4),
            "committed_tokens": item.committed_tokens,
            "commit_id": item.commit_id,
        }
        for item in rounds
    ]


def bytes_as_json(recorder: Recorder) -> dict[str, dict[str, int]]:
    """For out.json: traffic per peer, all its processes together."""
    return {node.name: {"sent": node.sent, "received": node.received} for node in recorder.nodes}


def find_problems(scores: Scores, rounds: Sequence[RoundResult], drill: KillDrill) -> list[str]:
    """Everything that keeps the demo from being a success; empty when it is one."""
    problems = []
    for domain, initial in scores.initial.items():
        if not scores.assembled[domain] < initial:
            problems.append(f"{domain}: the assembled model is not better than the initial one")
    for peer, solo in scores.solo.items():
        if not mean(scores.assembled) < mean(solo):
            problems.append(f"the assembled model is not better on the average than {peer} alone")
    if len(rounds) < MIN_ROUNDS:
        problems.append(f"only {len(rounds)} rounds were committed")
    for item in rounds:
        if not item.hashes_equal:
            problems.append(f"round {item.round}: the peers have different hashes")
    if not any(item.compared > 1 for item in rounds):
        problems.append("no round's hashes could be compared")
    if drill.rejoined_at_s is None:
        problems.append(f"{drill.peer} did not rejoin after it was killed")
    if drill.voted_again_round is None:
        problems.append(f"{drill.peer} did not vote again after it was killed")
    return problems
