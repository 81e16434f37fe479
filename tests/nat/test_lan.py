"""Peers of one LAN find each other by multicast DNS, and what everybody there can read of it."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from zeroconf import DNSAddress, DNSIncoming, DNSNsec, DNSPointer, DNSRecord, DNSService, DNSText

from swarm.network.p2p.lan import SERVICE, run_hash
from tests.nat import topology
from tests.nat.lab_peer import PORT, RUN_ID, LabSwarm, eventually
from tests.nat.netlab import Lab

MULTICAST, MDNS_PORT = "224.0.0.251", 5353


@pytest.fixture
def swarm(lab: Lab, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LabSwarm]:
    """Nobody yet, and no bootstrap node."""
    swarm = LabSwarm(lab, tmp_path_factory.mktemp("peers"))
    try:
        yield swarm
    finally:
        swarm.stop()


@contextmanager
def listening(lab: Lab, host: str) -> Iterator[list[DNSRecord]]:
    """All that multicast DNS tells a host, as it comes."""
    told: list[DNSRecord] = []
    with lab.inside(host):
        sock = socket.socket(type=socket.SOCK_DGRAM)
    with sock:
        for option in (socket.SO_REUSEADDR, socket.SO_REUSEPORT):
            sock.setsockopt(socket.SOL_SOCKET, option, 1)
        sock.bind(("", MDNS_PORT))
        own = socket.inet_aton(topology.address_of(host))
        group = socket.inet_aton(MULTICAST) + own
        sock.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, group)
        sock.settimeout(0.1)
        ending = threading.Event()

        def listen() -> None:
            while not ending.is_set():
                try:
                    told.extend(DNSIncoming(sock.recv(9000)).answers())
                except TimeoutError:
                    continue

        thread = threading.Thread(target=listen)
        thread.start()
        try:
            yield told
        finally:
            ending.set()
            thread.join()


def test_two_peers_of_a_lan_find_each_other_though_nobody_was_named_to_them(
    swarm: LabSwarm,
) -> None:
    swarm.start("b", mdns=True)  # in another LAN: nothing of theirs gets there
    swarm.start("a", "a2", mdns=True)
    one, other = swarm["a"], swarm["a2"]
    eventually(lambda: set(one.knows()) & set(other.knows()), {"a", "a2"}, 15)
    assert one.path_to(other) == other.path_to(one) == "lan"
    assert set(swarm["b"].knows()) == {"b"}


def test_the_lan_learns_the_peer_its_address_and_a_hash_of_the_run_and_no_more(
    lab: Lab, swarm: LabSwarm
) -> None:
    with listening(lab, "a2") as told:
        swarm.start("a", mdns=True)
        eventually(lambda: any(isinstance(record, DNSText) for record in told), True, 5)
        peer = swarm["a"].id
    kinds = (DNSAddress, DNSPointer, DNSService, DNSText, DNSNsec)  # the last: of no other kind
    assert all(isinstance(record, kinds) for record in told)
    assert {r.address for r in told if isinstance(r, DNSAddress)} == {
        socket.inet_aton(topology.address_of("a"))
    }
    assert {r.port for r in told if isinstance(r, DNSService)} == {PORT}
    texts = [f"run={run_hash(RUN_ID)}".encode(), f"peer={peer}".encode()]
    wanted = b"".join(bytes([len(text)]) + text for text in texts)
    assert {r.text for r in told if isinstance(r, DNSText)} == {wanted}
    # Names are made of the peer id: none of them tells the machine, or whose it is.
    labels = {part for record in told for part in record.name.removesuffix(SERVICE).split(".")}
    assert len(labels - {"", "local", "_services", "_dns-sd", "_udp"}) == 1


def test_who_does_not_want_to_be_found_in_the_lan_is_not(lab: Lab, swarm: LabSwarm) -> None:
    with listening(lab, "a2") as told:
        swarm.start("a", mdns=True, relay="only")
        swarm.start("g", mdns=False)
        swarm["a"].knows()
    assert not told
