"""Runs an arm with one seed to its end, and measures it on the way: one line of the results."""

from __future__ import annotations

import time
from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from swarm.data import Corpus
from swarm.evaluation.measure import measure
from swarm.model.transformer import Transformer
from swarm.training.metrics import largest_load, routing_entropy
from tests.benchmarks.learning.calibration import calibrate_routers
from tests.benchmarks.learning.memory import peak_training_bytes
from tests.benchmarks.learning.mixture import mixture_bits_per_byte
from tests.benchmarks.learning.results import Line
from tests.benchmarks.learning.runs import Run, start
from tests.benchmarks.learning.settings import Arm, Experiment
from tests.benchmarks.learning.texts import peer_samplers


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
            found = _evaluate(run.models(), corpora, experiment.curve_tokens)
            curve.append((run.tokens, _mean(found["bpb"])))
    result = _evaluate(run.models(), corpora, experiment.final_tokens)
    return {
        "arm": arm.name,
        "seed": seed,
        "tokens": run.tokens,
        "bpb": result["bpb"],
        "mean_bpb": _mean(result["bpb"]),
        **_parts(experiment, run, corpora),
        "bytes_sent_per_peer": round(run.bytes_per_peer),
        "bytes_received_per_peer": round(run.bytes_per_peer),
        "peak_train_bytes_per_peer": peak_training_bytes(run.trainer()),
        "seconds": round(seconds, 1),
        "curve": curve,
        "routing": result["routing"],
    }


def _parts(experiment: Experiment, run: Run, corpora: Mapping[str, Corpus]) -> Line:
    """What peers that do not keep the whole model have, alone and as a mixture; calibrated."""
    own = run.own_models()
    if not own:
        return {}
    found = {
        domain: _evaluate({domain: model}, {domain: corpora[domain]}, experiment.final_tokens)
        for domain, model in own.items()
    }
    training = run.trainer().manifest.training
    mixed = {
        domain: mixture_bits_per_byte(
            list(own.values()), corpus.valid, training.sequence_length, experiment.final_tokens
        )
        for domain, corpus in corpora.items()
    }
    line: Line = {
        "own_bpb": {domain: x["bpb"][domain] for domain, x in found.items()},
        "mixture_bpb": {domain: round(x, 4) for domain, x in mixed.items()},
    }
    if len(run.models()) == 1:
        samplers = peer_samplers(corpora, training.batch_size, training.sequence_length, -1)
        model = run.models()[""]
        tokens = calibrate_routers(model, list(samplers.values()), experiment.calibration_steps)
        calibrated = _evaluate({"": model}, corpora, experiment.final_tokens)
        line |= {"calibrated_bpb": calibrated["bpb"], "calibration_tokens": tokens}
    return line


def _evaluate(models: Mapping[str, Transformer], corpora: Mapping[str, Corpus], limit: int) -> Line:
    """Bits per byte by domain, the mean of the models, and how even the routing is."""
    bpb: dict[str, float] = {}
    load: npt.NDArray[np.int64] | int = 0
    for domain, corpus in corpora.items():
        found = [measure(model, corpus.valid, limit_tokens=limit) for model in models.values()]
        bpb[domain] = round(float(np.mean([x.bits_per_byte for x in found])), 4)
        load = load + sum(x.counts_le for x in found)
    routing = {"entropy": routing_entropy(load), "largest_load": largest_load(load)}
    return {"bpb": bpb, "routing": {name: round(x, 3) for name, x in routing.items()}}


def _mean(bpb: Mapping[str, float]) -> float:
    return round(float(np.mean(list(bpb.values()))), 4)
