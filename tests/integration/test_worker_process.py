"""The worker as a real process: what it writes, refuses and needs, and how it ends."""

from __future__ import annotations

import asyncio
import errno
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import numpy as np
import pytest
from worker_play import LAYOUT, MANIFEST, Stage, committed, play

from node.processes import is_alive
from node.shared_buffers import SharedBuffers
from node.worker_link import WorkerProcess
from node.worker_messages import WorkerSettings
from swarm.errors import Code, SwarmError
from swarm.model.fragments import FragmentLayout, initial_fragment

ROOT = Path(__file__).resolve().parents[2]


def wait_until_gone(pid: int, seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while is_alive(pid):
        assert time.monotonic() < deadline, f"process {pid} is still there"
        time.sleep(0.02)


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


def test_a_worker_ignores_the_interrupt_that_stops_its_daemon(
    stage: Stage, settings: WorkerSettings
) -> None:
    async def scenario(worker: WorkerProcess, buffers: SharedBuffers) -> None:
        await worker.init(settings)
        os.kill(worker.pid, signal.SIGINT)
        result = await worker.train(round_number=0, steps=2, base=committed([0]))
        assert result.steps == 2 and worker.alive

    stage.play(scenario)


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


def test_a_damaged_checkpoint_is_set_aside_with_a_warning(
    stage: Stage, settings: WorkerSettings
) -> None:
    assert settings.checkpoints is not None
    settings.checkpoints.mkdir()
    damaged = settings.checkpoints / "000000001-after-0123.ckpt"
    damaged.write_bytes(b"\0" * 100)

    async def scenario(worker: WorkerProcess, buffers: SharedBuffers) -> None:
        ready = await worker.init(settings)
        assert ready.step == 0
        assert "CHECKPOINT_CORRUPT" in ready.warnings[0]

    stage.play(scenario)
    assert not damaged.exists()
    assert damaged.with_name(f"{damaged.name}.unusable").exists()


DAEMON = """
import asyncio, sys
from pathlib import Path
sys.path.insert(0, "tests/integration")
from worker_play import MANIFEST, committed, new_buffers
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
            assert is_alive(worker_pid)
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
