"""Whom to dial, under which addresses, and when to try again (pure: the clock is passed in).

Permanent contacts come from the user (`--peer`): a node stays connected to them and tries for
ever. Others are learned from peer records, dialled only while few peers are known (a large swarm
is no full mesh), and dropped when they did not answer for `FORGET_AFTER`.
A node that is cut off (`cut_off`) drops nobody and tries all of them every few seconds: nobody
answers it, so silence says nothing about the others, and any one of them is a way back.
"""

from __future__ import annotations

import ipaddress
import random
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import timedelta

from swarm.errors import Code, SwarmError
from swarm.identity import public_key_of

FIRST_DELAY = timedelta(seconds=1)
LONGEST_DELAY = timedelta(seconds=30)
LONGEST_DELAY_PERMANENT = timedelta(seconds=5)
JITTER = 0.25  # of a delay, or peers that lost one another together would dial in step for ever
ENOUGH_PEERS = 16
FORGET_AFTER = timedelta(minutes=10)
MAX_CONTACTS = 512
MAX_ADDRESSES = 32  # of one peer
KEPT_PEERS = 64  # over a restart
KEPT_ADDRESSES = 4  # of each


@dataclass
class Contact:
    """One peer; times are in seconds of the caller's monotonic clock."""

    addresses: list[str] = field(default_factory=list)
    permanent: bool = False
    failing_since_s: float | None = None
    met_s: float = float("-inf")
    next_try_s: float = 0.0
    delay_s: float = FIRST_DELAY.total_seconds()


