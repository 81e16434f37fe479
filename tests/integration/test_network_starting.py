"""How a PeerNetwork starts, is started again and ends, with real p2pd processes on loopback."""

from __future__ import annotations

import asyncio
import contextlib
import os
import subprocess
import sys
import time
from datetime import timedelta
from pathlib import Path

import psutil
import pytest
from network_processes import make_address, socket_dirs
from p2p_swarm import RUN, WAIT, error_of, eventually, join, sees, swarm_of

from node.processes import is_alive
from node.testnet import free_port
from swarm.errors import Code, SwarmError
from swarm.identity import Identity
from swarm.network.contacts import peer_of
from swarm.network.p2p import NetworkConfig, PeerNetwork
from swarm.network.p2p.daemon import Daemon
from swarm.network.p2p.dialling import encode_multiaddr
from swarm.network.p2p.hivemind_parts import P2P, P2PDaemonError, PeerID
from swarm.wire.control_pb2 import Ping, Pong
from swarm.wire.membership_pb2 import PeerRecord


@pytest.fixture
def keys(tmp_path: Path) -> Path:
    return tmp_path


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
        async with contextlib.AsyncExitStack() as running:
            early = await started(running, keys / "early", 0)
            peer = peer_of(address)
            for _ in range(3):
                error = await error_of(early.connect(peer, [address], WAIT))
                assert error.code is Code.PEER_UNREACHABLE
            await started(running, keys / "late", port)
            began = time.monotonic()
            await early.connect(peer, [address], WAIT)
            assert time.monotonic() - began < 2

    asyncio.run(story())


def test_an_address_that_p2pd_found_dead_by_itself_is_dialled_again_at_once(keys):
    """As when it wanted to deliver a call to a peer whose p2pd had just died."""

    async def story() -> None:
        port = free_port()
        address = make_address(keys / "late", port)
        async with contextlib.AsyncExitStack() as running:
            early = await started(running, keys / "early", 0)
            peer = peer_of(address)
            for _ in range(2):
                with pytest.raises(P2PDaemonError):
                    dialled = encode_multiaddr(address, peer)
                    await early.p2p._client.connect(PeerID.from_base58(peer), [dialled])
            late = await started(running, keys / "late", port)
            began = time.monotonic()
            await early.connect(peer, [address], WAIT)
            assert time.monotonic() - began < 2
            assert (await early.connections())[peer] == [address.removesuffix(f"/p2p/{peer}")]
            await late.serve("/echo", echo)
            assert await early.call(peer, "/echo", b"over a bridge", WAIT) == b"over a bridge"

    asyncio.run(story())


def test_p2pd_listens_on_tcp_alone(keys):
    """By QUIC it loses the end of a stream that one side closes."""

    async def story() -> None:
        async with contextlib.AsyncExitStack() as running:
            daemon = await started(running, keys / "key", 0)
            addresses = await daemon.addresses()
            assert addresses and all("/tcp/" in a and "/udp/" not in a for a in addresses)

    asyncio.run(story())


async def started(running: contextlib.AsyncExitStack, key: Path, port: int) -> Daemon:
    """A p2pd that is stopped with `running`."""
    Identity.load_or_create(key)
    daemon = await Daemon.start(key, "127.0.0.1", port, listen=True, timeout=2 * WAIT)
    running.push_async_callback(daemon.stop)
    return daemon


async def echo(peer: str, data: bytes) -> bytes:
    return data


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
    assert not any(is_alive(pid) for pid in pids)
    assert not socket_dirs(os.getpid())


def test_a_start_that_is_given_up_leaves_no_p2pd(keys, monkeypatch):
    async def hear_nothing(p2p: object, ready: object) -> None:
        await asyncio.sleep(60)

    def listening() -> set[Path]:
        return {s for d in socket_dirs(os.getpid()) for s in d.glob("p2pd-*.sock")}

    async def story() -> None:
        Identity.load_or_create(keys / "key")
        heard, before = listening(), set(psutil.Process().children())
        start = Daemon.start(keys / "key", "127.0.0.1", 0, listen=False, timeout=WAIT)
        starting = asyncio.create_task(start)
        while listening() <= heard:
            await asyncio.sleep(0.001)
        (running,) = set(psutil.Process().children()) - before
        starting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await starting

        async def has_ended() -> bool:
            return not is_alive(running.pid)

        await eventually(has_ended, timeout_s=5)

    monkeypatch.setattr(P2P, "_read_outputs", hear_nothing)
    asyncio.run(story())


def test_who_gives_a_start_up_goes_no_further_though_hivemind_does(keys, monkeypatch):
    begun = asyncio.Event()

    async def go_on(handle: type[P2P], **options: object) -> None:
        begun.set()
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.sleep(60)

    async def story() -> None:
        start = Daemon.start(keys / "key", "127.0.0.1", 0, listen=False, timeout=WAIT)
        starting = asyncio.create_task(start)
        await begun.wait()
        starting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await starting

    monkeypatch.setattr(P2P, "create", classmethod(go_on))
    asyncio.run(story())


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
