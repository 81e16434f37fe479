"""Calls and records between PeerNetworks with real p2pd processes on loopback."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from datetime import timedelta
from pathlib import Path

import pytest
from p2p_swarm import RUN, WAIT, error_of, eventually, has_stopped, join, sees, swarm_of

from swarm.errors import Code, SwarmError
from swarm.identity import Identity
from swarm.network.envelope import MAX_ENVELOPE_BYTES, seal, signed_text
from swarm.network.p2p.daemon import Daemon
from swarm.network.p2p.twin import CONTROL_PROTOCOL
from swarm.wire.collective_pb2 import GetCommit, GetCommitReply
from swarm.wire.control_pb2 import Envelope, Locate, Ping, Pong, Refusal
from swarm.wire.membership_pb2 import PeerRecord


@pytest.fixture
def keys(tmp_path: Path) -> Path:
    return tmp_path


def test_four_peers_find_one_another_by_the_first_and_can_all_call_all(keys):
    async def story() -> None:
        async with swarm_of(keys, 4) as networks:
            for network in networks:
                await eventually(lambda: sees(network, 4))  # noqa: B023
            for caller in networks:
                for peer in networks:
                    pong = await caller.call(peer.peer_id, Ping(sequence=3), Pong, WAIT)
                    assert (pong.sequence, pong.incarnation) == (3, peer.incarnation)
            assert set((await networks[0].paths()).values()) == {"lan"}
            assert await networks[0].path_of(networks[0].peer_id) == "self"

    asyncio.run(story())


def test_a_call_whose_connection_is_closed_by_the_other_side_goes_out_once_more(keys):
    async def story() -> None:
        async with swarm_of(keys, 2) as (alice, bob):
            calls: list[str] = []
            closing = 1

            async def serve(sender: str, request: GetCommit) -> GetCommitReply:
                calls.append(sender)
                if len(calls) <= closing:
                    await bob.life.running()[0].disconnect(sender)
                    await asyncio.sleep(1.0)  # this answer reaches nobody
                return GetCommitReply()

            bob.serve(GetCommit, serve)
            await alice.call(bob.peer_id, GetCommit(), GetCommitReply, WAIT)
            assert len(calls) == 2
            calls.clear()
            closing = 9
            again = alice.call(bob.peer_id, GetCommit(), GetCommitReply, WAIT)
            assert (await error_of(again)).code is Code.PEER_UNREACHABLE
            assert len(calls) == 2

    asyncio.run(story())


def test_the_dht_calls_nobody_who_could_not_be_reached_a_moment_ago(keys):
    """p2pd alone would try the addresses in its own tables, those of strangers' LANs for one."""

    async def story() -> None:
        async with swarm_of(keys, 2) as (alice, bob):
            directory = bob.life.running()[1]
            await directory.meet(alice.peer_id)
            bob.routes._out_of_reach[alice.peer_id] = time.monotonic() + 60
            error = await error_of(directory.meet(alice.peer_id))
            assert error.code is Code.PEER_UNREACHABLE

    asyncio.run(story())


def test_records_carry_the_publisher_and_disappear_when_it_leaves(keys):
    async def story() -> None:
        async with swarm_of(keys, 2) as (alice, bob):
            found = (await alice.records())[bob.peer_id]
            assert found.display_name == "n1"
            assert found.incarnation == bob.incarnation
            assert list(found.p2p_addresses) == bob.addresses
            await bob.publish(PeerRecord(display_name="renamed", lease_ttl_ms=5_000))
            assert (await alice.records())[bob.peer_id].display_name == "renamed"
            await bob.shutdown()
            assert set(await alice.records()) == {alice.peer_id}

    asyncio.run(story())


def test_peer_that_leaves_and_comes_back_at_once_is_seen_again(keys):
    async def story() -> None:
        async with swarm_of(keys, 2) as (alice, bob):
            await bob.shutdown()
            again = await join(keys / "key1", [alice])
            await again.publish(PeerRecord(display_name="back", lease_ttl_ms=5_000))
            assert (await alice.records())[bob.peer_id].incarnation == again.incarnation
            await again.shutdown()

    asyncio.run(story())


def test_record_of_a_dead_peer_expires_with_its_lease_and_a_live_one_is_renewed(keys):
    async def story() -> None:
        async with swarm_of(keys, 2, lease_ms=2_500) as (alice, bob):
            issued_ms = (await alice.records())[alice.peer_id].issued_at_ms
            bob.life.watcher.cancel()
            await bob.life.take_down()  # as by SIGKILL: no farewell
            assert await eventually(lambda: sees(alice, 1)) < 5
            assert (await alice.records())[alice.peer_id].issued_at_ms > issued_ms

    asyncio.run(story())


def test_named_values_are_kept_per_peer(keys):
    async def story() -> None:
        async with swarm_of(keys, 3) as (alice, bob, carol):
            await alice.store_value("commit", b"first", WAIT)
            await alice.store_value("commit", b"second", WAIT)
            await bob.store_value("commit", b"other", WAIT)
            assert await carol.get_values("commit") == {
                alice.peer_id: b"second",
                bob.peer_id: b"other",
            }
            assert await carol.get_values("nothing") == {}

    asyncio.run(story())


