"""Parts of the daemon without its processes: what it offers, says, publishes, and how it ends."""

from __future__ import annotations

import asyncio
import dataclasses
import os
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from rich.console import Console

import node.ending
from node.daemon import Daemon
from node.daemon_config import DaemonConfig
from node.daemon_status import State, Status
from node.daemon_view import status_reply
from node.governing import finish_round
from node.publishing import RecordPublisher
from node.shared_buffers import SharedBuffers
from node.status_view import render_status
from node.tasks import together, uninterrupted
from node.training_link import TrainingLink
from node.worker_messages import RoundResult, WorkerReady
from swarm.collective.context import Offer, RoundEvent
from swarm.collective.ledger import Ledger
from swarm.config import RunManifest
from swarm.errors import Code, SwarmError
from swarm.files import write_atomic
from swarm.model.config import ModelConfig
from swarm.network.addresses import data_addresses
from swarm.training.policy import RunPolicy
from swarm.wire import collective_pb2 as pb
from swarm.wire import node_pb2
from swarm.wire.membership_pb2 import PeerRecord

LIMIT_S = 10.0
MANIFEST = RunManifest(
    model=ModelConfig(d_model=16, num_layers=2, num_heads=2, num_kv_heads=2, d_ff=16, num_experts=2)
)
UNREACHABLE = SwarmError(Code.PEER_UNREACHABLE, "the DHT did not answer")


def config_in(directory: Path) -> DaemonConfig:
    return DaemonConfig(
        manifest_path=directory / "RUN.toml", data="texts", domain="law", peers=(),
        directory=directory, name="anna", host="127.0.0.1", port=0, threads=1, device="auto",
        allow_solo=True,
    )  # fmt: skip


def daemon_in(directory: Path, report: Callable[[str], None] = lambda line: None) -> Daemon:
    return Daemon(config_in(directory), MANIFEST, report)


# ---- addresses and the record ---------------------------------------------------------------


def test_data_addresses_are_those_of_the_node_itself_with_ipv6_in_brackets() -> None:
    peer = "/p2p/12D3KooWEHnk6JvEDmQx21Yhwpze66ePzW6eGpNSxTTiraRvTyeU"
    announced = [
        f"/ip4/10.0.0.5/tcp/4001{peer}",
        f"/ip4/10.0.0.5/tcp/4002{peer}",
        f"/ip6/2001:db8::7/tcp/4001{peer}",
        f"/ip4/192.0.2.9/tcp/4001{peer}/p2p-circuit{peer}",
        f"/dns4/example.org/tcp/4001{peer}",
    ]
    assert data_addresses(announced, 50051) == ["10.0.0.5:50051", "[2001:db8::7]:50051"]


class FakeNetwork:
    addresses = ("/ip4/127.0.0.1/tcp/1/p2p/X",)
    data_hosts = addresses
    known_addresses: tuple[str, ...] = ()
    signed_record = None

    def __init__(self) -> None:
        self.published: list[PeerRecord] = []
        self.failure: Exception | None = None

    async def recent_paths(self) -> dict[str, str]:
        if self.failure is not None:
            raise self.failure
        return {"bert": "lan"}

    async def publish(self, record: PeerRecord) -> None:
        self.published.append(record)


def publisher_in(
    directory: Path, network: Any, records: Callable[[], Any], status: Status
) -> RecordPublisher:
    rates = SimpleNamespace(upload_bps=1e6)
    plane = SimpleNamespace(certificate_pem=b"certificate", rates=rates)
    peers: Any = SimpleNamespace(
        records=records,
        note=lambda signed: None,
        record=lambda peer: PeerRecord(peer_id=peer, display_name=peer.title()),
    )
    return RecordPublisher(config_in(directory), network, peers, Ledger(None), status, plane, 7)  # type: ignore[arg-type]


async def until(condition: Callable[[], bool]) -> None:
    async def poll() -> None:
        while not condition():
            await asyncio.sleep(0.005)

    await asyncio.wait_for(poll(), LIMIT_S)


