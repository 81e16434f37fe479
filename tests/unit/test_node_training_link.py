"""The daemon's hold on its worker, without the worker: offers, starts, and stops."""

from __future__ import annotations

import asyncio
import dataclasses
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from daemon_parts import LIMIT_S, MANIFEST, config_in

from node.daemon_status import Status
from node.shared_buffers import SharedBuffers
from node.training_link import TrainingLink
from node.worker_messages import RoundResult, WorkerReady
from swarm.training.policy import RunPolicy
from swarm.wire import collective_pb2 as pb


class FakeMember:
    def __init__(self, policy: RunPolicy) -> None:
        everything = list(range(MANIFEST.model.num_experts))
        record = pb.RoundRecord(round=3, assignments=[pb.Assignment(peer="me", experts=everything)])
        fragments = {name: policy.initial(name) for name in policy.layout.names}
        self.ledger = SimpleNamespace(record=record, commit_id=b"base")
        self.state = SimpleNamespace(fragments=fragments)
        self.changed = asyncio.Condition()


class FakeWorker:
    alive = True

    async def train(self, *, round_number: int, **arguments: Any) -> RoundResult:
        await asyncio.sleep(0)
        routed = np.full((2, MANIFEST.model.num_experts), 100, np.int64)
        return RoundResult(round_number, 5, 200, 2.0, 0.1, routed)


def link_with(directory: Path, worker: Any) -> tuple[TrainingLink, FakeMember]:
    policy = RunPolicy(MANIFEST, "me")
    buffers = SharedBuffers.create(policy.layout)
    link = TrainingLink(config_in(directory), policy, buffers, 1, Status(lambda line: None))
    link._worker, link._is_set_up = worker, True
    return link, FakeMember(policy)


def test_an_offer_names_the_commit_that_its_training_began_from(tmp_path: Path) -> None:
    async def main() -> None:
        link, member = link_with(tmp_path, FakeWorker())
        offer = await link.train(member)  # type: ignore[arg-type]
        assert offer is not None and offer.base_commit == b"base"
        assert offer.tokens == 200 and offer.weights["expert.1"] == 100

    asyncio.run(main())


@pytest.mark.parametrize("normalize", [True, False])
def test_an_update_of_fewer_steps_is_scaled_to_the_mean_unless_the_run_says_not_to(
    normalize: bool, tmp_path: Path
) -> None:
    class Slow(FakeWorker):
        async def train(self, *, round_number: int, **arguments: Any) -> RoundResult:
            assert arguments["steps"] == 5
            for name in link._buffers.delta:
                link._buffers.delta[name][:] = 1.0
            return await super().train(round_number=round_number, **arguments)

    async def main() -> None:
        nonlocal link
        link, member = link_with(tmp_path, Slow())
        sync = dataclasses.replace(MANIFEST.sync, normalize_steps=normalize)
        link._policy.manifest = dataclasses.replace(MANIFEST, sync=sync)
        member.ledger.record.assignments[0].steps = 5
        member.ledger.record.assignments.add(peer="other", steps=25)
        offer = await link.train(member)  # type: ignore[arg-type]
        assert offer is not None and (offer.steps, offer.train_seconds) == (5, 0.1)
        wanted = 3.0 if normalize else 1.0  # 15 steps on the average
        assert {float(values[0]) for values in offer.deltas.values()} == {wanted}

    link: Any = None
    asyncio.run(main())


def test_a_round_begins_at_step_zero_for_those_who_ask(tmp_path: Path) -> None:
    seen: list[int] = []

    class Watching(FakeWorker):
        async def train(self, **arguments: Any) -> RoundResult:
            seen.append(link._status.step)
            return await super().train(**arguments)

    async def main() -> None:
        nonlocal link
        link, member = link_with(tmp_path, Watching())
        for _ in range(2):
            assert await link.train(member) is not None  # type: ignore[arg-type]
            assert link._status.step == 5

    link: Any = None
    asyncio.run(main())
    assert seen == [0, 0]


def test_a_commit_adopted_while_training_ends_leaves_nothing_to_offer(tmp_path: Path) -> None:
    """The adopter holds the condition's lock, so the cancelled waiter waits for it."""

    async def main() -> None:
        link, member = link_with(tmp_path, FakeWorker())

        async def adopt() -> None:
            async with member.changed:
                await asyncio.sleep(0.1)  # training has ended by now
                member.ledger.commit_id = b"newer"
                member.changed.notify_all()

        class Worker(FakeWorker):
            async def train(self, **arguments: Any) -> RoundResult:
                adopting.append(asyncio.create_task(adopt()))
                return await super().train(**arguments)

        adopting: list[asyncio.Task[None]] = []
        link._worker = Worker()  # type: ignore[assignment]
        offer = await asyncio.wait_for(link.train(member), LIMIT_S)  # type: ignore[arg-type]
        assert member.ledger.commit_id == b"newer" and offer is None
        await adopting[0]

    asyncio.run(main())


def test_rounds_decided_while_a_worker_starts_do_not_end_its_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Starting(FakeWorker):
        pid = 4711

        async def init(self, *arguments: object) -> WorkerReady:
            await prepared.wait()
            return WorkerReady({}, parameters=1, trainable=1, device="cpu", step=0)

        async def stop(self, grace: timedelta) -> None:
            pass

    async def start(*arguments: object) -> Starting:
        started.append(Starting())
        return started[-1]

    async def main() -> None:
        nonlocal prepared
        prepared = asyncio.Event()
        link, member = link_with(tmp_path, None)
        for commit in (b"newer", b"newest"):
            training = asyncio.create_task(link.train(member))  # type: ignore[arg-type]
            await asyncio.sleep(0.01)
            async with member.changed:
                member.ledger.commit_id = commit
                member.changed.notify_all()
            assert await asyncio.wait_for(training, LIMIT_S) is None
        prepared.set()
        offer = await asyncio.wait_for(link.train(member), LIMIT_S)  # type: ignore[arg-type]
        assert offer is not None and offer.base_commit == b"newest"
        assert len(started) == 1 and link.ready and link._status.worker_pid == 4711

    prepared: Any = None
    started: list[Starting] = []
    monkeypatch.setattr("node.worker_link.WorkerProcess.start", start)
    asyncio.run(main())


@pytest.mark.parametrize("ready", [True, False])
def test_a_worker_is_asked_to_save_unless_it_is_still_starting(ready: bool, tmp_path: Path) -> None:
    calls: list[object] = []

    class Worker(FakeWorker):
        async def save(self) -> None:
            calls.append("save")

        async def stop(self, grace: timedelta) -> None:
            calls.append(grace)

    async def main() -> None:
        link, _ = link_with(tmp_path, Worker())
        link._is_set_up = ready
        await link.stop()

    asyncio.run(main())
    assert calls == (["save", timedelta(seconds=1)] if ready else [timedelta(0)])
