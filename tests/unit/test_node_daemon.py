"""Parts of the daemon without its processes: its rounds, and what it says of itself."""

from __future__ import annotations

import asyncio
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from daemon_parts import LIMIT_S, UNREACHABLE, FakeNetwork, daemon_in, publisher_in
from rich.console import Console

from node.daemon import Daemon
from node.daemon_status import State
from node.daemon_view import status_reply
from node.governing import finish_round
from node.round_metrics import RoundWatch
from node.status_view import render_status
from swarm.collective.context import Offer, RoundEvent
from swarm.collective.state import CanonicalState
from swarm.errors import Code, SwarmError
from swarm.model.fragments import state_root
from swarm.wire import collective_pb2 as pb
from swarm.wire import node_pb2
from swarm.wire.membership_pb2 import PeerRecord

# ---- rounds ---------------------------------------------------------------------------------


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


class FallingBehind:
    """A member whose round is decided, and the next one too, of which it lacks a fragment."""

    def __init__(self, daemon: Daemon) -> None:
        self.me, self.level, self._daemon = "me", True, daemon
        names = daemon.policy.layout.names
        self.state = CanonicalState({name: daemon.policy.initial(name) for name in names})
        self.whole = state_root(self.state.hashes()).hex()

    def commit(self, round_index: int) -> pb.RoundRecord:
        memory = self._daemon.ledger.memory
        memory.record = pb.RoundRecord(round=round_index, roster=["me"])
        memory.commit, memory.commit_id = pb.Commit(), bytes([round_index])
        return memory.record

    async def run_round(self, offer: Offer) -> pb.RoundRecord:
        return self.commit(1)

    def fall_behind(self) -> None:
        self.commit(2)
        self.level = False
        self.lacking = self.state.fragments.popitem()

    def fetch(self) -> None:
        self.state.put(*self.lacking)
        self.level = True


def test_a_round_decided_while_the_last_one_is_measured_is_told_when_its_bits_are_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    daemon = daemon_in(tmp_path)
    member = FallingBehind(daemon)
    daemon.member = member  # type: ignore[assignment]

    def measured(*given: object) -> dict[str, float]:
        member.fall_behind()
        return {"routing_entropy": 0.5}

    monkeypatch.setattr(RoundWatch, "finish", measured)
    offer = Offer(
        {}, {}, base_commit=b"", steps=1, tokens=1, loss=0.0, train_seconds=1.0, routed_tokens=[]
    )
    assert asyncio.run(daemon._average(member, offer)) is None  # type: ignore[arg-type]
    daemon._note_commit()
    (first,) = daemon.status.rounds
    assert (first.round, first.state_root) == (1, member.whole)
    assert first.metrics["routing_entropy"] == 0.5
    member.fetch()
    daemon._note_commit()
    assert [(s.round, s.state_root) for s in daemon.status.rounds] == [
        (1, member.whole), (2, member.whole)
    ]  # fmt: skip
    daemon.data_plane.stop()


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
