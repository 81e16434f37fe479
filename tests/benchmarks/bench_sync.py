"""Tokens per second of two nodes that average, against the same training with the network off.

    .venv/bin/python tests/benchmarks/bench_sync.py                                  # 11 minutes
    .venv/bin/python tests/benchmarks/bench_sync.py --round-seconds 3 --turns 1      # a first look

`alone`: two worker processes with one thread each, which only train. `averaged`: two real nodes
with such workers, which average after each round (`after`), or while the next one is trained
(`overlap`). All train the same model from its initial weights on the same text, take turns, and
are measured from the end of their first round on. Prints one JSON line:

    ratio            tokens per second of the nodes to that of the workers in the same turn, median
    round_seconds    from commit to commit
    average_seconds  of it, from the update to the commit
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
from collections.abc import Sequence
from pathlib import Path

from node.commands.run import found_run
from node.shared_buffers import SharedBuffers
from node.testnet import LocalTestnet, PeerPlan
from node.worker_link import WorkerProcess
from node.worker_messages import Committed, WorkerSettings
from node.worker_protocol import Message
from swarm.config import RunManifest, SyncConfig, TrainingConfig
from swarm.config_learning import StreamConfig
from swarm.model.config import ModelConfig
from swarm.training.policy import RunPolicy

TEXT = "demo:python"
PEERS = 2
LIMIT_S = 600
POLL_S = 2.0  # to answer costs a node time that it would train in
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
        alone: list[float] = []
        averaged: dict[str, list[Measured]] = {arm: [] for arm in args.arms}
        for turn in range(args.turns):
            alone.append(sum(asyncio.run(_train_alone(manifest, args.rounds, root))))
            for arm in args.arms:
                place = root / f"{arm}-{turn}"
                averaged[arm].append(measure_nodes(manifest, ARMS[arm], args.rounds, place))
    print(json.dumps(line(manifest, alone, averaged)))


def line(
    manifest: RunManifest, alone: Sequence[float], averaged: dict[str, list[Measured]]
) -> dict[str, object]:
    """What is printed; the turns of all arms are in order."""
    ratios = {
        arm: [turn.tokens_per_s / base for turn, base in zip(turns, alone, strict=True)]
        for arm, turns in averaged.items()
    }
    return {
        "bench": "sync",
        "peers": PEERS,
        "parameters": sum(RunPolicy(manifest).numel.values()),
        "inner_steps": manifest.training.inner_steps,
        "alone_tokens_per_s": round(statistics.median(alone)),
        "ratio": {arm: round(statistics.median(values), 3) for arm, values in ratios.items()},
        "ratio_of_turns": {arm: [round(r, 3) for r in values] for arm, values in ratios.items()},
        "round_seconds": {
            arm: round(statistics.median(turn.round_s for turn in turns), 2)
            for arm, turns in averaged.items()
        },
        "average_seconds": {
            arm: round(statistics.median(turn.average_s for turn in turns), 2)
            for arm, turns in averaged.items()
        },
    }


def _with_rounds_of(seconds: float, root: Path) -> RunManifest:
    """The manifest with so many inner steps that both workers, at once, take `seconds` for them."""
    rates = asyncio.run(_train_alone(MANIFEST, 2, root))
    tokens = MANIFEST.training.batch_size * MANIFEST.training.sequence_length
    steps = math.ceil(seconds * statistics.mean(rates) / tokens)
    training = dataclasses.replace(MANIFEST.training, inner_steps=steps)
    return dataclasses.replace(MANIFEST, training=training)


async def _train_alone(manifest: RunManifest, rounds: int, root: Path) -> list[float]:
    """Tokens per second of each worker in the `rounds` after its first; all train at once."""
    policy = RunPolicy(manifest)
    async with contextlib.AsyncExitStack() as stack:
        workers = []
        for number in range(PEERS):
            buffers = SharedBuffers.create(policy.layout)
            for name, theta in buffers.theta.items():
                theta[:] = policy.initial(name).theta
            worker = await stack.enter_async_context(WorkerProcess.running(buffers.fd))
            await worker.init(
                WorkerSettings(
                    manifest=manifest,
                    held=_held(manifest, number),
                    source=TEXT,
                    data_dir=root / "alone" / str(number),
                    seed=number,
                )
            )
            workers.append(worker)
        rates = (
            _rate(worker, _held(manifest, number), policy, rounds)
            for number, worker in enumerate(workers)
        )
        return list(await asyncio.gather(*rates))


async def _rate(
    worker: WorkerProcess, held: Sequence[int], policy: RunPolicy, rounds: int
) -> float:
    """Tokens per second of one worker in the `rounds` after its first."""
    each = policy.manifest.training.inner_steps
    before: list[tuple[int, float]] = []  # tokens and seconds at the end of the first round

    def note(progress: Message) -> None:
        if progress["step"] >= each and not before:
            before.append((progress["tokens"], progress["tokens"] / progress["tokens_per_second"]))

    result = await worker.train(
        round_number=1,
        steps=(1 + rounds) * each,
        base=Committed(
            held=held,
            versions=dict.fromkeys(policy.layout.names, 0),
            contributors=dict.fromkeys(policy.layout.names, 0),
        ),
        on_progress=note,
    )
    tokens, seconds = before[0]
    return (result.tokens - tokens) / (result.seconds - seconds)


def _held(manifest: RunManifest, number: int) -> list[int]:
    each = manifest.sync.experts_per_peer
    return list(range(number * each, (number + 1) * each))


def measure_nodes(manifest: RunManifest, stream: StreamConfig, rounds: int, root: Path) -> Measured:
    """Two nodes that found a run; what they do in the `rounds` after their first."""
    root.mkdir()
    path = root / "RUN.toml"
    found_run(dataclasses.replace(manifest, stream=stream), path)
    plans = [PeerPlan(f"p{number}", f"p{number}", TEXT) for number in range(PEERS)]
    with LocalTestnet(path, plans, root / "nodes") as testnet:
        testnet.start()
        deadline = time.monotonic() + LIMIT_S
        while not (history := testnet.nodes[0].history(rounds)):
            testnet.raise_if_ended()
            assert time.monotonic() < deadline, testnet.statuses()
            time.sleep(POLL_S)
        history = testnet.nodes[0].history(0)
    told = {summary.round: summary for summary in history}
    first, last = told[1], told[1 + rounds]
    assert all(len(told[r].contributors) == PEERS for r in range(1, 2 + rounds)), history
    seconds = (last.committed_at_ms - first.committed_at_ms) / 1000
    return Measured(
        tokens_per_s=(last.committed_tokens - first.committed_tokens) / seconds,
        round_s=seconds / rounds,
        average_s=statistics.mean(told[r].seconds for r in range(2, 2 + rounds)),
    )


if __name__ == "__main__":
    main()
