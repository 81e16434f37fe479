"""The demo's base, and its owners: four programs that train alone, all at once."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import torch

from node.demo.isolated.programs import Programs
from node.demo.settings import DOMAINS, SEED
from swarm.config import RunManifest, SyncConfig, TrainingConfig
from swarm.data import Corpus, Sampler, prepare_corpus
from swarm.experts.base import Base, make_base, save_base
from swarm.model.config import ModelConfig
from swarm.training.trainer import Trainer

PUBLIC_BYTES = 200_000  # of each domain; a base has seen a little of everything
BASE_SHARE = 0.25  # of the training time
MEASURED_STEPS = 20
LENGTH, BATCH = 64, 16
MODEL = ModelConfig(
    d_model=64, num_layers=3, d_ff=192, num_experts=1, top_k=1, context_length=LENGTH
)

Report = Callable[[str], None]


def public_text(directory: Path) -> Corpus:
    """A little of each domain, in equal parts."""
    parts = [
        prepare_corpus(f"demo:{domain}", directory / domain, max_bytes=PUBLIC_BYTES)
        for domain in DOMAINS
    ]
    train = np.concatenate([part.train for part in parts])
    return Corpus(train, parts[0].valid, parts[0].report, parts[0].sha256)


def train_base(public: Corpus, seconds: float, report: Report) -> tuple[Base, float]:
    """A dense base, trained for about `seconds`, and the steps per second of this machine."""
    trainer = _trainer(public, 1_000_000)
    started = time.monotonic()
    for _ in range(MEASURED_STEPS):
        trainer.train_step()
    speed = MEASURED_STEPS / (time.monotonic() - started)
    steps = max(30, round(seconds * speed))
    report(f"{speed:.0f} steps per second, so {steps} for the base")
    trainer = _trainer(public, steps)
    for _ in range(steps):
        loss = trainer.train_step().loss
    report(f"base trained, loss {loss:.3f}")
    return make_base(trainer.model, public.train, {"demo": "isolated"}), speed


def write_base(base: Base, directory: Path) -> None:
    """Where the owners find it."""
    save_base(base, directory)


def train_owners(base: Path, experts: Path, logs: Path, steps: int, report: Report) -> None:
    """Four processes of `node expert train`, which open no connection to anybody."""
    last = time.monotonic()

    def progress(lines: Mapping[str, str]) -> None:
        nonlocal last
        if time.monotonic() - last > 8:
            last = time.monotonic()
            for name, line in lines.items():
                report(f"{name:8} {line[:60]}")

    with Programs(logs) as programs:
        try:
            for domain in DOMAINS:
                words = ["expert", "train", "--base", str(base), "--data", f"demo:{domain}"]
                words += ["--domain", domain, "--out", str(experts / domain)]
                words += ["--steps", str(steps), "--batch-size", str(BATCH)]
                words += ["--sequence-length", str(LENGTH), "--learning-rate", "6e-3"]
                words += ["--licence", "of its packages"]
                programs.start(domain, words)
            programs.wait(progress)
        except BaseException:
            programs.end()
            raise


def owner_steps(seconds: float, speed: float) -> int:
    """Steps of each owner when all train for about `seconds` on the cores of this machine.

    A step beside the base takes about twice a step of the base: two experts process each token.
    """
    together = min(1.0, (os.cpu_count() or 1) / len(DOMAINS))
    return max(30, round(seconds * speed * together / 2))


def _trainer(public: Corpus, steps: int) -> Trainer:
    torch.set_num_threads(1)  # small matrices: more threads wait for one another
    total = steps * BATCH * LENGTH
    manifest = RunManifest(
        name="base",
        model=MODEL,
        training=TrainingConfig(
            batch_size=BATCH, sequence_length=LENGTH, learning_rate=6e-3,
            total_tokens=total, warmup_tokens=total // 20,
        ),
        sync=SyncConfig(experts_per_peer=1),
    )  # fmt: skip
    trainer = Trainer(manifest, Sampler(public, BATCH, LENGTH, SEED), held=[0])
    trainer.load_initial()
    return trainer
