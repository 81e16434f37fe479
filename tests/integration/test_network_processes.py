"""Peers as separate processes: cold starts in any order, and what a SIGKILL leaves behind."""

from __future__ import annotations

import contextlib
import random
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from network_processes import (
    Peer,
    children,
    is_p2pd,
    make_address,
    socket_dirs,
    wait_until,
)

from node.processes import is_alive
from node.testnet import free_port


@contextlib.contextmanager
def peers(options: Sequence[dict]) -> Iterator[list[Peer]]:
    """Start all at once; afterwards ask each to leave and expect exit code 0."""
    started = [Peer(**one) for one in options]
    try:
        yield started
    finally:
        for peer in started:
            if peer.process.poll() is None:
                peer.send(do="stop")
        codes = [peer.stop() for peer in started]
    assert all(code in (0, -9) for code in codes), codes


def all_at_once(directory: Path, order: Sequence[int], mesh: bool) -> list[dict]:
    """Options of peers that know the first one's address (`mesh`: everybody's)."""
    ports = [free_port() for _ in order]
    addresses = [make_address(directory / f"key{n}", port) for n, port in enumerate(ports)]
    return [
        {
            "key": str(directory / f"key{n}"),
            "port": ports[n],
            "peers": addresses if mesh else addresses[:1] if n else [],
        }
        for n in order
    ]


def cold_start(directory: Path, order: Sequence[int], mesh: bool) -> float:
    """Seconds until each of the peers started at once sees all of them; fails after 20 s."""
    directory.mkdir()
    began = time.monotonic()
    with peers(all_at_once(directory, order, mesh)) as started:
        for peer in started:
            peer.wait_ready()
        ids = sorted(peer.info["ready"] for peer in started)
        for peer in started:
            wait_until(
                lambda: peer.ask(do="records")["records"] == ids,  # noqa: B023
                20,
                "every peer sees all",
            )
        return time.monotonic() - began


@pytest.mark.parametrize("mesh", [False, True], ids=["by-the-first", "by-each-other"])
def test_four_peers_started_at_once_form_one_dht(tmp_path, mesh):
    assert cold_start(tmp_path / "swarm", (3, 2, 1, 0), mesh) < 20


@pytest.mark.heavy
def test_cold_starts_of_eight_peers_in_a_row_always_form_one_dht(tmp_path):
    """A process for each; tests/nat/test_cold_starts.py has fifty, behind routers."""
    rng = random.Random(8)
    for number in range(3):
        order = rng.sample(range(8), 8)
        assert cold_start(tmp_path / f"swarm{number}", order, mesh=number % 2 == 1) < 20


def test_killed_owner_takes_its_p2pd_along_and_starts_again_on_the_same_port(tmp_path):
    port = free_port()
    address = make_address(tmp_path / "key", port)
    first = Peer(key=str(tmp_path / "key"), port=port)
    first.wait_ready()
    (p2pd,) = first.p2pd_pids()
    first.kill()
    seconds = wait_until(lambda: not is_alive(p2pd), 3, "p2pd ends with its owner")
    assert seconds < 2
    with peers([{"key": str(tmp_path / "key"), "port": port}]) as (again,):
        assert again.wait_ready()["addresses"] == [address]
        assert not socket_dirs(first.process.pid), "the next start sweeps the sockets of the dead"


def test_owner_killed_while_p2pd_starts_leaves_no_process(tmp_path):
    peer = Peer(key=str(tmp_path / "key"))
    found: list[int] = []

    def p2pd_is_starting() -> bool:
        found[:] = [pid for pid in children(peer.process.pid) if is_p2pd(pid)]
        return bool(found)

    wait_until(p2pd_is_starting, 30, "p2pd starts")
    peer.kill()
    wait_until(lambda: not is_alive(found[0]), 12, "p2pd ends with its owner")
    # the next start, of anybody, sweeps what was left in /tmp
    with peers([{"key": str(tmp_path / "key")}]) as (again,):
        again.wait_ready()
        assert not socket_dirs(peer.process.pid)


def test_killed_peer_rejoins_and_is_reached_by_all(tmp_path):
    options = all_at_once(tmp_path, (0, 1, 2, 3), mesh=False)
    with peers(options) as started:
        for peer in started:
            peer.wait_ready()
        victim = started[0]  # the one that all others joined by
        victim.kill()
        again = Peer(**options[0])
        started.append(again)
        again.wait_ready()
        everybody = sorted(peer.info["ready"] for peer in started[1:])
        wait_until(lambda: again.ask(do="records")["records"] == everybody, 15, "it sees all again")
        for peer in started[1:4]:
            wait_until(
                lambda: peer.ask(do="ping", peer=again.info["ready"])["ok"],  # noqa: B023
                15,
                "the others reach it again",
            )


def test_call_to_a_killed_peer_fails_at_once(tmp_path):
    options = all_at_once(tmp_path, (0, 1), mesh=False)
    with peers(options) as (alice, bob):
        alice.wait_ready()
        bob.wait_ready()
        assert alice.ask(do="ping", peer=bob.info["ready"])["ok"]
        bob.kill()
        answer = alice.ask(do="ping", peer=bob.info["ready"])
        assert (answer["ok"], answer["code"]) == (False, "PEER_UNREACHABLE")
        assert answer["seconds"] < 2
