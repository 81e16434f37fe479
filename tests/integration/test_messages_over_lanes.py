"""Messages of rounds between two peers with real p2pd: by an open lane, by p2pd where none is."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import timedelta
from pathlib import Path

import numpy as np
from p2p_swarm import RUN, WAIT, error_of, eventually, has_stopped, swarm_of

from swarm.collective.communicator import Communicator
from swarm.errors import Code
from swarm.hashing import bulk_hash
from swarm.network.data_plane import DataPlane
from swarm.network.p2p import PeerNetwork
from swarm.wire.collective_pb2 import GetCommit, GetCommitReply
from swarm.wire.control_pb2 import Envelope, Ping, Pong, Refusal
from swarm.wire.membership_pb2 import PeerRecord

BLOB = b"blob"


class Peer:
    """A network and a data plane; it notes which rounds it is asked for."""

    def __init__(self, network: PeerNetwork) -> None:
        self.network = network
        self.id = network.peer_id
        self.asked: list[int] = []
        self.answering = asyncio.Event()  # it answers as long as this is set
        self.answering.set()
        self.plane = DataPlane(network.identity, RUN)
        self.address = self.plane.start("127.0.0.1", 0)
        self.plane.set_blob_source(lambda blob_hash: memoryview(BLOB))
        network.talk_over(self.plane)
        network.serve(GetCommit, self._answer)

    async def _answer(self, sender: str, request: GetCommit) -> GetCommitReply:
        self.asked.append(request.round)
        await self.answering.wait()
        return GetCommitReply()

    async def ask(self, other: Peer, number: int, timeout: timedelta = WAIT) -> None:
        """A message of a round."""
        await self.network.call(other.id, GetCommit(round=number), GetCommitReply, timeout)

    async def ping(self, other: Peer, timeout: timedelta = WAIT) -> None:
        """A message about the network."""
        await self.network.call(other.id, Ping(), Pong, timeout)

    async def use(self, other: Peer) -> None:
        """A bulk call, after which its lane stays open."""
        record = PeerRecord(
            peer_id=other.id,
            data_addresses=[other.address],
            tls_certificate=other.plane.certificate_pem,
        )
        into = memoryview(bytearray(len(BLOB)))
        download = self.plane.download_blob
        await asyncio.to_thread(download, [record], bulk_hash(BLOB), into, WAIT)

    def has_lane_to(self, other: Peer) -> bool:
        return self.plane.can_ask(other.id, 1)


def with_two_peers(keys: Path, story: Callable[[Peer, Peer], Awaitable[None]]) -> None:
    async def run() -> None:
        async with swarm_of(keys, 2) as networks:
            peers = [Peer(network) for network in networks]
            try:
                await story(*peers)
            finally:
                for peer in peers:
                    peer.plane.stop()

    asyncio.run(run())


@contextlib.asynccontextmanager
async def frozen_p2pd(network: PeerNetwork) -> AsyncIterator[None]:
    pid = network.life.daemon.p2p._child.pid
    os.kill(pid, signal.SIGSTOP)
    try:
        await eventually(lambda: has_stopped(pid))
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


async def asked_for(peer: Peer, numbers: list[int]) -> None:
    async def they_came() -> bool:
        return peer.asked == numbers

    await eventually(they_came, 5)


def test_messages_of_rounds_take_an_open_lane_and_others_always_p2pd(tmp_path: Path) -> None:
    async def story(alice: Peer, bob: Peer) -> None:
        await alice.ask(bob, 1)
        assert not alice.has_lane_to(bob)
        await alice.use(bob)
        async with frozen_p2pd(bob.network):
            for number in (2, 3):
                await alice.ask(bob, number)
            error = await error_of(alice.ping(bob, timedelta(seconds=0.3)))
            assert error.code is Code.PEER_UNREACHABLE
        assert bob.asked == [1, 2, 3] and alice.has_lane_to(bob)

    with_two_peers(tmp_path, story)


def test_a_lane_that_is_cut_with_a_message_under_way_loses_nothing(tmp_path: Path) -> None:
    """The message comes a second time, by p2pd."""

    async def story(alice: Peer, bob: Peer) -> None:
        await alice.use(bob)
        bob.answering.clear()
        asking = asyncio.create_task(alice.ask(bob, 1))
        await asked_for(bob, [1])
        await asyncio.to_thread(bob.plane.stop)
        await asked_for(bob, [1, 1])
        bob.answering.set()
        await asking
        await alice.ask(bob, 2)
        assert bob.asked == [1, 1, 2]

    with_two_peers(tmp_path, story)


def test_who_answers_on_no_lane_is_asked_by_p2pd_within_the_same_limit(tmp_path: Path) -> None:
    """As of a lane whose way through the network is dead, while libp2p has another."""

    async def story(alice: Peer, bob: Peer) -> None:
        await alice.use(bob)
        bob.answering.clear()
        began_s = time.monotonic()
        asking = asyncio.create_task(alice.ask(bob, 1, timedelta(seconds=1)))
        await asked_for(bob, [1, 1])
        assert time.monotonic() - began_s < 1
        bob.answering.set()
        await asking
        assert not alice.has_lane_to(bob)

        bob.answering.clear()  # and who answers at all costs no more than the limit
        await alice.use(bob)
        began_s = time.monotonic()
        error = await error_of(alice.ask(bob, 2, timedelta(seconds=0.5)))
        assert error.code is Code.PEER_UNREACHABLE and time.monotonic() - began_s < 1
        bob.answering.set()

    with_two_peers(tmp_path, story)


def test_a_message_on_a_lane_is_checked_and_limited_as_any_other(tmp_path: Path) -> None:
    async def story(alice: Peer, bob: Peer) -> None:
        await alice.use(bob)
        other_run = Envelope.FromString(alice.network._endpoint.seal(bob.id, GetCommit()))
        other_run.run_id = b"s" * 32
        stolen = bob.network._endpoint.seal(alice.id, GetCommit())
        for data, code in (
            (b"garbage", Code.MESSAGE_MALFORMED),
            (other_run.SerializeToString(), Code.MESSAGE_WRONG_RUN),
            (stolen, Code.MESSAGE_MALFORMED),
        ):
            answer = await asyncio.to_thread(alice.plane.ask, bob.id, data, WAIT)
            refusal = Refusal.FromString(Envelope.FromString(answer).payload)
            assert refusal.code == code.value
            assert bob.network.refused[code.value]
        assert not bob.asked
        await alice.ask(bob, 1)

        def flood() -> None:
            for _ in range(5000):
                alice.plane.ask(bob.id, b"garbage", WAIT)
                if bob.network.refused[Code.OVER_LIMIT.value]:
                    return

        await asyncio.to_thread(flood)
        assert bob.network.refused[Code.OVER_LIMIT.value]

    with_two_peers(tmp_path, story)


def test_an_operation_among_peers_with_open_lanes_needs_no_p2pd() -> None:
    async def story(first: Communicator, second: Communicator) -> None:
        await asyncio.gather(first.join(), second.join())

        async def reduce() -> None:
            handles = [c.all_reduce({"x": np.ones(10, np.float32)}) for c in (first, second)]
            for result in await asyncio.gather(*handles):
                assert (result.tensors["x"] == 1).all()

        def lanes() -> list[int]:  # one for messages, one for the exchange meanwhile
            pairs = ((first, second), (second, first))
            pools = [(a._session._plane._pool._peers, b.peer_id) for a, b in pairs]
            return [len(pool[peer].idle) if peer in pool else 0 for pool, peer in pools]

        async def with_lanes() -> bool:
            await reduce()
            return min(lanes()) >= 2

        await eventually(with_lanes)
        async with frozen_p2pd(first._session._network), frozen_p2pd(second._session._network):
            began_s = time.monotonic()
            await reduce()
            assert time.monotonic() - began_s < 1.5

    with Communicator.open("lanes", route="direct") as first:
        with Communicator.open("lanes", route="direct", initial_peers=[first.address]) as second:
            asyncio.run(story(first, second))
