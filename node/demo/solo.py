"""One peer training alone, the demo's baseline: same model, start, steps and schedule, no swarm.

    python -m node.demo.solo --run RUN.toml --data demo:maths --corpus DIR --seconds 60 --out DIR

Holds all experts. Prints one JSON line a second with step, loss, tokens and tokens per second;
`--out` gets the trained model. Ends early when standard input closes.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import threading
import time
from pathlib import Path

from node.cli import report_error
from swarm.config import RunManifest
from swarm.errors import SwarmError

REPORT_EVERY_S = 1.0


def main() -> int:
    """Train for the given time."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--run", dest="manifest", type=Path, required=True)
    parser.add_argument("--data", required=True)
    parser.add_argument("--corpus", type=Path, required=True)
    parser.add_argument("--seconds", type=float, required=True)
    parser.add_argument("--peers", type=int, default=1)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    threading.Thread(target=_end_with_stdin, daemon=True).start()
    try:
        train_alone(RunManifest.load(args.manifest), args)
    except SwarmError as error:
        return report_error(error)
    return 0


def train_alone(manifest: RunManifest, args: argparse.Namespace) -> None:
    """Train and report; the schedule advances as in a swarm of `args.peers` equal peers."""
    import torch

    from swarm.data.corpus import prepare_corpus
    from swarm.data.sampler import Sampler
    from swarm.model.hf import save_hf
    from swarm.training.trainer import Trainer

    torch.set_num_threads(1)
    corpus = prepare_corpus(args.data, args.corpus)
    sampler = Sampler(
        corpus, manifest.training.batch_size, manifest.training.sequence_length, seed=1
    )
    trainer = Trainer(manifest, sampler, held=range(manifest.model.num_experts))
    trainer.load_initial()
    started = reported = time.monotonic()
    tokens, loss = 0, 0.0
    while (now := time.monotonic()) - started < args.seconds:
        trainer.set_schedule(args.peers * tokens)
        stats = trainer.train_step()
        tokens += stats.tokens
        loss = stats.loss
        if now - reported >= REPORT_EVERY_S:
            reported = now
            _report(trainer.step, loss, tokens, now - started)
    _report(trainer.step, loss, tokens, time.monotonic() - started)
    if args.out is not None:
        save_hf(args.out, manifest.model, trainer.model)


def _report(step: int, loss: float, tokens: int, seconds: float) -> None:
    line = {
        "step": step,
        "loss": round(loss, 4),
        "tokens": tokens,
        "seconds": round(seconds, 2),
        "tokens_per_second": round(tokens / seconds, 1),
    }
    print(json.dumps(line), flush=True)


def _end_with_stdin() -> None:
    while os.read(0, 4096):
        pass
    os._exit(1)


if __name__ == "__main__":
    sys.exit(main())
