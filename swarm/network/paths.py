"""How a peer is reached, and when to look for a better way (pure: the clock is passed in).

    path_of(addresses, hidden=True, peer_hidden=True)           # "punched", say
    upgrades = Upgrades()
    for peer in upgrades.due({peer: Chance(...)}, now_s): ...   # try it now

A pair on a relay that could do better tries to: a hole is punched where both are behind routers
(`swarm.network.p2p.puncher`; libp2p tries that too, once per relayed connection and often too
early), else a new connection is made. After the last try the pair stays with the relay for good.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

from swarm.network.addresses import host_of
from swarm.network.reachability import HIDDEN, Nat, Reachability
from swarm.wire.membership_pb2 import PeerRecord

LAN, DIRECT, PUNCHED, RELAY, NONE = "lan", "direct", "punched", "relay", "none"
PUNCHABLE = frozenset({Nat.FIREWALLED, Nat.ENDPOINT_INDEPENDENT})
_PUNCHABLE = frozenset(nat.value for nat in PUNCHABLE)  # as records say it
RETRIES_S = (1.0, 5.0, 12.0, 30.0, 120.0, 600.0)


def path_of(addresses: Iterable[str], *, hidden: bool, peer_hidden: bool) -> str:
    """The best path among the connections to a peer, given their remote multiaddrs.

    `hidden`: whether strangers do not reach this peer, `peer_hidden`: the other one. A direct
    connection between two that are is a punched one.
    """
    kinds = {_kind_of(address) for address in addresses}
    best = next((kind for kind in (LAN, DIRECT, RELAY) if kind in kinds), NONE)
    return PUNCHED if best == DIRECT and hidden and peer_hidden else best


def _kind_of(address: str) -> str:
    if "/p2p-circuit" in address:
        return RELAY
    try:
        host = ipaddress.ip_address(host_of(address))
    except ValueError:
        return DIRECT
    return LAN if host.is_private or host.is_loopback or host.is_link_local else DIRECT


def is_hidden(record: PeerRecord | None) -> bool:
    """Whether strangers do not reach the peer of a record."""
    return record is not None and record.nat in {nat.value for nat in HIDDEN}


def punchable(own: Reachability, record: PeerRecord) -> bool:
    """Whether a hole can be punched between this peer and that of a record.

    A symmetric NAT on either side has no port that the other could aim at.
    """
    return hides_from_strangers(own) and record.nat in _PUNCHABLE


def hides_from_strangers(own: Reachability) -> bool:
    """Whether this peer is behind a router that holes can be punched through."""
    return own.nat in PUNCHABLE


def expected_path(one: PeerRecord, other: PeerRecord) -> str:
    """The best path that two peers can have, by what their records say of them.

    Who says nothing is taken to be reached directly.
    """
    records = (one, other)
    if one.network_hash and one.network_hash == other.network_hash:
        if all(record.lan_addresses for record in records):
            return LAN
    if not all(is_hidden(record) for record in records):
        return DIRECT
    return PUNCHED if all(record.nat in _PUNCHABLE for record in records) else RELAY


def relayed_parts(records: Mapping[str, PeerRecord]) -> dict[str, float]:
    """Of each peer, the part of the others to whom it has only a relay, 0 to 1."""
    others = max(1, len(records) - 1)
    return {
        peer: sum(
            expected_path(record, other) == RELAY for name, other in records.items() if name != peer
        )
        / others
        for peer, record in records.items()
    }


@dataclass(frozen=True)
class Chance:
    """What is known about one connected peer.

    Attributes:
        path: how it is reached.
        better: there may be a better path.
        punch: and it has to be punched; else a new connection might take it.
        lead: it is on this side to try; one of the two has to.
        busy: bulk data is moving, which a new connection would break.
    """

    path: str
    better: bool
    lead: bool
    busy: bool
    punch: bool = False


@dataclass
class _Tries:
    since_s: float
    made: int = 0


class Upgrades:
    """See the module docstring."""

    def __init__(self) -> None:
        self._tries: dict[str, _Tries] = {}

    def due(self, chances: Mapping[str, Chance], now_s: float) -> list[str]:
        """Peers to try now; each counts as tried. A busy one is due when it is at rest."""
        self._keep(peer for peer, chance in chances.items() if chance.better)
        found = []
        for peer, chance in chances.items():
            if not chance.better:
                continue
            tries = self._tries.setdefault(peer, _Tries(now_s))
            waited_s = now_s - tries.since_s
            if tries.made < len(RETRIES_S) and waited_s >= RETRIES_S[tries.made]:
                if chance.lead and not chance.busy:
                    tries.made += 1
                    found.append(peer)
        return found

    def _keep(self, peers: Iterable[str]) -> None:
        wanted = set(peers)
        for peer in [peer for peer in self._tries if peer not in wanted]:
            del self._tries[peer]


def chance_of(
    own_id: str,
    own: Reachability,
    network_hash: bytes,
    record: PeerRecord,
    path: str,
    busy: Collection[str],
) -> Chance:
    """The `Chance` of a connected peer."""
    near = bool(network_hash and record.lan_addresses) and record.network_hash == network_hash
    to_relay = [a for a in record.p2p_addresses if "/p2p-circuit" in a]
    open_ = len(to_relay) < len(record.p2p_addresses)
    punch = path == RELAY and not near and not open_ and punchable(own, record)
    better = punch or (near and path in (RELAY, DIRECT, PUNCHED)) or (open_ and path == RELAY)
    # Who can be called can not always call back.
    lead = own_id < record.peer_id or (open_ and not near)
    return Chance(path, better, lead, record.peer_id in busy, punch)
