"""Eight peers, public and behind routers, that start at once in any order: always one DHT.

`--cold-starts N` makes more of them or fewer, `--start-seed N` repeats those of an earlier time.
"""

from __future__ import annotations

import asyncio
import random
import statistics
import time
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any, TypeVar

import pytest

from swarm.aio import in_time
from swarm.errors import SwarmError
from swarm.identity import Identity
from swarm.network.p2p import NetworkConfig, PeerNetwork
from swarm.wire.membership_pb2 import PeerRecord
from tests.nat import topology
from tests.nat.netlab import Lab
from tests.nat.netns import NamespaceLoop

PUBLIC = ("pub1", "pub2", "pub3")
HOSTS = (*PUBLIC, "a", "a2", "b", "c", "g")  # independent (two in a LAN), symmetric, carrier-grade
SIDE_BY_SIDE = 2  # more gain nothing: a start is busy all the time on a small machine
FIRST_PORT = 4801  # one for each cold start, so that none meets what another one has left
SPREAD_S = 0.5  # of the moments at which the eight start
WITHIN_S = 30.0
HUNG_S = 60.0
LOOK_EVERY_S = 0.5
T = TypeVar("T")


class ColdStart:
    """One start of eight peers of a run of their own, on hosts that several starts share."""

    def __init__(
        self, loops: dict[str, NamespaceLoop], place: Path, number: int, rng: random.Random
    ) -> None:
        self._loops = loops
        self._place = place
        self._run_id = number.to_bytes(32, "big")
        self._port = FIRST_PORT + number
        hosts = rng.sample(HOSTS, len(HOSTS))
        moments = sorted(rng.uniform(0, SPREAD_S) for _ in hosts)
        self._begins_s = dict(zip(hosts, moments, strict=True))
        place.mkdir()
        entries = PUBLIC if rng.random() < 0.5 else PUBLIC[:1]
        self._entries = {host: self._address(host) for host in entries}
        self._networks: dict[str, PeerNetwork] = {}
        self._reached = dict.fromkeys(hosts, "nothing")

    def measure(self) -> float:
        """Seconds until each of the eight has found the records of all."""
        began = time.monotonic()
        try:
            self._on_each_host(self._join)
            self._on_each_host(self._find_all)
            return time.monotonic() - began
        except (SwarmError, asyncio.TimeoutError) as error:
            story = f"in the order {self._begins_s}, by {list(self._entries)}: {self._reached}"
            raise AssertionError(f"{error or 'it hangs'}; {story}") from error
        finally:
            self._on_each_host(self._leave)

    def _on_each_host(self, work: Callable[[str], Coroutine[Any, Any, T]]) -> list[T]:
        tasks = [self._loops[h].start(in_time(work(h), HUNG_S)) for h in self._begins_s]
        wait(tasks)
        return [task.result() for task in tasks]

    async def _join(self, host: str) -> None:
        await asyncio.sleep(self._begins_s[host])

        def note(stage: str, message: str) -> None:
            self._reached[host] = f"{stage}: {message}"

        others = tuple(address for entry, address in self._entries.items() if entry != host)
        config = NetworkConfig(host="0.0.0.0", port=self._port, initial_peers=others)
        self._networks[host] = network = await PeerNetwork.start(
            self._place / host, self._run_id, config, on_stage=note
        )
        await network.publish(PeerRecord(display_name=host, lease_ttl_ms=60_000))
        self._reached[host] = "its record is stored"

    async def _find_all(self, host: str) -> None:
        found: set[str] = set()
        while found != set(HOSTS):
            await asyncio.sleep(LOOK_EVERY_S)
            records = await self._networks[host].records()
            found = {record.display_name for record in records.values()}
            self._reached[host] = f"found {sorted(found)}"

    async def _leave(self, host: str) -> None:
        if host in self._networks:
            await self._networks[host].shutdown()

    def _address(self, host: str) -> str:
        """Where others join; the peer gets its key before its start."""
        peer = Identity.load_or_create(self._place / host).peer_id
        return f"/ip4/{topology.address_of(host)}/tcp/{self._port}/p2p/{peer}"


def test_cold_starts_in_any_order_always_make_one_dht(
    lab: Lab, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    count, seed = map(request.config.getoption, ("--cold-starts", "--start-seed"))
    seed = random.randrange(2**32) if seed is None else seed
    print(f"\n--cold-starts {count} --start-seed {seed}")
    rng = random.Random(seed)
    loops = {host: lab.loop(host) for host in HOSTS}
    starts = [ColdStart(loops, tmp_path / str(n), n, rng) for n in range(count)]
    with ThreadPoolExecutor(SIDE_BY_SIDE) as rows:
        seconds = list(rows.map(ColdStart.measure, starts))
    print(f"slowest {max(seconds):.1f} s, median {statistics.median(seconds):.1f} s")
    assert max(seconds) < WITHIN_S
