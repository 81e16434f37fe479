"""Addresses as p2pd takes them, and which of a peer's are worth a try."""

from __future__ import annotations

import asyncio
import ipaddress
import os
import time
from collections.abc import Sequence
from contextlib import suppress
from datetime import timedelta

from swarm.aio import in_time
from swarm.errors import Code, SwarmError
from swarm.network.p2p.hivemind_parts import Multiaddr

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
    addresses: Sequence[str], timeout: timedelta
) -> tuple[list[str], list[str]]:
    """Those that answer, those of relays included unasked, and what is wrong with the others.

    Returns as soon as the first one has answered, with those still in doubt after it. Relays wait
    `RELAY_AFTER` for the others: work must not wait, but why bother a relay without need.
    """
    circuits = [a for a in addresses if "/p2p-circuit" in a]
    tasks = {
        asyncio.create_task(tcp_problem(a, timeout)): a for a in addresses if a not in circuits
    }
    limit = RELAY_AFTER if circuits else timeout
    usable: list[str] = []
    problems: list[str] = []
    deadline_s = time.monotonic() + limit.total_seconds()
    pending = set(tasks)
    try:
        while pending and not usable and (left_s := deadline_s - time.monotonic()) > 0:
            done, pending = await asyncio.wait(
                pending, timeout=left_s, return_when=asyncio.FIRST_COMPLETED
            )
            for task in done:
                problem = task.result()
                problems += [problem] if problem else []
                usable += [] if problem else [tasks[task]]
    finally:
        for task in pending:
            task.cancel()
        await asyncio.gather(*pending, return_exceptions=True)
    doubtful = [tasks[task] for task in pending] if usable else []
    return usable + doubtful + circuits, problems


async def tcp_problem(address: str, timeout: timedelta) -> str | None:
    """Why a multiaddr can not be reached by TCP, or None if it can (or is not plain TCP)."""
    parts = address.split("/")
    if "p2p-circuit" in parts or parts[1] not in ("ip4", "ip6", "dns4", "dns6", "dns"):
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
