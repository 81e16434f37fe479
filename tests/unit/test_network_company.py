"""The keeper of company: pings by itself, drops dead connections, wakes the address book."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable

import pytest

from swarm.errors import Code, SwarmError
from swarm.network.company import CompanyKeeper
from swarm.network.contacts import Contacts
from swarm.network.isolation import Company


class Net:
    """Peers that answer pings or do not, and a keeper whose seconds are given one by one."""

    def __init__(self) -> None:
        self.now_s = 1000.0
        self.up: set[str] = set()
        self.dropped: set[str] = set()
        self.contacts = Contacts("me", random.Random(1))
        self.keeper = CompanyKeeper(
            "me", self.contacts, self._ping, self._drop, lambda: self.now_s, random.Random(2)
        )

    async def _ping(self, peer: str) -> None:
        if peer not in self.up:
            raise SwarmError(Code.PEER_UNREACHABLE, peer)

    async def _drop(self, peer: str) -> None:
        self.dropped.add(peer)

    async def until(self, condition: Callable[[], bool], limit_s: int = 30) -> None:
        for _ in range(limit_s):
            self.now_s += 1
            self.keeper.look()
            for _ in range(5):  # the pings run, and what follows from them
                await asyncio.sleep(0)
            if condition():
                return
        pytest.fail(f"not in {limit_s} s: {self.keeper.view}")


def test_a_silent_peer_is_dropped_and_everybody_is_dialled_until_one_answers() -> None:
    async def story() -> None:
        net = Net()
        keeper, contacts = net.keeper, net.contacts
        keeper.roster = lambda: {"me", "alice", "bob"}
        for peer in ("alice", "bob", "stranger"):
            contacts.learn(peer, [f"/ip4/11.7.0.1/tcp/1/p2p/{peer}"])
            contacts.failed(peer, 1e9)  # not to be tried again for long
        net.up = {"alice", "bob", "stranger"}
        await net.until(lambda: net.now_s > 1020)
        assert keeper.view.company is Company.TOGETHER
        assert not net.dropped and not contacts.cut_off

        net.up = set()
        await net.until(lambda: keeper.view.company is Company.ISOLATED, limit_s=10)
        assert contacts.cut_off
        assert set(contacts.due(set(), set(), net.now_s)) == {"alice", "bob", "stranger"}
        await net.until(lambda: net.dropped >= {"alice", "bob"})

        keeper.heard("alice")  # it called, as the first to have its network back
        await net.until(lambda: keeper.view.company is Company.TOGETHER, limit_s=1)
        assert not contacts.cut_off and keeper.silent == {"bob", "stranger"}

    asyncio.run(story())