def test_hostile_messages_are_refused_and_counted_and_the_node_lives_on(keys):
    mallory = Identity.load_or_create(keys / "mallory")

    def envelope(recipient: str, **changes: object) -> Envelope:
        now_ms = int(time.time() * 1000)
        data = seal(mallory, Ping(), run_id=RUN, recipient=recipient, now_ms=now_ms)
        made = Envelope.FromString(data)
        for name, value in changes.items():
            setattr(made, name, value)
        made.signature = mallory.sign(signed_text(made))
        return made

    async def story() -> None:
        async with swarm_of(keys, 2) as (alice, bob):
            daemon = await Daemon.start(keys / "mallory", "127.0.0.1", 0, listen=True, timeout=WAIT)
            unsigned = envelope(alice.peer_id)
            unsigned.signature = b""
            foreign = seal(
                Identity.generate(),
                Ping(),
                run_id=RUN,
                recipient=alice.peer_id,
                now_ms=int(time.time() * 1000),
            )
            hostile = {
                Code.MESSAGE_MALFORMED: b"\xff" * 100,
                Code.MESSAGE_UNSIGNED: unsigned.SerializeToString(),
                Code.MESSAGE_VERSION: envelope(alice.peer_id, protocol=9).SerializeToString(),
                Code.MESSAGE_WRONG_RUN: envelope(
                    alice.peer_id, run_id=b"s" * 32
                ).SerializeToString(),
                Code.MESSAGE_EXPIRED: envelope(alice.peer_id, sent_at_ms=1).SerializeToString(),
                Code.MESSAGE_UNKNOWN: envelope(
                    alice.peer_id, kind="swarm.v1.Pong"
                ).SerializeToString(),
                Code.SIGNATURE_INVALID: foreign,  # signed by somebody else than its sender
                Code.MESSAGE_OVERSIZED: b"\0" * (MAX_ENVELOPE_BYTES + 1),
            }
            try:
                await daemon.connect(alice.peer_id, alice.addresses, WAIT)
                for code, data in hostile.items():
                    answer = Envelope.FromString(
                        await daemon.call(alice.peer_id, CONTROL_PROTOCOL, data, 2 * WAIT)
                    )
                    assert answer.sender == alice.peer_id
                    assert Refusal.FromString(answer.payload).code == code.value
                    assert alice.refused[code.value] == 1
                # p2pd drops what is far too large without asking us
                with pytest.raises(SwarmError):
                    too_large = b"\0" * (3 * MAX_ENVELOPE_BYTES)
                    await daemon.call(alice.peer_id, CONTROL_PROTOCOL, too_large, WAIT / 5)
            finally:
                await daemon.stop()
            assert await bob.call(alice.peer_id, Ping(), Pong, WAIT)
            assert sum(alice.refused.values()) == len(hostile)

    asyncio.run(story())


def test_forged_and_foreign_dht_entries_are_refused(keys):
    async def story() -> None:
        async with swarm_of(keys, 2) as (alice, bob):
            node = bob.life.directory._node
            key = f"{RUN.hex()}/peers"
            expires = time.time() + 20
            assert not await node.store(key, b"junk", expires, subkey="mallory", exclude_self=True)
            assert not await node.store("anything", b"x", expires, exclude_self=True)
            stolen = bob._publisher.signed.SerializeToString()
            assert not await node.store(
                key, stolen, expires + 3000, subkey=bob.peer_id, exclude_self=True
            )
            assert alice.refused["MESSAGE_MALFORMED"] >= 3
            assert await sees(alice, 2)

    asyncio.run(story())


def test_dead_peer_is_reported_quickly_and_calls_have_a_limit(keys):
    async def story() -> None:
        async with swarm_of(keys, 2) as (alice, bob):
            await alice.call(bob.peer_id, Ping(), Pong, WAIT)
            os.kill(bob.life.daemon.p2p._child.pid, signal.SIGSTOP)
            await eventually(lambda: has_stopped(bob.life.daemon.p2p._child.pid))
            began = time.monotonic()
            frozen = alice.call(bob.peer_id, Ping(), Pong, timedelta(seconds=0.5))
            assert (await error_of(frozen)).code is Code.PEER_UNREACHABLE
            assert time.monotonic() - began < 1.5
            bob.life.daemon._surely_until_s.clear()  # so that it asks its p2pd about the connection
            began = time.monotonic()
            asking = bob.call(alice.peer_id, Ping(), Pong, timedelta(seconds=0.5))
            assert (await error_of(asking)).code is Code.PEER_UNREACHABLE
            assert time.monotonic() - began < 1.5
            bob.life.watcher.cancel()
            os.kill(bob.life.daemon.p2p._child.pid, signal.SIGKILL)
            await bob.life.daemon.exited.wait()
            began = time.monotonic()
            dead = alice.call(bob.peer_id, Ping(), Pong, timedelta(seconds=5))
            assert (await error_of(dead)).code is Code.PEER_UNREACHABLE
            assert time.monotonic() - began < 2

    asyncio.run(story())


@pytest.mark.parametrize("whose", ["the callers", "the called peers"])
def test_call_in_flight_ends_when_a_p2pd_dies(keys, whose):
    async def story() -> None:
        async with swarm_of(keys, 2) as (alice, bob):
            arrived = asyncio.Event()

            async def never(sender: str, request: Locate) -> Pong:
                arrived.set()
                await asyncio.Event().wait()
                raise AssertionError

            bob.serve(Locate, never)
            call = asyncio.create_task(
                error_of(alice.call(bob.peer_id, Locate(), Pong, timedelta(seconds=20)))
            )
            await asyncio.wait_for(arrived.wait(), 5)
            dead = alice if whose == "the callers" else bob
            dead.life.watcher.cancel()
            dead.life.daemon.p2p._child.kill()
            error = await asyncio.wait_for(call, 5)
            assert error.code is Code.PEER_UNREACHABLE

    asyncio.run(story())
