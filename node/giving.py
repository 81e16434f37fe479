"""What this node gave to others since an update of its last counted, for the run's tallies."""

from __future__ import annotations

from collections.abc import Callable

from swarm.collective.context import Offer
from swarm.wire import collective_pb2 as pb


class Giving:
    """`served` and `relayed` give the bytes since the daemon's start; both only grow."""

    def __init__(self, served: Callable[[], int], relayed: Callable[[], int]) -> None:
        self._served, self._relayed = served, relayed
        self._counted = self._said = (0, 0)

    def add_to(self, offer: Offer) -> None:
        """Say in an offer what was given since the last round that counted."""
        self._said = (self._served(), self._relayed())
        offer.served_bytes = self._said[0] - self._counted[0]
        offer.relayed_bytes = self._said[1] - self._counted[1]

    def follow(self, record: pb.RoundRecord, me: str) -> None:
        """A commit: if it counted this node's update, it has what was said."""
        if any(t.peer == me and t.last_round == record.round for t in record.tallies):
            self._counted = self._said
