"""Addresses as p2pd takes them, and which of a peer's are worth a try."""

from __future__ import annotations

import asyncio
import ipaddress
import os
import socket
import time
from collections.abc import Collection, Sequence
from contextlib import suppress
from datetime import timedelta

from swarm.aio import in_time
from swarm.errors import Code, SwarmError
from swarm.network.addresses import plain
from swarm.network.p2p.hivemind_parts import Multiaddr
from swarm.network.sockets import connect

RELAY_AFTER = timedelta(seconds=0.5)


def ip_multiaddr(host: str) -> str:
    """ "/ip4/HOST" or "/ip6/HOST". Raises `CONFIG_INVALID` unless `host` is an IP address."""
    try:
        address = ipaddress.ip_address(host)
    except ValueError as error:
        raise SwarmError(
            Code.CONFIG_INVALID,
            f"host: {host!r} is not an IP address",
            "use 0.0.0.0 to listen on every interface",
        ) from error
    return f"/ip{address.version}/{address}"


def reached_at(host: str) -> str:
    """Where this machine itself reaches who listens on `host`."""
    address = ipaddress.ip_address(host)
    loopback = "::1" if address.version == 6 else "127.0.0.1"
    return loopback if address.is_unspecified else host


def encode_multiaddr(address: str, peer: str) -> Multiaddr:
    """`address` in the form that p2pd's connect takes, without its final /p2p/PEER.

    hivemind writes a peer id inside an address (of a relay) as a CIDv1, which p2pd refuses with
    "length greater than remaining number of bytes in buffer"; it wants the bare multihash.
    """
    maddr = Multiaddr(address.removesuffix(f"/p2p/{peer}"))
    ed25519_cid, ed25519_hash = b"\xa5\x03\x28\x01\x72\x00\x24", b"\xa5\x03\x26\x00\x24"
    return Multiaddr(maddr.to_bytes().replace(ed25519_cid, ed25519_hash))


async def usable_addresses(
    addresses: Sequence[str], timeout: timedelta, connected: Collection[str] = ()
) -> tuple[list[str], list[str]]:
    """Those that answer, and what is wrong with the others.

    Returns as soon as the first one has answered, with those still in doubt after it. Circuits wait
    `RELAY_AFTER` for the others: work must not wait, but why bother a relay without need. Their
    relays have to answer too, but for those `connected`: of a circuit that was dialled in vain
    libp2p knows nothing for as long as of any other address.
    """
    addresses = list(dict.fromkeys(addresses))
    direct = plain(addresses)
    circuits = [a for a in addresses if a not in direct]
    at_hand = [a for a in circuits if _relay_of(a) in connected]
    tasks = {
        a: asyncio.create_task(tcp_problem(a, timeout))
        for a in (*direct, *circuits)
        if a not in at_hand
    }
    deadline_s = time.monotonic() + timeout.total_seconds()
    try:
        first = RELAY_AFTER if circuits else timeout
        answered = await _wait_for_one([tasks[a] for a in direct], first.total_seconds())
        if not (answered or at_hand):
            await _wait_for_one(tasks.values(), deadline_s - time.monotonic())
        found = {a: task.result() for a, task in tasks.items() if task.done()}
    finally:
        for task in tasks.values():
            task.cancel()
        await asyncio.gather(*tasks.values(), return_exceptions=True)
    usable = [a for a, problem in found.items() if problem is None]
    doubtful = [a for a in direct if a not in found] if answered else []
    problems = [problem for problem in found.values() if problem is not None]
    return [*usable, *doubtful, *at_hand], problems


def _relay_of(circuit: str) -> str:
    """Peer id of the relay in a circuit's address."""
    return circuit.partition("/p2p-circuit")[0].rpartition("/p2p/")[2]


async def _wait_for_one(tries: Collection[asyncio.Task[str | None]], limit_s: float) -> bool:
    """Wait until one of these found no problem, all found one, or time is up; whether one did."""
    pending, deadline_s = set(tries), time.monotonic() + limit_s
    while pending and (left_s := deadline_s - time.monotonic()) > 0:
        done, pending = await asyncio.wait(
            pending, timeout=left_s, return_when=asyncio.FIRST_COMPLETED
        )
        if any(task.result() is None for task in done):
            return True
    return False


async def tcp_problem(address: str, timeout: timedelta) -> str | None:
    """Why a multiaddr, or the relay of a circuit, can not be reached by TCP; None if it can."""
    parts = address.split("/")
    if parts[1] not in ("ip4", "ip6", "dns4", "dns6", "dns"):
        return None
    host, port = parts[2], parts[4]
    try:
        _, writer = await in_time(asyncio.open_connection(host, int(port)), timeout.total_seconds())
    except asyncio.TimeoutError:
        return f"{host} port {port}: no answer in {timeout.total_seconds():.0f} s"
    except OSError as error:
        return f"{host} port {port}: {os.strerror(error.errno) if error.errno else error}"
    writer.close()
    with suppress(OSError):
        await writer.wait_closed()
    return None


def call_by_tcp(address: str, limit_s: float) -> socket.socket:
    """A connection to a multiaddr, tuned and blocking. Raises `OSError`."""
    parts = address.split("/")
    if len(parts) < 5 or parts[3] != "tcp":
        raise OSError("not a TCP address")
    host = f"[{parts[2]}]" if ":" in parts[2] else parts[2]
    try:
        return connect(f"{host}:{parts[4]}", limit_s)
    except SwarmError as error:
        raise OSError(error.message) from error
