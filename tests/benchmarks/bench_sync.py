"""Tokens per second of two nodes that average, against the same training with the network off.

    .venv/bin/python tests/benchmarks/bench_sync.py                                  # 16 minutes
    .venv/bin/python tests/benchmarks/bench_sync.py --round-seconds 3 --turns 1      # a first look

`alone`: two worker processes with one thread each, which train round by round as those of nodes
do, keep the state of their optimizers after each, and go on from what they have trained, without
any network. `averaged`: two real nodes with such workers, which average after each round (`after`),
or while the next one is trained (`overlap`). All train the same model from its initial weights on
the same text and take turns. The workers are measured from the end of their first round on, the
nodes from that of their third: from then on they use memory and files of older rounds again. Prints
one JSON line:

    ratio             tokens per second of the nodes to that of the workers in the same turn, median
    ratio_to_steps    the same, to the steps of the workers, without anything between their rounds
    round_seconds     from commit to commit
    average_seconds   of it, from the update to the commit
    cpu_us_per_token  CPU time by kind of process; what is not in it waited
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import dataclasses
import json
import math
import statistics
import tempfile
import time
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import psutil

from node.commands.run import found_run
from node.shared_buffers import SharedBuffers
from node.testnet import LocalTestnet, PeerPlan
from node.worker_link import WorkerProcess
from node.worker_messages import Committed, WorkerSettings
from swarm.config import RunManifest, StreamConfig, SyncConfig, TrainingConfig
from swarm.model.config import ModelConfig
from swarm.training.policy import RunPolicy

TEXT = "demo:python"
PEERS = 2
LIMIT_S = 600
POLL_S = 2.0  # to answer costs a node time that it would train in
WARM_UP = 3  # rounds of nodes
MANIFEST = RunManifest(
    name="sync",
    model=ModelConfig(d_model=256, num_layers=4, d_ff=512),
    training=TrainingConfig(inner_steps=16, batch_size=8, sequence_length=64, warmup_tokens=0),
    sync=SyncConfig(experts_per_peer=4),
)
ARMS = {
    "after": StreamConfig(),
    "overlap": StreamConfig(overlap=True, delay_steps=1, correction="delayed"),
}


@dataclasses.dataclass(frozen=True)
class Measured:
    """A turn of two nodes."""

    tokens_per_s: float
    round_s: float
    average_s: float
    cpu_us_per_token: dict[str, float]


@dataclasses.dataclass(frozen=True)
class Alone:
    """A turn of two workers without a network, both together, or of one of them."""

    tokens_per_s: float
    steps_tokens_per_s: float
    cpu_us_per_token: float


@dataclasses.dataclass(frozen=True)
class Look:
    """CPU seconds so far of this process's children, by kind, at a moment (monotonic)."""

    time_s: float
    cpu_s: dict[str, float]


