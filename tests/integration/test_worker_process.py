"""The worker as a real process: trains rounds through shared memory, dies with its daemon."""

from __future__ import annotations

import asyncio
import errno
import os
import signal
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import numpy as np
import pytest

from node.shared_buffers import SharedBuffers
from node.worker_link import WorkerProcess
from node.worker_messages import Committed, WorkerSettings
from swarm.config import RunManifest, StreamConfig, SyncConfig, TrainingConfig
from swarm.errors import Code, SwarmError
from swarm.model.config import ModelConfig
from swarm.model.fragments import FragmentLayout, initial_fragment

ROOT = Path(__file__).resolve().parents[2]
MANIFEST = RunManifest(
    model=ModelConfig(d_model=32, num_layers=2, d_ff=32, num_experts=4, context_length=64),
    training=TrainingConfig(inner_steps=10, batch_size=4, sequence_length=32),
)
LAYOUT = FragmentLayout.of(MANIFEST.model, 2, "trunk")
Scenario = Callable[[WorkerProcess, SharedBuffers], Awaitable[None]]


@pytest.fixture
def settings(tmp_path: Path) -> WorkerSettings:
    texts = tmp_path / "texts"
    texts.mkdir()
    for number in range(30):
        (texts / f"{number:02}.txt").write_text(f"document {number} says hello to you. " * 40)
    return WorkerSettings(
        manifest=MANIFEST,
        held=[0, 1],
        source=str(texts),
        data_dir=tmp_path / "shards",
        checkpoints=tmp_path / "trainer",
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
    for name in LAYOUT.names:
        buffers.theta[name][:] = initial_fragment(MANIFEST.model, LAYOUT, name, 0)
    return buffers


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


def is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    state = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    return state != "Z"


def wait_until_gone(pid: int, seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while is_running(pid):
        assert time.monotonic() < deadline, f"process {pid} is still there"
        time.sleep(0.02)


def test_a_round_leaves_base_minus_local_in_the_shared_memory(settings: WorkerSettings) -> None:
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

    play(scenario)


def test_a_round_ahead_takes_its_commit_over_among_its_steps(settings: WorkerSettings) -> None:
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

    play(scenario)


def test_a_round_ahead_does_not_end_before_its_commit_is_there(settings: WorkerSettings) -> None:
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

    play(scenario)


def test_what_a_worker_writes_is_for_its_user_alone(settings: WorkerSettings) -> None:
    async def scenario(worker: WorkerProcess, buffers: SharedBuffers) -> None:
        await worker.init(settings)
        await worker.train(round_number=0, steps=1, base=committed([0, 1]))
        await worker.save()

    before = os.umask(0o022)
    try:
        play(scenario)
    finally:
        os.umask(before)
    assert settings.checkpoints is not None
    written = [*settings.checkpoints.rglob("*"), *settings.data_dir.rglob("*")]
    assert len(written) >= 5
    assert [path for path in written if path.stat().st_mode & 0o077] == []


def test_an_uncommitted_round_is_repeated_from_the_same_base(settings: WorkerSettings) -> None:
    async def scenario(worker: WorkerProcess, buffers: SharedBuffers) -> None:
        await worker.init(settings)
        await worker.train(round_number=0, steps=2, base=committed([0, 1]))
        first = buffers.delta["trunk.0"].copy()
        await worker.train(round_number=0, steps=2, base=committed([2]))
        assert np.abs(first).max() < 0.1 and np.abs(buffers.delta["trunk.0"]).max() < 0.1
        assert buffers.delta["expert.2"].any()

    play(scenario)


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


def test_a_killed_worker_is_reported_and_its_successor_restores_the_checkpoint(
    settings: WorkerSettings,
) -> None:
    async def first_life(worker: WorkerProcess, buffers: SharedBuffers) -> None:
        await worker.init(settings)
        await worker.train(round_number=0, steps=3, base=committed([0, 1]))
        await worker.save()
        training = asyncio.create_task(
            worker.train(
                round_number=1,
                steps=10**6,
                base=committed([0, 1]),
                on_progress=lambda _: os.kill(worker.pid, signal.SIGKILL),
            )
        )
        with pytest.raises(SwarmError, match="SIGKILL") as caught:
            await training
        assert caught.value.code is Code.WORKER_CRASHED
        with pytest.raises(SwarmError) as again:
            await worker.save()
        assert again.value.code is Code.WORKER_CRASHED

    async def second_life(worker: WorkerProcess, buffers: SharedBuffers) -> None:
        ready = await worker.init(settings)
        assert ready.step == 3 and ready.warnings == []

    play(first_life)
    play(second_life)


def test_a_worker_whose_log_is_on_a_full_disk_answers_all_the_same(
    settings: WorkerSettings,
) -> None:
    async def scenario(worker: WorkerProcess, buffers: SharedBuffers) -> None:
        with pytest.raises(SwarmError, match="KeyError") as caught:
            await worker._request({"type": "unheard of"}, "done")
        assert caught.value.code is Code.INTERNAL
        await worker.save()
        assert worker.alive

    play(scenario, Path("/dev/full"))


@pytest.mark.parametrize(
    ("number", "code"), [(errno.ENOSPC, Code.DISK_FULL), (errno.EACCES, Code.DIR_NOT_WRITABLE)]
)
def test_a_log_that_can_not_be_opened_is_a_typed_error_and_no_worker_starts(
    number: int, code: Code, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuses(*arguments: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr("node.worker_link.open", refuses, raising=False)
    with pytest.raises(SwarmError, match=r"worker\.log") as caught:
        asyncio.run(WorkerProcess.start(0, tmp_path / "worker.log"))
    assert caught.value.code is code


def test_a_frozen_worker_is_noticed_and_killed(settings: WorkerSettings) -> None:
    async def scenario(worker: WorkerProcess, buffers: SharedBuffers) -> None:
        await worker.init(settings)
        os.kill(worker.pid, signal.SIGSTOP)
        with pytest.raises(SwarmError, match="silent") as caught:
            await worker.train(
                round_number=0,
                steps=1,
                base=committed([0]),
                silence=timedelta(seconds=0.5),
            )
        assert caught.value.code is Code.WORKER_CRASHED and not worker.alive

    play(scenario)


def test_a_round_can_be_ended_early_and_a_cancelled_one_leaves_no_answer_behind(
    settings: WorkerSettings,
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

    play(scenario)


def test_a_worker_ignores_the_interrupt_that_stops_its_daemon(settings: WorkerSettings) -> None:
    async def scenario(worker: WorkerProcess, buffers: SharedBuffers) -> None:
        await worker.init(settings)
        os.kill(worker.pid, signal.SIGINT)
        result = await worker.train(round_number=0, steps=2, base=committed([0]))
        assert result.steps == 2 and worker.alive

    play(scenario)


def test_unusable_input_is_an_error_with_its_code_and_the_worker_lives(
    settings: WorkerSettings, tmp_path: Path
) -> None:
    async def scenario(worker: WorkerProcess, buffers: SharedBuffers) -> None:
        cases = [
            (replace(settings, source=str(tmp_path / "nowhere")), Code.DATA_MISSING),
            (replace(settings, device="abacus"), Code.CONFIG_INVALID),
        ]
        for wrong, code in cases:
            with pytest.raises(SwarmError) as caught:
                await worker.init(wrong)
            assert caught.value.code is code and caught.value.hint
        with pytest.raises(SwarmError) as early:
            await worker.train(round_number=0, steps=1, base=committed([0]))
        assert early.value.code is Code.INTERNAL
        assert (await worker.init(settings)).step == 0
        for name in LAYOUT.names:
            buffers.theta[name][:] = np.nan
        with pytest.raises(SwarmError, match="step 1") as diverged:
            await worker.train(round_number=0, steps=1, base=committed([0]))
        assert diverged.value.code is Code.NON_FINITE

    play(scenario)


def test_a_damaged_checkpoint_is_set_aside_with_a_warning(settings: WorkerSettings) -> None:
    assert settings.checkpoints is not None
    settings.checkpoints.mkdir()
    damaged = settings.checkpoints / "000000001-after-0123.ckpt"
    damaged.write_bytes(b"\0" * 100)

    async def scenario(worker: WorkerProcess, buffers: SharedBuffers) -> None:
        ready = await worker.init(settings)
        assert ready.step == 0
        assert "CHECKPOINT_CORRUPT" in ready.warnings[0]

    play(scenario)
    assert not damaged.exists()
    assert damaged.with_name(f"{damaged.name}.unusable").exists()


DAEMON = """
import asyncio, sys
from pathlib import Path
sys.path.insert(0, "tests/integration")
from test_worker_process import MANIFEST, committed, new_buffers
from node.worker_link import WorkerProcess
from node.worker_messages import WorkerSettings

async def main():
    worker = await WorkerProcess.start(new_buffers().fd)
    data = Path(sys.argv[1])
    await worker.init(WorkerSettings(
        manifest=MANIFEST, held=[0], source=str(data / "texts"), data_dir=data / "shards"))
    await worker.train(round_number=0, steps=10**6, base=committed([0]),
                       on_progress=lambda _: print(worker.pid, flush=True))

asyncio.run(main())
"""


def test_a_worker_in_mid_step_ends_when_its_daemon_is_killed(
    settings: WorkerSettings, tmp_path: Path
) -> None:
    command = [sys.executable, "-c", DAEMON, str(tmp_path)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(
        command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True
    ) as daemon:
        try:
            assert daemon.stdout is not None
            worker_pid = int(daemon.stdout.readline())  # printed while it trains
            assert is_running(worker_pid)
        finally:
            daemon.kill()
    wait_until_gone(worker_pid, seconds=2)


def test_a_worker_computes_fewer_sequences_at_once_before_its_memory_runs_out(
    settings: WorkerSettings,
) -> None:
    model = replace(MANIFEST.model, context_length=512, d_model=64)
    training = replace(MANIFEST.training, batch_size=16, sequence_length=512)
    manifest = replace(MANIFEST, model=model, training=training)
    settings = replace(settings, manifest=manifest)
    layout = FragmentLayout.of(model, 2, "trunk")

    async def main() -> None:
        buffers = SharedBuffers.create(layout)
        for name in layout.names:
            buffers.theta[name][:] = initial_fragment(model, layout, name, 0)
        base = replace(
            committed([0, 1]),
            versions=dict.fromkeys(layout.names, 0),
            contributors=dict.fromkeys(layout.names, 2),
        )
        try:
            async with WorkerProcess.running(buffers.fd) as worker:
                free = await worker.init(settings)
            assert free.rows_at_once == 16
            limit = free.least_bytes + (free.peak_bytes - free.least_bytes) // 2
            async with WorkerProcess.running(buffers.fd) as worker:
                ready = await worker.init(replace(settings, limit_bytes=limit))
                assert 1 <= ready.rows_at_once < 16
                assert "sequences at once" in ready.warnings[0]
                result = await worker.train(round_number=1, steps=2, base=base)
                assert result.tokens == 2 * 16 * 512
                assert peak_bytes(worker.pid) < limit
                worker.adjust(1, 1, free.least_bytes, 0.0)
                result = await worker.train(round_number=2, steps=1, base=base)
                assert result.warnings[0].startswith("1 of 16 sequences at once")
        finally:
            buffers.close()

    asyncio.run(asyncio.wait_for(main(), 100))


def peak_bytes(pid: int) -> int:
    """The most memory that a process had since it was last measured."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith("VmHWM:"))
