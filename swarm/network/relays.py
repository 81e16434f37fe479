"""Which relays a hidden peer keeps (pure: the clock is passed in, in seconds).

    book = RelayBook(my_id)
    book.offer(peer, web=...) / book.withdraw(peer)   # who forwards for others
    for relay in book.to_ask(now_s, 2): ...      # ask it: book.granted(...) or book.failed(...)
    book.held(now_s)                             # those that others can call this peer through

Everybody ranks the relays by a hash of its own id and theirs, which spreads the peers over them,
and has one on a web port first, if there is any: some networks let their users dial no others.
Asking again every `RENEW_S` tells whether a relay lives, long before its reservation ends.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

WEB_PORTS = (443, 80)
RENEW_S = 10.0
RETRY_S = 1.0
MISSES = 2  # in a row, after which another relay takes its place
FIRST_PAUSE_S = 15.0
LONGEST_PAUSE_S = 300.0
MAX_OFFERS = 256


@dataclass
class _Relay:
    web: bool = False
    until_s: float = float("-inf")  # of the reservation
    next_s: float = 0.0
    misses: int = 0
    pause_s: float = FIRST_PAUSE_S


class RelayBook:
    """See the module docstring."""

    def __init__(self, own_id: str) -> None:
        self._own_id = own_id
        self._relays: dict[str, _Relay] = {}

    def offer(self, peer: str, *, web: bool = False) -> None:
        """`peer` says that it forwards for others; `web`: on a port for the web."""
        if peer != self._own_id and (peer in self._relays or len(self._relays) < MAX_OFFERS):
            self._relays.setdefault(peer, _Relay()).web = web

    def withdraw(self, peer: str) -> None:
        """`peer` does not, or no longer."""
        self._relays.pop(peer, None)

    def held(self, now_s: float) -> list[str]:
        """Relays with a reservation that is not in doubt, the preferred first."""
        return [
            peer
            for peer in self._ranked()
            if self._relays[peer].until_s > now_s and self._relays[peer].misses < MISSES
        ]

    def to_ask(self, now_s: float, wanted: int, *, web_only: bool = False) -> list[str]:
        """Relays to ask now: reservations to renew, and new ones for those that lack of `wanted`.

        `web_only`: none on another port.
        """
        held = self.held(now_s)
        renew = [peer for peer in held if self._relays[peer].next_s <= now_s]
        fresh = [
            peer
            for peer in self._ranked()
            if peer not in held and self._relays[peer].next_s <= now_s
        ]
        web = [peer for peer in fresh if self._relays[peer].web]
        if web_only:
            fresh = web
        elif web and not any(self._relays[peer].web for peer in held):
            fresh = [web[0], *(peer for peer in fresh if peer != web[0])]
        return renew + fresh[: max(0, wanted - len(held))]

    def granted(self, peer: str, ttl_s: float, now_s: float) -> None:
        """`peer` holds a reservation for `ttl_s` more seconds."""
        if peer in self._relays:
            next_s = now_s + min(RENEW_S, ttl_s / 2)
            web = self._relays[peer].web
            self._relays[peer] = _Relay(web, until_s=now_s + ttl_s, next_s=next_s)

    def failed(self, peer: str, now_s: float) -> None:
        """`peer` did not answer, or refused."""
        relay = self._relays.get(peer)
        if relay is None:
            return
        relay.misses += 1
        if relay.misses < MISSES and relay.until_s > now_s:
            relay.next_s = now_s + RETRY_S
            return
        relay.until_s = float("-inf")
        relay.next_s = now_s + relay.pause_s
        relay.pause_s = min(2 * relay.pause_s, LONGEST_PAUSE_S)

    def lost(self, peer: str, now_s: float) -> None:
        """The connection to `peer` is gone: ask at once, and doubt it if that fails."""
        relay = self._relays.get(peer)
        if relay is not None and relay.until_s > now_s:
            relay.misses, relay.next_s = MISSES - 1, now_s

    def _ranked(self) -> list[str]:
        return sorted(self._relays, key=self._rank)

    def _rank(self, peer: str) -> bytes:
        return hashlib.sha256(f"{self._own_id} {peer}".encode()).digest()