def main() -> None:
    """Measure all arms in turns and print the line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--round-seconds", type=float, default=20.0, help="of training in a round")
    parser.add_argument("--rounds", type=int, default=2, help="measured in a turn")
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--arms", nargs="+", choices=ARMS, default=list(ARMS))
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="sync-") as directory:
        root = Path(directory)
        manifest = _with_rounds_of(args.round_seconds, root)
        alone: list[Alone] = []
        averaged: dict[str, list[Measured]] = {arm: [] for arm in args.arms}
        for turn in range(args.turns):
            place = root / f"alone-{turn}"
            alone.append(asyncio.run(train_alone(manifest, args.rounds, place)))
            for arm in args.arms:
                place = root / f"{arm}-{turn}"
                averaged[arm].append(measure_nodes(manifest, ARMS[arm], args.rounds, place))
    print(json.dumps(line(manifest, alone, averaged)))


def line(
    manifest: RunManifest, alone: Sequence[Alone], averaged: dict[str, list[Measured]]
) -> dict[str, object]:
    """What is printed; the turns of all arms are in order."""
    ratios, to_steps = (
        {
            arm: [turn.tokens_per_s / base for turn, base in zip(turns, bases, strict=True)]
            for arm, turns in averaged.items()
        }
        for bases in ([a.tokens_per_s for a in alone], [a.steps_tokens_per_s for a in alone])
    )
    return {
        "bench": "sync",
        "peers": PEERS,
        "parameters": sum(RunPolicy(manifest).numel.values()),
        "inner_steps": manifest.training.inner_steps,
        "alone_tokens_per_s": round(statistics.median(turn.tokens_per_s for turn in alone)),
        "ratio": {arm: round(statistics.median(found), 3) for arm, found in ratios.items()},
        "ratio_to_steps": {
            arm: round(statistics.median(found), 3) for arm, found in to_steps.items()
        },
        "ratio_of_turns": {arm: [round(r, 3) for r in found] for arm, found in ratios.items()},
        "round_seconds": {
            arm: round(statistics.median(turn.round_s for turn in turns), 2)
            for arm, turns in averaged.items()
        },
        "average_seconds": {
            arm: round(statistics.median(turn.average_s for turn in turns), 2)
            for arm, turns in averaged.items()
        },
        "cpu_us_per_token": {
            "alone": round(statistics.median(turn.cpu_us_per_token for turn in alone), 1),
            **{
                arm: {
                    kind: round(statistics.median(turn.cpu_us_per_token[kind] for turn in turns), 1)
                    for kind in turns[0].cpu_us_per_token
                }
                for arm, turns in averaged.items()
            },
        },
    }


def _with_rounds_of(seconds: float, root: Path) -> RunManifest:
    """The manifest with so many inner steps that both workers, at once, take `seconds` for them."""
    rate = asyncio.run(train_alone(MANIFEST, 2, root / "speed")).steps_tokens_per_s / PEERS
    tokens = MANIFEST.training.batch_size * MANIFEST.training.sequence_length
    steps = math.ceil(seconds * rate / tokens)
    training = dataclasses.replace(MANIFEST.training, inner_steps=steps)
    return dataclasses.replace(MANIFEST, training=training)


async def train_alone(manifest: RunManifest, rounds: int, root: Path) -> Alone:
    """What two workers do in the `rounds` after their first; both train at once."""
    workers = [_one_alone(manifest, number, rounds, root / str(number)) for number in range(PEERS)]
    speeds = await asyncio.gather(*workers)
    return Alone(
        sum(speed.tokens_per_s for speed in speeds),
        sum(speed.steps_tokens_per_s for speed in speeds),
        statistics.mean(speed.cpu_us_per_token for speed in speeds),
    )


async def _one_alone(manifest: RunManifest, number: int, rounds: int, place: Path) -> Alone:
    policy, held = RunPolicy(manifest), _held(manifest, number)
    trained = [*policy.layout.trunk_names, *map(policy.layout.expert_name, held)]
    buffers = SharedBuffers.create(policy.layout)
    for name, theta in buffers.theta.items():
        theta[:] = policy.initial(name).theta
    async with WorkerProcess.running(buffers.fd) as worker:
        settings = WorkerSettings(
            manifest=manifest,
            held=held,
            source=TEXT,
            data_dir=place,
            seed=number,
            checkpoints=place / "trainer",
        )
        await worker.init(settings)
        tokens, steps_s, started_s, cpu_s = 0, 0.0, 0.0, 0.0
        for done in range(1 + rounds):
            base = Committed(
                commit=_commit_id(done),
                previous=_commit_id(done - 1) if done else b"",
                held=held,
                versions=dict.fromkeys(policy.layout.names, done),
                contributors=dict.fromkeys(policy.layout.names, 1),
            )
            steps = manifest.training.inner_steps
            result = await worker.train(round_number=1 + done, steps=steps, base=base)
            for name in trained:
                buffers.theta[name] -= buffers.delta[name]
            if done == 0:
                started_s, cpu_s = time.monotonic(), _cpu_s(psutil.Process(worker.pid))
                continue
            tokens, steps_s = tokens + result.tokens, steps_s + result.seconds
        seconds, cpu_s = time.monotonic() - started_s, _cpu_s(psutil.Process(worker.pid)) - cpu_s
        return Alone(tokens / seconds, tokens / steps_s, 1e6 * cpu_s / tokens)


def _commit_id(rounds: int) -> bytes:
    """Stands for the commit after so many rounds."""
    return rounds.to_bytes(32, "little")


def _held(manifest: RunManifest, number: int) -> list[int]:
    each = manifest.sync.experts_per_peer
    return list(range(number * each, (number + 1) * each))


def measure_nodes(manifest: RunManifest, stream: StreamConfig, rounds: int, root: Path) -> Measured:
    """Two nodes that found a run; what they do in the `rounds` after they are warm."""
    root.mkdir()
    path = root / "RUN.toml"
    found_run(dataclasses.replace(manifest, stream=stream), path)
    plans = [PeerPlan(f"p{number}", f"p{number}", TEXT) for number in range(PEERS)]
    with LocalTestnet(path, plans, root / "nodes") as testnet:
        testnet.start()
        deadline = time.monotonic() + LIMIT_S
        before = look()
        while not (history := testnet.nodes[0].history(0)) or history[-1].round < WARM_UP + rounds:
            testnet.raise_if_ended()
            assert time.monotonic() < deadline, testnet.statuses()
            if not history or history[-1].round < WARM_UP:
                before = look()
            time.sleep(POLL_S)
        after = look()
    told = {summary.round: summary for summary in history}
    measured = range(WARM_UP + 1, WARM_UP + 1 + rounds)
    first, last = told[WARM_UP], told[measured[-1]]
    assert all(len(told[r].contributors) == PEERS for r in measured), history
    seconds = (last.committed_at_ms - first.committed_at_ms) / 1000
    tokens_per_s = (last.committed_tokens - first.committed_tokens) / seconds
    looked_at = tokens_per_s * (after.time_s - before.time_s)
    return Measured(
        tokens_per_s=tokens_per_s,
        round_s=seconds / rounds,
        average_s=statistics.mean(told[r].seconds for r in measured),
        cpu_us_per_token={
            kind: 1e6 * (cpu_s - before.cpu_s.get(kind, 0.0)) / looked_at
            for kind, cpu_s in after.cpu_s.items()
        },
    )


def look() -> Look:
    """What the processes that this one started, and theirs, have used."""
    cpu_s: dict[str, float] = defaultdict(float)
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):
            command = " ".join(process.cmdline())
            kind = next((k for k in ("p2pd", "worker") if k in command), "daemon")
            cpu_s[kind] += _cpu_s(process)
    return Look(time.monotonic(), dict(cpu_s))


def _cpu_s(process: psutil.Process) -> float:
    """CPU seconds that a process has used."""
    times = process.cpu_times()
    return float(times.user + times.system)


if __name__ == "__main__":
    main()