class Contacts:
    """The address book of one node; addresses are multiaddrs that end in /p2p/PEER.

    Attributes:
        cut_off: no peer answers, or few: see the module docstring.
    """

    def __init__(self, own_id: str, rng: random.Random) -> None:
        self.cut_off = False
        self._own_id = own_id
        self._rng = rng
        self._contacts: dict[str, Contact] = {}

    def add(self, address: str) -> None:
        """Add a permanent contact. Raises `CONFIG_INVALID`."""
        contact = self._contact(peer_of(address))
        contact.permanent = True
        if address not in contact.addresses:
            contact.addresses.insert(0, address)

    def learn(self, peer: str, addresses: Iterable[str]) -> None:
        """Take over the addresses that a peer announces (at most 16).

        While the book is full of peers that answered later, a new one finds no place in it.
        """
        if peer not in self._contacts and not self._has_room():
            return
        contact = self._contact(peer)
        announced = [a for a in addresses if a.endswith(f"/p2p/{peer}")][:16]
        if announced and not contact.permanent:
            contact.addresses = announced
        else:
            contact.addresses += [a for a in announced if a not in contact.addresses]
            del contact.addresses[MAX_ADDRESSES:]

    def hint(self, peer: str, address: str) -> None:
        """Take over an address that somebody else says a peer has: tried after those known."""
        if peer not in self._contacts and not self._has_room():
            return
        contact = self._contact(peer)
        if address not in contact.addresses and len(contact.addresses) < MAX_ADDRESSES:
            contact.addresses.append(address)

    def forget(self, peer: str) -> None:
        """Drop a peer that said goodbye, unless the user named it."""
        if peer in self._contacts and not self._contacts[peer].permanent:
            del self._contacts[peer]

    def addresses(self, peer: str) -> list[str]:
        """Known addresses of `peer`, maybe none."""
        contact = self._contacts.get(peer)
        return list(contact.addresses) if contact else []

    def peers(self) -> set[str]:
        """Everybody in the book but this node."""
        return set(self._contacts) - {self._own_id}

    def worth_keeping(self) -> list[str]:
        """Addresses to keep over a restart, those of the peers that answered last first."""
        kept = [(p, c) for p, c in self._contacts.items() if p != self._own_id and c.addresses]
        kept.sort(key=lambda item: (-item[1].met_s, item[0]))
        return [a for _, c in kept[:KEPT_PEERS] for a in c.addresses[:KEPT_ADDRESSES]]

    def due(self, known: set[str], connected: set[str], now_s: float, limit: int = 16) -> list[str]:
        """Contacts that should be dialled now, longest waiting first.

        `known`: peers in the routing table, who answered when last asked, maybe long ago.
        `connected`: peers with a live connection; a peer that dies loses it at once.
        """
        missing = []
        for peer, contact in self._contacts.items():
            here = peer in known and (peer in connected or not contact.permanent)
            if here:
                self.met(peer, now_s)
            elif peer != self._own_id and (contact.permanent or len(known) < ENOUGH_PEERS):
                missing.append(peer)
        waiting = [peer for peer in missing if self._contacts[peer].next_try_s <= now_s]
        waiting.sort(key=lambda peer: self._contacts[peer].next_try_s)
        if not self.cut_off:
            return waiting[:limit]
        # Most of a long book may be dead for good: who was there lately must not wait for them.
        lately = sorted(waiting, key=lambda peer: -self._contacts[peer].met_s)[: limit // 2]
        return (lately + [peer for peer in waiting if peer not in lately])[:limit]

    def met(self, peer: str, now_s: float) -> None:
        """`peer` answered."""
        contact = self._contacts.get(peer)
        if contact is not None:
            contact.met_s = now_s
            contact.failing_since_s = None
            contact.next_try_s = 0.0
            contact.delay_s = FIRST_DELAY.total_seconds()

    def failed(self, peer: str, now_s: float) -> None:
        """`peer` did not answer: wait twice as long as before, or give it up."""
        contact = self._contacts.get(peer)
        if contact is None:
            return
        if contact.failing_since_s is None or self.cut_off:
            contact.failing_since_s = now_s
        often = contact.permanent or self.cut_off
        longest = LONGEST_DELAY_PERMANENT if often else LONGEST_DELAY
        delay_s = min(contact.delay_s, longest.total_seconds())
        contact.next_try_s = now_s + delay_s * (1 + self._rng.uniform(-JITTER, 0))
        contact.delay_s = min(2 * delay_s, longest.total_seconds())
        if now_s - contact.failing_since_s > FORGET_AFTER.total_seconds():
            self.forget(peer)

    def dial_all(self) -> None:
        """Everybody is due now: this node has just found that it is cut off."""
        for contact in self._contacts.values():
            contact.next_try_s = 0.0
            contact.delay_s = FIRST_DELAY.total_seconds()

    def _has_room(self) -> bool:
        """Make room for one more by dropping whoever has not answered for longest, if failing."""
        if len(self._contacts) < MAX_CONTACTS:
            return True
        failing = [
            (contact.met_s, peer)
            for peer, contact in self._contacts.items()
            if not contact.permanent and contact.failing_since_s is not None
        ]
        if failing and not self.cut_off:
            del self._contacts[min(failing)[1]]
        return len(self._contacts) < MAX_CONTACTS

    def _contact(self, peer: str) -> Contact:
        return self._contacts.setdefault(peer, Contact())


def peer_of(address: str) -> str:
    """Peer id at the end of a multiaddr. Raises `CONFIG_INVALID` when there is none."""
    head, _, peer = address.rpartition("/p2p/")
    try:
        public_key_of(peer)
    except ValueError:
        head = ""
    if not head.startswith("/"):
        raise SwarmError(
            Code.CONFIG_INVALID,
            f"{address!r} is not the address of a peer",
            "copy one from that peer's `node status`: /ip4/1.2.3.4/tcp/4700/p2p/12D3Koo...",
        )
    return peer


def is_address(text: str) -> bool:
    """Whether `text` is the multiaddr of a peer."""
    try:
        peer_of(text)
    except SwarmError:
        return False
    return True


def by_peer(addresses: Iterable[str]) -> dict[str, list[str]]:
    """The addresses of each peer, in their order. Raises `CONFIG_INVALID`."""
    found: dict[str, list[str]] = {}
    for address in addresses:
        found.setdefault(peer_of(address), []).append(address)
    return found


def path_of(connections: Iterable[str]) -> str:
    """How a peer is reached, from the remote multiaddrs of its connections.

    "lan" (private or loopback address), "direct", "relay", or "none"; the best one counts.
    """
    kinds = {_path_of_one(address) for address in connections}
    return next((kind for kind in ("lan", "direct", "relay") if kind in kinds), "none")


def _path_of_one(address: str) -> str:
    if "/p2p-circuit" in address:
        return "relay"
    parts = address.split("/")
    try:
        host = ipaddress.ip_address(parts[2])
    except (IndexError, ValueError):
        return "direct"
    return "lan" if host.is_private or host.is_loopback or host.is_link_local else "direct"
