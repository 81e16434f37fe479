"""Says aloud when this node is cut off from the others and when it is back.

reporter = CompanyReporter(network, traffic, roster, report)
await reporter.run()          # until cancelled
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Mapping

from swarm.network.isolation import View, changes
from swarm.network.p2p import PeerNetwork

LOOK_EVERY_S = 1.0


class CompanyReporter:
    """See the module docstring. `received` gives the bulk bytes of each peer so far."""

    def __init__(
        self,
        network: PeerNetwork,
        roster: Callable[[], Collection[str]],
        received: Callable[[], Mapping[str, int]],
        report: Callable[[str], None],
    ) -> None:
        self._network = network
        self._received = received
        self._report = report
        self._seen: Mapping[str, int] = {}
        self._told = View()
        network.expect(roster)

    async def run(self) -> None:
        """Watch, for ever."""
        while True:
            self._note_traffic()
            view = self._network.company
            known = len({address.rpartition("/")[2] for address in self._network.known_addresses})
            if line := changes(self._told, view, known):
                self._report(line)
            self._told = view
            await asyncio.sleep(LOOK_EVERY_S)

    def _note_traffic(self) -> None:
        """A peer whose slow uplink is full of its own bulk data may answer no ping in time."""
        received = self._received()
        for peer, count in received.items():
            if count != self._seen.get(peer, 0):
                self._network.heard(peer)
        self._seen = received
