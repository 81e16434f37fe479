"""Keeps a node in company: pings who is silent, drops dead connections, wakes the address book.

    keeper = CompanyKeeper(own_id, contacts, ping, drop, time.monotonic, random.Random())
    keeper.roster = lambda: record.roster
    await keeper.run()                  # until cancelled
    keeper.view                         # see swarm/network/isolation.py

The judgement is `IsolationWatch`'s; dialling is the business of whoever dials what `Contacts.due`
names.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Collection

from swarm.errors import SwarmError
from swarm.network.contacts import Contacts
from swarm.network.isolation import LOOK_EVERY_S, IsolationWatch, View


class CompanyKeeper:
    """See the module docstring.

    Attributes:
        roster: gives the members of the run, as far as the node knows.
        view: as of the last look.
    """

    def __init__(
        self,
        own_id: str,
        contacts: Contacts,
        ping: Callable[[str], Awaitable[object]],
        drop: Callable[[str], Awaitable[None]],
        clock: Callable[[], float],
        rng: random.Random,
    ) -> None:
        self.roster: Callable[[], Collection[str]] = tuple
        self.view = View()
        self._contacts = contacts
        self._ping = ping
        self._drop = drop
        self._clock = clock
        self._watch = IsolationWatch(own_id, rng)
        self._tasks: set[asyncio.Task[None]] = set()

    def heard(self, peer: str) -> None:
        """Any sign of life of `peer` that could not have been sent long ago."""
        self._watch.heard(peer, self._clock())

    @property
    def silent(self) -> frozenset[str]:
        """Peers that do not answer, whatever connections to them may seem to exist."""
        return self._watch.silent()

    async def run(self) -> None:
        """Look every second, for ever."""
        try:
            while True:
                await asyncio.sleep(LOOK_EVERY_S)
                self.look()
        finally:
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)

    def look(self) -> None:
        """Judge, and ping whom to ask; `run` does it every second."""
        now_s = self._clock()
        self._watch.expect(self.roster(), self._contacts.peers(), now_s)
        was_cut_off = self.view.cut_off
        self.view = self._watch.look(now_s)
        self._contacts.cut_off = self.view.cut_off
        if self.view.cut_off and not was_cut_off:
            self._contacts.dial_all()
        for peer in self._watch.to_probe(now_s):
            task = asyncio.create_task(self._probe(peer))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _probe(self, peer: str) -> None:
        asked_s = self._clock()
        try:
            await self._ping(peer)
        except SwarmError:
            self._watch.missed(peer, asked_s)
            if peer in self._watch.gone():
                # TCP waits twice as long each time before it sends again, and p2pd takes 40 s to
                # give a connection up: a new one is there as soon as the network is.
                await self._drop(peer)
        else:
            self._watch.heard(peer, self._clock())
