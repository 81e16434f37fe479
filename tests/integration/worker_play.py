"""A worker of a test, started for one scenario, with a small model in shared memory."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

import numpy as np

from node.shared_buffers import SharedBuffers
from node.worker_link import WorkerProcess
from node.worker_messages import Committed, WorkerSettings
from swarm.config import RunManifest, TrainingConfig
from swarm.model.config import ModelConfig
from swarm.model.fragments import FragmentLayout, initial_fragment

MANIFEST = RunManifest(
    model=ModelConfig(d_model=32, num_layers=2, d_ff=32, num_experts=4, context_length=64),
    training=TrainingConfig(inner_steps=10, batch_size=4, sequence_length=32),
)
LAYOUT = FragmentLayout.of(MANIFEST.model, 2, "trunk")
Scenario = Callable[[WorkerProcess, SharedBuffers], Awaitable[None]]


def settings_in(place: Path) -> WorkerSettings:
    """What a worker is told, with a text that is made in `place`."""
    texts = place / "texts"
    texts.mkdir()
    for number in range(30):
        (texts / f"{number:02}.txt").write_text(f"document {number} says hello to you. " * 40)
    return WorkerSettings(
        manifest=MANIFEST,
        held=[0, 1],
        source=str(texts),
        data_dir=place / "shards",
        checkpoints=place / "trainer",
    )


def committed(
    held: list[int], tokens: int = 0, load: np.ndarray | None = None, version: int = 0
) -> Committed:
    return Committed(
        held=held,
        versions=dict.fromkeys(LAYOUT.names, version),
        contributors=dict.fromkeys(LAYOUT.names, 2),
        committed_tokens=tokens,
        load_LE=load,
    )


def new_buffers() -> SharedBuffers:
    buffers = SharedBuffers.create(LAYOUT)
    reset(buffers)
    return buffers


def reset(buffers: SharedBuffers) -> None:
    for name in LAYOUT.names:
        buffers.theta[name][:] = initial_fragment(MANIFEST.model, LAYOUT, name, 0)
        buffers.delta[name][:] = 0


def play(scenario: Scenario, log_path: Path | None = None) -> None:
    """Run `scenario` with a fresh worker, then stop the worker."""

    async def main() -> None:
        buffers = new_buffers()
        try:
            async with WorkerProcess.running(buffers.fd, log_path) as worker:
                await asyncio.wait_for(scenario(worker, buffers), 60)
            assert not worker.alive
        finally:
            buffers.close()

    asyncio.run(main())


class Stage:
    """One worker for several scenarios in turn: a start takes longer than most of them."""

    def __init__(self) -> None:
        self._buffers = new_buffers()
        self._loop = asyncio.new_event_loop()
        self._worker = self._loop.run_until_complete(WorkerProcess.start(self._buffers.fd))

    def play(self, scenario: Scenario) -> None:
        """Run `scenario`, which begins with `init`, on the initial fragments."""
        reset(self._buffers)
        playing = asyncio.wait_for(scenario(self._worker, self._buffers), 60)
        self._loop.run_until_complete(playing)
        assert self._worker.alive

    def close(self) -> None:
        self._loop.run_until_complete(self._worker.stop())
        self._loop.close()
        self._buffers.close()
