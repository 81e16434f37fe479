"""Lanes over libp2p streams between two real p2pd processes."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from network_processes import socket_dirs

from swarm.errors import Code, SwarmError
from swarm.hashing import bulk_hash
from swarm.identity import Identity
from swarm.network.data_plane import DataPlane
from swarm.network.lane import Kind, Lane
from swarm.network.p2p import NetworkConfig, PeerNetwork
from swarm.wire.data_pb2 import Call, ReduceHello
from swarm.wire.membership_pb2 import PeerRecord

RUN = b"r" * 32
WAIT = timedelta(seconds=10)
BLOB = os.urandom(3 * 2**20 + 7)
MIB = 2**20


class Peer:
    """A network and a data plane that no TCP connection reaches."""

    def __init__(self, network: PeerNetwork, run_id: bytes = RUN) -> None:
        self.network = network
        self.plane = DataPlane(network.identity, run_id)
        self.plane.set_tunnel(network.open_stream)
        self.plane.set_blob_source(lambda blob_hash: memoryview(BLOB))

    @property
    def record(self) -> PeerRecord:
        return PeerRecord(
            peer_id=self.network.peer_id,
            p2p_addresses=self.network.addresses,
            tls_certificate=self.plane.certificate_pem,
        )


async def start(key: Path, *known: Peer, **options: Any) -> Peer:
    addresses = tuple(a for peer in known for a in peer.network.addresses)
    network = await PeerNetwork.start(key, RUN, NetworkConfig(initial_peers=addresses))
    peer = Peer(network, **options)
    await network.serve_streams(peer.plane.accept_tunnel)
    return peer


def with_two_peers(tmp_path: Path, story: Callable[[Peer, Peer], Awaitable[None]]) -> None:
    async def run() -> None:
        alice = await start(tmp_path / "alice")
        bob = await start(tmp_path / "bob", alice)
        try:
            await asyncio.wait_for(story(alice, bob), 60)
        finally:
            for peer in (alice, bob):
                peer.plane.stop()
            await asyncio.gather(*(peer.network.shutdown() for peer in (alice, bob)))
        assert not socket_dirs(os.getpid())

    asyncio.run(run())


def begin(lane: Lane) -> None:
    call = Call(reduce=ReduceHello(branch=b"b", round=1, lanes=1))
    lane.send(Kind.CALL, 0, call.SerializeToString())


def exchange(lane: Lane, count: int, size: int) -> None:
    """`count` chunks up and down at once, each checked."""
    sent = [bytes([index]) * size for index in range(count)]

    def send() -> None:
        begin(lane)
        for index, data in enumerate(sent):
            lane.send(Kind.CHUNK, index, data)
        lane.send(Kind.END)

    sender = threading.Thread(target=send)
    sender.start()
    for index in range(count):
        assert lane.receive().index == index
        assert lane.read() == sent[index]
    assert lane.receive().kind is Kind.END
    sender.join()


def echo(peer: str, lane: Lane, hello: ReduceHello) -> None:
    while (frame := lane.receive()).kind is Kind.CHUNK:
        lane.send(Kind.CHUNK, frame.index, lane.read())
    lane.send(Kind.END)


def test_lanes_over_p2pd_streams_carry_calls_both_ways_and_are_reused(tmp_path: Path) -> None:
    async def story(alice: Peer, bob: Peer) -> None:
        callers: list[str] = []

        def handler(peer: str, lane: Lane, hello: ReduceHello) -> None:
            callers.append(peer)
            echo(peer, lane, hello)

        alice.plane.set_reduce_handler(handler)
        bob.plane.set_reduce_handler(handler)

        def work() -> None:
            lane = bob.plane.open_lane(alice.record, WAIT)
            assert lane.path == "tunnel"
            exchange(lane, 16, MIB)
            bob.plane.release(lane)
            assert bob.plane.open_lane(alice.record, WAIT) is lane
            other = bob.plane.open_lane(alice.record, WAIT)
            for each in (lane, other):
                exchange(each, 3, 1000)
                bob.plane.release(each)
            exchange(alice.plane.open_lane(bob.record, WAIT), 2, 10)

        await asyncio.to_thread(work)
        a, b = alice.network.peer_id, bob.network.peer_id
        assert callers == [b, b, b, a]

    with_two_peers(tmp_path, story)


def test_a_blob_is_downloaded_through_the_tunnel(tmp_path: Path) -> None:
    async def story(alice: Peer, bob: Peer) -> None:
        into = bytearray(len(BLOB))
        blob_hash = bulk_hash(BLOB)
        sources, view = [alice.record], memoryview(into)
        await asyncio.to_thread(bob.plane.download_blob, sources, blob_hash, view, WAIT)
        assert bytes(into) == BLOB

    with_two_peers(tmp_path, story)


def test_a_cancelled_tunnel_ends_on_both_sides_and_reasons_survive_the_close(
    tmp_path: Path,
) -> None:
    async def story(alice: Peer, bob: Peer) -> None:
        ended: list[SwarmError] = []

        def wait(peer: str, lane: Lane, hello: ReduceHello) -> None:
            try:
                lane.receive()
            except SwarmError as error:
                ended.append(error)
                raise

        def refuse(peer: str, lane: Lane, hello: ReduceHello) -> None:
            raise SwarmError(Code.ATTEMPT_FAILED, "a newer ballot")

        def work() -> None:
            alice.plane.set_reduce_handler(wait)
            lane = bob.plane.open_lane(alice.record, WAIT)
            begin(lane)
            threading.Timer(0.1, lane.cancel).start()
            began = time.monotonic()
            with pytest.raises(SwarmError):
                lane.receive()
            while not ended:
                assert time.monotonic() - began < 3.0
                time.sleep(0.01)
            assert ended[0].code is Code.PEER_UNREACHABLE

            alice.plane.set_reduce_handler(refuse)
            lane = bob.plane.open_lane(alice.record, WAIT)
            begin(lane)
            with suppress(SwarmError):
                for index in range(64):  # still sending when the answer comes
                    lane.send(Kind.CHUNK, index, bytes(MIB))
            assert lane.receive().kind is Kind.FAILURE
            assert lane.read() == b"ATTEMPT_FAILED: a newer ballot"

        await asyncio.to_thread(work)

    with_two_peers(tmp_path, story)


def test_a_stranger_of_another_run_is_refused_in_words(tmp_path: Path) -> None:
    async def story(alice: Peer, bob: Peer) -> None:
        stranger = Peer(bob.network, run_id=b"s" * 32)
        with pytest.raises(SwarmError) as caught:
            await asyncio.to_thread(stranger.plane.open_lane, alice.record, WAIT)
        stranger.plane.stop()
        assert caught.value.code is Code.PEER_REFUSED
        assert "MESSAGE_WRONG_RUN" in caught.value.message

    with_two_peers(tmp_path, story)


def test_a_peer_that_is_gone_or_serves_no_streams_is_unreachable_in_time(tmp_path: Path) -> None:
    async def story(alice: Peer, bob: Peer) -> None:
        nobody = bob.record
        nobody.peer_id = Identity.generate().peer_id
        nobody.p2p_addresses[:] = [f"/ip4/127.0.0.1/tcp/9/p2p/{nobody.peer_id}"]
        network = await PeerNetwork.start(
            tmp_path / "quiet", RUN, NetworkConfig(initial_peers=tuple(alice.network.addresses))
        )
        quiet = Peer(network)
        try:
            for record in (nobody, quiet.record):
                began = time.monotonic()
                with pytest.raises(SwarmError) as caught:
                    await asyncio.to_thread(bob.plane.open_lane, record, timedelta(seconds=2))
                assert caught.value.code is Code.PEER_UNREACHABLE
                assert time.monotonic() - began < 4.0
        finally:
            quiet.plane.stop()
            await network.shutdown()

    with_two_peers(tmp_path, story)


def test_streams_are_served_again_after_p2pd_was_killed(tmp_path: Path) -> None:
    async def story(alice: Peer, bob: Peer) -> None:
        alice.plane.set_reduce_handler(echo)
        lane = await asyncio.to_thread(bob.plane.open_lane, alice.record, WAIT)
        daemon = alice.network.life.daemon
        assert daemon is not None
        os.kill(daemon.p2p._child.pid, signal.SIGKILL)
        with pytest.raises(SwarmError) as caught:
            await asyncio.to_thread(lane.receive)
        assert caught.value.code is Code.PEER_UNREACHABLE
        began = time.monotonic()
        while True:
            try:
                lane = await asyncio.to_thread(bob.plane.open_lane, alice.record, WAIT)
                break
            except SwarmError:
                assert time.monotonic() - began < 30.0
                await asyncio.sleep(0.2)
        await asyncio.to_thread(exchange, lane, 3, 1000)

    with_two_peers(tmp_path, story)
