"""Runs an arm with one seed to its end, and measures it on the way: one line of the results."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import numpy as np

from swarm.data import Corpus
from swarm.evaluation.measure import measure
from swarm.training.metrics import largest_load, routing_entropy
from tests.benchmarks.learning.memory import peak_training_bytes
from tests.benchmarks.learning.runs import Run, start
from tests.benchmarks.learning.settings import Arm, Experiment

Line = dict[str, Any]


def run_arm(experiment: Experiment, arm: Arm, seed: int, corpora: Mapping[str, Corpus]) -> Line:
    """Train and measure; see `__main__` for the keys. `seconds`: processor time of training."""
    run = start(arm, seed, experiment.tokens, corpora)
    curve: list[tuple[int, float]] = []
    seconds = 0.0
    while run.tokens < experiment.tokens:
        began = time.process_time()
        run.advance()
        seconds += time.process_time() - began
        if run.tokens * experiment.curve_points >= experiment.tokens * (len(curve) + 1):
            found = evaluate(run, corpora, experiment.curve_tokens)
            curve.append((run.tokens, round(float(np.mean(list(found["bpb"].values()))), 4)))
    result = evaluate(run, corpora, experiment.final_tokens)
    return {
        "arm": arm.name,
        "seed": seed,
        "tokens": run.tokens,
        **result,
        "mean_bpb": round(float(np.mean(list(result["bpb"].values()))), 4),
        "bytes_sent_per_peer": round(run.bytes_per_peer),
        "bytes_received_per_peer": round(run.bytes_per_peer),
        "peak_train_bytes_per_peer": peak_training_bytes(run.trainer()),
        "seconds": round(seconds, 1),
        "curve": curve,
    }


def evaluate(run: Run, corpora: Mapping[str, Corpus], limit: int) -> Line:
    """Bits per byte by domain, the mean of all models of the run; `own`: of the domain's model."""
    models = run.models()
    bpb: dict[str, float] = {}
    own: dict[str, float] = {}
    counts = []
    for domain, corpus in corpora.items():
        found = {name: measure(m, corpus.valid, limit_tokens=limit) for name, m in models.items()}
        bpb[domain] = round(float(np.mean([x.bits_per_byte for x in found.values()])), 4)
        if domain in found:
            own[domain] = round(found[domain].bits_per_byte, 4)
        counts.append(sum(x.counts_le for x in found.values()))
    load = sum(counts)
    routing = {"entropy": routing_entropy(load), "largest_load": largest_load(load)}
    line: Line = {"bpb": bpb, "routing": {name: round(x, 3) for name, x in routing.items()}}
    return line | ({"own_bpb": own} if own else {})