def test_publishing_goes_on_after_a_failure_that_is_said_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("node.publishing.LOOK_EVERY_S", 0.002)
    asked = []

    async def records() -> dict[str, PeerRecord]:
        asked.append(1)
        if len(asked) < 20:
            raise SwarmError(Code.PEER_UNREACHABLE, f"failed {len(asked)} times")
        return {"bert": PeerRecord(peer_id="bert")}

    async def main() -> None:
        said: list[str] = []
        network, status = FakeNetwork(), Status(said.append)
        status.device = "cpu"
        publisher = publisher_in(tmp_path, network, records, status)
        task = asyncio.create_task(publisher.run())
        await until(lambda: bool(publisher.known))
        await until(lambda: bool(network.published))
        task.cancel()
        assert [("failed" in line, "works again" in line) for line in said] == [
            (True, False), (False, True),
        ]  # fmt: skip
        assert publisher.paths == {"bert": "lan"}
        assert network.published[0].device == "cpu"  # not the argument, which is `auto`

    asyncio.run(main())


def test_a_defect_in_a_background_task_ends_the_daemon(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("node.publishing.LOOK_EVERY_S", 0.002)

    async def records() -> dict[str, PeerRecord]:
        raise KeyError("a defect")

    async def main() -> None:
        publisher = publisher_in(tmp_path, FakeNetwork(), records, Status(lambda line: None))
        with pytest.raises(KeyError):
            await asyncio.wait_for(together(asyncio.sleep(LIMIT_S), publisher.run()), LIMIT_S / 2)

    asyncio.run(main())


def test_a_background_task_that_just_ends_is_a_defect_too() -> None:
    async def nothing() -> None:
        return

    async def main() -> None:
        with pytest.raises(SwarmError) as caught:
            await asyncio.wait_for(together(asyncio.sleep(LIMIT_S), nothing()), LIMIT_S / 2)
        assert caught.value.code is Code.INTERNAL
        await together(nothing(), asyncio.sleep(LIMIT_S))

    asyncio.run(main())


# ---- rounds ---------------------------------------------------------------------------------


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


def test_an_unreachable_directory_does_not_end_a_node(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("node.daemon.RETRY_S", 0.001)
    tried = []

    async def records() -> dict[str, PeerRecord]:
        tried.append(1)
        raise UNREACHABLE if len(tried) < 5 else SwarmError(Code.DISK_FULL, "the end of this test")

    async def main() -> None:
        said: list[str] = []
        daemon = daemon_in(tmp_path, said.append)
        member: Any = SimpleNamespace(
            context=SimpleNamespace(directory=SimpleNamespace(records=records))
        )
        with pytest.raises(SwarmError) as caught:
            await asyncio.wait_for(daemon._live(member), LIMIT_S)
        assert caught.value.code is Code.DISK_FULL
        assert len(tried) == 5
        assert sum("PEER_UNREACHABLE" in line for line in said) == 1
        daemon.data_plane.stop()

    asyncio.run(main())


def test_a_commit_is_given_to_the_keeper_as_soon_as_it_is_adopted(tmp_path: Path) -> None:
    async def main() -> None:
        daemon = daemon_in(tmp_path)
        fragments = {"trunk.0": daemon.policy.initial("trunk.0")}
        daemon.member = SimpleNamespace(state=SimpleNamespace(fragments=fragments), level=True)  # type: ignore[assignment]
        daemon.ledger.memory.record = pb.RoundRecord(round=1)
        daemon._on_event(RoundEvent("committed", 1))
        await daemon.keeper.finish()
        assert daemon.store.get(fragments["trunk.0"].theta_hash) is not None
        daemon.data_plane.stop()

    asyncio.run(main())


def test_an_update_handed_in_before_a_pause_is_offered_again_and_not_trained_anew(
    tmp_path: Path,
) -> None:
    daemon = daemon_in(tmp_path)
    assert daemon._unanswered() is None
    daemon._offered = offer = Offer(
        {}, {}, base_commit=b"open", steps=1, tokens=1, loss=0.0, train_seconds=1.0,
        routed_tokens=[],
    )  # fmt: skip
    daemon.ledger.memory.commit_id = b"open"
    assert daemon._unanswered() is offer
    daemon.ledger.memory.commit_id = b"decided"
    assert daemon._unanswered() is None
    daemon.data_plane.stop()


def test_a_node_asked_to_finish_stops_at_once_where_it_has_no_part_in_a_round(
    tmp_path: Path,
) -> None:
    stopped: list[str] = []
    daemon = daemon_in(tmp_path, stopped.append)
    daemon.on_stop = lambda: stopped.append("stopped")
    for state in (State.TRAINING, State.AVERAGING):
        daemon.status.state = state
        finish_round(daemon)
        assert daemon.governor.finishing and "stopped" not in stopped
    daemon.status.state = State.PAUSED
    finish_round(daemon)
    assert stopped[-1] == "stopped"
    daemon.data_plane.stop()


# ---- status ---------------------------------------------------------------------------------


def text_of(status: node_pb2.StatusReply) -> str:
    console = Console(width=200)
    with console.capture() as capture:
        console.print(render_status(status, 0))
    return capture.get()


def test_status_before_the_first_commit_says_so_and_has_no_device_yet(tmp_path: Path) -> None:
    async def main() -> None:
        daemon = daemon_in(tmp_path)
        shown = text_of(await daemon.snapshot())
        assert "no commit yet" in shown and "0 committed" not in shown
        assert "auto" not in shown
        daemon.status.device = "cuda:1"
        reply = await daemon.snapshot()
        assert reply.device == "cuda:1" and "cuda:1" in text_of(reply)
        daemon.data_plane.stop()

    asyncio.run(main())


def test_status_answers_at_once_from_what_is_known_while_the_dht_hangs(tmp_path: Path) -> None:
    async def hanging() -> dict[str, PeerRecord]:
        await asyncio.sleep(3600)
        raise AssertionError

    async def main() -> None:
        daemon = daemon_in(tmp_path)
        publisher = publisher_in(tmp_path, FakeNetwork(), hanging, daemon.status)
        publisher.known, publisher.paths = frozenset({"bert"}), {"bert": "direct"}
        daemon.publisher = publisher
        daemon.member = SimpleNamespace(me="anna", suspects={})  # type: ignore[assignment]
        task = asyncio.create_task(publisher.run())
        await asyncio.sleep(0)
        reply = await asyncio.wait_for(daemon.snapshot(), 1.0)
        assert [(p.peer_id, p.display_name, p.alive) for p in reply.peers] == [
            ("bert", "Bert", True)
        ]
        task.cancel()
        daemon.data_plane.stop()

    asyncio.run(main())


def test_a_peer_is_here_while_it_is_a_member_or_connected_whatever_its_record_still_says(
    tmp_path: Path,
) -> None:
    async def main() -> None:
        daemon = daemon_in(tmp_path)
        publisher = publisher_in(tmp_path, FakeNetwork(), lambda: None, daemon.status)
        publisher.known = frozenset({"anna", "killed", "member", "relay", "suspect"})
        publisher.paths = {"relay": "relay", "suspect": "direct"}
        daemon.publisher = publisher
        daemon.member = SimpleNamespace(me="anna", suspects={"suspect": "no answer"})  # type: ignore[assignment]
        record = pb.RoundRecord(roster=["member", "suspect"])
        daemon.ledger.memory.adopt(pb.Commit(record=record.SerializeToString()))
        peers = {peer.peer_id: peer for peer in status_reply(daemon).peers}
        assert {name for name, peer in peers.items() if peer.alive} == {"anna", "member", "relay"}
        assert peers["killed"].absent == "not a member"
        assert peers["suspect"].absent == "does not answer"
        daemon.data_plane.stop()

    asyncio.run(main())


# ---- ending ---------------------------------------------------------------------------------


class Parts:
    """Stand-ins for what a daemon stops, each failing in its own way."""

    def __init__(self, failure: Exception | None = None, hang: bool = False) -> None:
        self.failure = failure
        self.hang = hang
        self.stopped: list[str] = []

    def part(self, name: str) -> Callable[[], Any]:
        async def stop() -> None:
            self.stopped.append(name)
            if self.hang:
                await asyncio.sleep(3600)
            if self.failure is not None:
                raise self.failure

        return stop

    def into(self, daemon: Daemon) -> None:
        member = SimpleNamespace(resign=self.part("resign"), close=self.part("close"))
        daemon.member = member  # type: ignore[assignment]
        daemon.training.stop = self.part("worker")  # type: ignore[method-assign]
        daemon.keeper.finish = self.part("keeper")  # type: ignore[method-assign]
        daemon.network = SimpleNamespace(shutdown=self.part("network"))  # type: ignore[assignment]
        closing = daemon.data_plane.stop

        def stop_plane() -> None:
            self.stopped.append("plane")
            closing()
            if self.failure is not None:
                raise self.failure

        daemon.data_plane.stop = stop_plane  # type: ignore[method-assign]


ALL = {"resign", "close", "worker", "keeper", "network", "plane"}


@pytest.mark.parametrize(
    "failure", [OSError("broken"), UNREACHABLE, RuntimeError("a defect"), asyncio.TimeoutError()]
)
def test_what_fails_while_stopping_does_not_keep_the_rest_from_being_stopped(
    failure: Exception, tmp_path: Path
) -> None:
    def broken_output(line: str) -> None:
        said.append(line)
        raise BrokenPipeError

    said: list[str] = []
    daemon = daemon_in(tmp_path, broken_output)
    parts = Parts(failure)
    parts.into(daemon)
    asyncio.run(node.ending.finish(daemon))
    assert set(parts.stopped) == ALL
    assert sum(line.startswith("warning") for line in said) == 5
    assert daemon.status.state.value == "STOPPED"


def test_a_stop_in_which_everything_hangs_is_bounded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    limits = (node.ending.LEAVE_LIMIT, node.ending.CLOSE_LIMIT, 2 * node.ending.CANCEL_WAIT)
    assert sum(limits, timedelta()) < timedelta(seconds=10)
    monkeypatch.setattr(node.ending, "LEAVE_LIMIT", timedelta(seconds=0.2))
    monkeypatch.setattr(node.ending, "CLOSE_LIMIT", timedelta(seconds=0.2))
    said: list[str] = []
    daemon = daemon_in(tmp_path, said.append)
    parts = Parts(hang=True)
    parts.into(daemon)
    started = time.monotonic()
    asyncio.run(node.ending.finish(daemon))
    assert time.monotonic() - started < 5
    assert set(parts.stopped) == ALL
    assert sum("took longer" in line for line in said) == 4


def test_a_second_request_to_stop_does_not_cut_the_first_one_short() -> None:
    done = []

    async def clean_up() -> None:
        await asyncio.sleep(0.05)
        done.append(1)

    async def main() -> None:
        task = asyncio.create_task(uninterrupted(clean_up()))
        for _ in range(3):
            await asyncio.sleep(0.005)
            task.cancel()
        await task

    asyncio.run(main())
    assert done == [1]


# ---- files ----------------------------------------------------------------------------------


def test_a_file_written_in_one_step_is_as_private_as_the_umask_says(tmp_path: Path) -> None:

    for mask, mode in ((0o077, 0o600), (0o022, 0o644)):
        before = os.umask(mask)
        try:
            write_atomic(tmp_path / "file", b"text")
        finally:
            os.umask(before)
        assert (tmp_path / "file").stat().st_mode & 0o777 == mode
