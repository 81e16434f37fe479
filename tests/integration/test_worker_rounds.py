"""What a worker trains: rounds through shared memory, behind a commit or ahead of it."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import numpy as np
import pytest
from worker_play import LAYOUT, MANIFEST, Stage, committed

from node.shared_buffers import SharedBuffers
from node.worker_link import WorkerProcess
from node.worker_messages import WorkerSettings
from swarm.config import StreamConfig, SyncConfig
from swarm.model.fragments import FragmentLayout, initial_fragment


def test_a_round_leaves_base_minus_local_in_the_shared_memory(
    stage: Stage, settings: WorkerSettings
) -> None:
    async def scenario(worker: WorkerProcess, buffers: SharedBuffers) -> None:
        ready = await worker.init(settings)
        assert ready.data_report["documents"] == 30
        assert 0 < ready.trainable < ready.parameters
        base = {name: values.copy() for name, values in buffers.theta.items()}
        seen = []
        result = await worker.train(
            round_number=7, steps=40, base=committed([0, 1]), on_progress=seen.append
        )
        assert (result.round, result.steps, result.tokens) == (7, 40, 40 * 4 * 32)
        assert result.routed_LE.shape == (2, 4)
        assert result.routed_LE.sum() == result.tokens * 2 * MANIFEST.model.top_k
        for name in LAYOUT.names:
            assert np.array_equal(buffers.theta[name], base[name])
            trained = name in (*LAYOUT.trunk_names, "expert.0", "expert.1")
            assert bool(buffers.delta[name].any()) is trained, name
        # Training goes on from what the daemon makes of it: theta - delta is the local model.
        for name in LAYOUT.names:
            buffers.theta[name] -= buffers.delta[name]
        further = await worker.train(
            round_number=8, steps=10, base=committed([0, 1], result.tokens)
        )
        assert further.loss < result.loss

    stage.play(scenario)


def test_a_round_ahead_takes_its_commit_over_among_its_steps(
    stage: Stage, settings: WorkerSettings
) -> None:
    stream = StreamConfig(overlap=True, delay_steps=2, correction="delayed")
    settings = replace(settings, manifest=replace(MANIFEST, stream=stream))

    async def scenario(worker: WorkerProcess, buffers: SharedBuffers) -> None:
        await worker.init(settings)
        await worker.train(round_number=1, steps=3, base=committed([0, 1]))
        sent = {name: buffers.theta[name] - buffers.delta[name] for name in LAYOUT.trunk_names}
        steps = []
        ahead = asyncio.create_task(
            worker.train(round_number=2, steps=5000, on_progress=lambda m: steps.append(m["step"]))
        )
        while not steps:  # it trains without the commit
            await asyncio.sleep(0.02)
        for name in LAYOUT.names:
            buffers.theta[name] += np.float32(0.125)
        worker.arrive(1, committed([0, 1], version=9))  # of another round: not taken
        worker.arrive(2, committed([0, 1], version=1))
        seen = len(steps)
        while len(steps) < seen + 2:
            await asyncio.sleep(0.02)
        worker.finish_round()
        result = await ahead
        assert result.steps >= steps[-1]
        for name in LAYOUT.trunk_names:
            since = sent[name] - (buffers.theta[name] - np.float32(0.125) - buffers.delta[name])
            assert np.abs(since).max() < 0.11, name  # the shift of 0.125 is no part of the update
        # A round that is called off before its commit came leaves nothing to offer, and no trace.
        off = asyncio.create_task(worker.train(round_number=3, steps=10**6))
        await asyncio.sleep(0.2)
        off.cancel()
        await asyncio.gather(off, return_exceptions=True)
        again = await worker.train(round_number=3, steps=1, base=committed([0, 1], version=2))
        assert again.steps == 1

    stage.play(scenario)


def test_a_round_ahead_does_not_end_before_its_commit_is_there(
    stage: Stage, settings: WorkerSettings
) -> None:
    stream = StreamConfig(overlap=True)
    settings = replace(settings, manifest=replace(MANIFEST, stream=stream))

    async def scenario(worker: WorkerProcess, buffers: SharedBuffers) -> None:
        await worker.init(settings)
        await worker.train(round_number=1, steps=1, base=committed([0, 1]))
        before = buffers.delta["trunk.0"].copy()
        ahead = asyncio.create_task(worker.train(round_number=2, steps=1))
        done, _ = await asyncio.wait({ahead}, timeout=1.0)
        assert not done and np.array_equal(buffers.delta["trunk.0"], before)
        worker.arrive(2, committed([0, 1], version=1))
        assert (await asyncio.wait_for(ahead, 10)).steps == 1
        assert not np.array_equal(buffers.delta["trunk.0"], before)

    stage.play(scenario)


def test_an_uncommitted_round_is_repeated_from_the_same_base(
    stage: Stage, settings: WorkerSettings
) -> None:
    async def scenario(worker: WorkerProcess, buffers: SharedBuffers) -> None:
        await worker.init(settings)
        await worker.train(round_number=0, steps=2, base=committed([0, 1]))
        first = buffers.delta["trunk.0"].copy()
        await worker.train(round_number=0, steps=2, base=committed([2]))
        assert np.abs(first).max() < 0.1 and np.abs(buffers.delta["trunk.0"]).max() < 0.1
        assert buffers.delta["expert.2"].any()

    stage.play(scenario)


def test_held_forward_runs_without_the_other_experts(settings: WorkerSettings) -> None:
    sync = SyncConfig(forward="held", router_rows="expert")
    manifest = replace(MANIFEST, sync=sync)
    layout = FragmentLayout.of(manifest.model, 2, "expert")

    async def main() -> None:
        buffers = SharedBuffers.create(layout)
        for name in (*layout.trunk_names, "expert.1", "expert.3"):
            buffers.theta[name][:] = initial_fragment(manifest.model, layout, name, 0)
        async with WorkerProcess.running(buffers.fd) as worker:
            ready = await worker.init(replace(settings, manifest=manifest, held=[1]))
            assert ready.parameters == ready.trainable
            result = await worker.train(
                round_number=0, steps=2, base=committed([1, 3], 0, np.ones((2, 4)))
            )
            assert result.routed_LE[:, [0, 2]].sum() == 0
            assert buffers.delta["expert.3"].any() and not buffers.delta["expert.0"].any()
        buffers.close()

    asyncio.run(main())


def test_a_round_can_be_ended_early_and_a_cancelled_one_leaves_no_answer_behind(
    stage: Stage, settings: WorkerSettings
) -> None:
    async def scenario(worker: WorkerProcess, buffers: SharedBuffers) -> None:
        await worker.init(settings)

        def finish(_: object) -> None:
            worker.finish_round()

        arguments = {"steps": 10**6, "base": committed([0])}
        early = await worker.train(round_number=1, on_progress=finish, **arguments)
        assert 1 <= early.steps < 10**6
        training = asyncio.create_task(worker.train(round_number=2, **arguments))
        await asyncio.sleep(0.3)
        training.cancel()
        with pytest.raises(asyncio.CancelledError):
            await training
        later = await worker.train(round_number=3, steps=1, base=committed([0]))
        assert later.round == 3

    stage.play(scenario)
