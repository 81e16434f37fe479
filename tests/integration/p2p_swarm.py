"""Peers of one run with real p2pd processes on loopback."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import timedelta
from pathlib import Path

import pytest

from swarm.errors import SwarmError
from swarm.network.p2p import NetworkConfig, PeerNetwork
from swarm.wire.membership_pb2 import PeerRecord

RUN = b"r" * 32
WAIT = timedelta(seconds=5)


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
