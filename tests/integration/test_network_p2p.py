"""PeerNetwork with real p2pd processes on loopback."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import timedelta
from pathlib import Path

import pytest
from network_processes import free_port, is_running, make_address, socket_dirs

from swarm.errors import Code, SwarmError
from swarm.identity import Identity
from swarm.network.envelope import MAX_ENVELOPE_BYTES, seal, signed_text
from swarm.network.p2p import NetworkConfig, PeerNetwork
from swarm.network.p2p.daemon import Daemon
from swarm.network.p2p.twin import CONTROL_PROTOCOL
from swarm.wire.collective_pb2 import GetCommit, GetCommitReply
from swarm.wire.control_pb2 import Envelope, Locate, Ping, Pong, Refusal
from swarm.wire.membership_pb2 import PeerRecord

RUN = b"r" * 32
WAIT = timedelta(seconds=5)


@pytest.fixture
def keys(tmp_path: Path) -> Path:
    return tmp_path


@contextlib.asynccontextmanager
async def swarm_of(
    keys: Path, count: int, lease_ms: int = 30_000
) -> AsyncIterator[list[PeerNetwork]]:
    """Peers that joined one after the other by the first one, records published."""
    networks: list[PeerNetwork] = []
    try:
        for number in range(count):
            networks.append(await join(keys / f"key{number}", networks[:1]))
            record = PeerRecord(display_name=f"n{number}", lease_ttl_ms=lease_ms)
            await networks[-1].publish(record)
        yield networks
    finally:
        await asyncio.gather(*(network.shutdown() for network in networks))


async def join(key: Path, by: list[PeerNetwork], **options) -> PeerNetwork:
    run_id = options.pop("run_id", RUN)
    peers = tuple(address for network in by for address in network.addresses)
    on_stage = options.pop("on_stage", lambda name, message: None)
    config = NetworkConfig(initial_peers=peers, **options)
    return await PeerNetwork.start(key, run_id, config, on_stage=on_stage)


async def error_of(start: Awaitable[object]) -> SwarmError:
    with pytest.raises(SwarmError) as caught:
        await start
    return caught.value


async def eventually(condition: Callable[[], Awaitable[bool]], timeout_s: float = 15) -> float:
    began = time.monotonic()
    while not await condition():
        assert time.monotonic() - began < timeout_s, f"not within {timeout_s} s"
        await asyncio.sleep(0.1)
    return time.monotonic() - began


async def has_stopped(pid: int) -> bool:
    """Whether every thread has; SIGSTOP is not done when `kill` returns."""
    tasks = Path(f"/proc/{pid}/task").iterdir()
    return all(t.joinpath("stat").read_text().rpartition(")")[2].split()[0] == "T" for t in tasks)


async def sees(network: PeerNetwork, count: int) -> bool:
    return len(await network.records()) == count


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


def test_start_reports_its_stages_in_order(keys):
    async def story() -> None:
        stages: list[str] = []
        async with swarm_of(keys, 1) as networks:
            late = await join(
                keys / "late",
                networks,
                port=free_port(),
                on_stage=lambda name, message: stages.append(f"{name}: {message}"),
            )
            await late.shutdown()
        assert [stage.split(":")[0] for stage in stages] == [
            "key",
            "port",
            "p2pd",
            "bootstrap",
            "dht",
            "reachability",
        ]
        assert stages[3] == "bootstrap: 1 of 1 peers answered"

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


def test_p2pd_that_dies_is_started_again_under_the_same_address(keys):
    async def story() -> None:
        async with swarm_of(keys, 2) as (alice, bob):
            addresses = bob.addresses
            await eventually(lambda: sees(alice, 2))  # or p2pd dials by itself, and backs off
            bob.life.daemon.p2p._child.kill()
            await bob.life.daemon.exited.wait()

            async def answers() -> bool:
                with contextlib.suppress(SwarmError):
                    await alice.call(bob.peer_id, Ping(), Pong, WAIT)
                    return await sees(bob, 2)
                return False

            await eventually(answers)
            assert bob.addresses == addresses

    asyncio.run(story())


def test_bootstrap_peer_that_restarts_is_found_again_by_those_it_left_behind(keys):
    async def story() -> None:
        port = free_port()
        address = make_address(keys / "first", port)
        first = await join(keys / "first", [], port=port)
        bob = await PeerNetwork.start(keys / "bob", RUN, NetworkConfig(initial_peers=(address,)))
        await bob.publish(PeerRecord(display_name="bob", lease_ttl_ms=30_000))
        await first.life.take_down()
        await first.shutdown()
        again = await join(keys / "first", [], port=port)
        try:
            assert await eventually(lambda: sees(again, 1)) < 5
            assert bob.peer_id in await again.records()
        finally:
            await again.shutdown()
            await bob.shutdown()

    asyncio.run(story())


def test_an_address_that_refused_a_moment_ago_is_dialled_again_at_once(keys):
    """p2pd by itself waits 5 s and more, and peers that start together do refuse at first."""

    async def story() -> None:
        port = free_port()
        address = make_address(keys / "late", port)
        Identity.load_or_create(keys / "early")
        async with contextlib.AsyncExitStack() as running:

            async def started(name: str, port: int) -> Daemon:
                key = keys / name
                daemon = await Daemon.start(key, "127.0.0.1", port, listen=True, timeout=2 * WAIT)
                running.push_async_callback(daemon.stop)
                return daemon

            early = await started("early", 0)
            peer = address.rpartition("/")[2]
            for _ in range(3):
                error = await error_of(early.connect(peer, [address], WAIT))
                assert error.code is Code.PEER_UNREACHABLE
            await started("late", port)
            began = time.monotonic()
            await early.connect(peer, [address], WAIT)
            assert time.monotonic() - began < 2

    asyncio.run(story())


def test_port_in_use_is_said_with_the_port(keys):
    async def story() -> None:
        async with swarm_of(keys, 1) as (alice,):
            error = await error_of(join(keys / "late", [], port=alice.port))
        assert error.code is Code.PORT_IN_USE
        assert str(alice.port) in error.message

    asyncio.run(story())


def test_dead_bootstrap_peers_are_each_named_with_the_reason(keys):
    async def story() -> None:
        dead = [make_address(keys / f"dead{n}", free_port()) for n in range(2)]
        config = NetworkConfig(initial_peers=tuple(dead), bootstrap_timeout=timedelta(seconds=1))
        error = await error_of(PeerNetwork.start(keys / "key", RUN, config))
        assert error.code is Code.BOOTSTRAP_UNREACHABLE
        assert all(address in error.message for address in dead)
        assert "Connection refused" in error.message
        assert "node status" in error.hint

    asyncio.run(story())


def test_one_live_bootstrap_peer_among_dead_ones_is_enough(keys):
    async def story() -> None:
        async with swarm_of(keys, 1) as (alice,):
            dead = make_address(keys / "dead", free_port())
            config = NetworkConfig(initial_peers=(dead, *alice.addresses))
            began = time.monotonic()
            late = await PeerNetwork.start(keys / "late", RUN, config)
            assert time.monotonic() - began < 5
            assert late.peers_known == {alice.peer_id}
            await late.shutdown()

    asyncio.run(story())


def test_swarm_of_another_run_is_refused_with_both_run_ids(keys):
    async def story() -> None:
        async with swarm_of(keys, 1) as (alice,):
            error = await error_of(join(keys / "late", [alice], run_id=b"s" * 32))
            assert error.code is Code.RUN_MISMATCH
            assert RUN.hex() in error.message and (b"s" * 32).hex() in error.message

    asyncio.run(story())


def test_second_node_with_the_same_key_is_refused_and_the_first_lives_on(keys):
    async def story() -> None:
        async with swarm_of(keys, 2) as (alice, bob):
            error = await error_of(join(keys / "key1", [alice]))
            assert error.code is Code.IDENTITY_IN_USE
            assert bob.peer_id in error.message
            # also when the twin is the bootstrap peer itself
            assert (await error_of(join(keys / "key0", [alice]))).code is Code.IDENTITY_IN_USE
            assert await alice.call(bob.peer_id, Ping(), Pong, WAIT)

    asyncio.run(story())


def test_twins_that_start_at_the_same_time_do_not_both_publish(keys):
    async def story() -> None:
        async with swarm_of(keys, 1) as (alice,):
            Identity.load_or_create(keys / "twin")
            limit = timedelta(seconds=3)
            starts = [join(keys / "twin", [alice], bootstrap_timeout=limit) for _ in range(2)]
            twins = await asyncio.gather(*starts, return_exceptions=True)
            # the ping back of the bootstrap peer may reach the other twin
            possible = {Code.IDENTITY_IN_USE, Code.BOOTSTRAP_UNREACHABLE}
            codes = [t.code for t in twins if isinstance(t, SwarmError)]
            for twin in twins:
                if isinstance(twin, PeerNetwork):
                    try:
                        await twin.publish(PeerRecord(lease_ttl_ms=5_000))
                    except SwarmError as error:
                        codes.append(error.code)
            await asyncio.gather(*(t.shutdown() for t in twins if isinstance(t, PeerNetwork)))
            assert codes and set(codes) <= possible

    asyncio.run(story())


def test_address_without_a_peer_id_is_refused_before_anything_starts(keys):
    async def story() -> None:
        config = NetworkConfig(initial_peers=("127.0.0.1:4700",))
        error = await error_of(PeerNetwork.start(keys / "key", RUN, config))
        assert error.code is Code.CONFIG_INVALID

    asyncio.run(story())


def test_shutdown_leaves_no_p2pd_and_no_socket(keys):
    async def story() -> list[int]:
        async with swarm_of(keys, 2) as networks:
            assert socket_dirs(os.getpid())
            return [network.life.daemon.p2p._child.pid for network in networks]

    pids = asyncio.run(story())
    assert not any(is_running(pid) for pid in pids)
    assert not socket_dirs(os.getpid())


def test_ctrl_c_in_the_terminal_does_not_reach_p2pd_before_the_node(keys):
    async def story() -> None:
        async with swarm_of(keys, 1) as (alice,):
            assert os.getpgid(alice.life.daemon.p2p._child.pid) != os.getpgid(0)

    asyncio.run(story())


def test_sockets_of_a_dead_process_are_swept_by_the_next_start(keys):
    async def story() -> None:
        async with swarm_of(keys, 1):
            assert not stale.exists()

    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait(10)
    stale = Path(f"/tmp/expertswarm-{os.getuid()}-{ended.pid}-abc")
    stale.mkdir(mode=0o700)
    (stale / "p2pd-x.sock").touch()
    asyncio.run(story())
