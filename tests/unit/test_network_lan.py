"""What is believed of an announcement in the LAN, and that a network without multicast is fine."""

from __future__ import annotations

import asyncio
import socket
from datetime import timedelta
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from zeroconf import ServiceInfo

from swarm.identity import Identity
from swarm.network.p2p.lan import PEER_KEY, RUN_KEY, SERVICE, LanDiscovery, announced, lan_hosts
from swarm.network.p2p.lan import run_hash as hash_of

RUN = hash_of(b"r" * 32)
PEER = Identity(Ed25519PrivateKey.from_private_bytes(bytes(32))).peer_id  # names tests


def heard(
    *hosts: str, port: int = 4700, run: str = RUN, peer: str | bytes = PEER, **more: Any
) -> list[tuple[str, str]]:
    told = {RUN_KEY: run, PEER_KEY: peer, **more}
    packed = [socket.inet_aton(host) for host in hosts or ("192.168.1.5",)]
    info = ServiceInfo(SERVICE, f"x.{SERVICE}", port, addresses=packed, properties=told)
    return announced(info, RUN)


def test_a_peer_of_the_run_is_to_be_dialled_where_it_says() -> None:
    assert heard() == [(PEER, f"/ip4/192.168.1.5/tcp/4700/p2p/{PEER}")]


@pytest.mark.parametrize(
    "announcement",
    [
        {"run": hash_of(b"s" * 32)},
        {"run": ""},
        {"peer": "12D3KooWnobody"},
        {"peer": b"\xff\xfe"},
        {"peer": f"{PEER}/p2p-circuit"},
        {"port": 0},
    ],
    ids=str,
)
def test_what_is_of_another_run_or_makes_no_sense_is_passed_over(announcement) -> None:
    assert heard(**announcement) == []


@pytest.mark.parametrize("host", ["11.7.0.1", "127.0.0.1", "224.0.0.251", "0.0.0.0"])
def test_nobody_is_dialled_outside_of_the_lan(host) -> None:
    assert heard(host) == []


def test_only_addresses_of_a_lan_are_announced() -> None:
    own = ["/ip4/10.0.0.7/tcp/1", "/ip4/11.7.0.1/tcp/1", "/ip4/127.0.0.1/tcp/1", "/ip6/fe80::1"]
    assert lan_hosts(own) == ["10.0.0.7"]


def test_a_machine_without_a_lan_or_multicast_goes_on_without() -> None:
    async def story() -> None:
        lan = LanDiscovery(PEER, b"r" * 32, lambda peer, address: None)
        for own in ("/ip4/127.0.0.1/tcp/4700", "/ip4/192.168.254.253/tcp/4700"):
            await lan.update([own], 4700)
            assert not await lan.first(timedelta(seconds=60))  # there is nobody to wait for
        await lan.stop()

    asyncio.run(story())
