"""Which addresses a peer gives to others, and which of theirs it tries (pure functions)."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from swarm.network.reachability import Nat, Reachability, is_public
from swarm.wire.membership_pb2 import PeerRecord


@dataclass(frozen=True)
class OwnAddresses:
    """Multiaddrs of this peer, without its id.

    Attributes:
        direct: at which strangers reach it.
        lan: at which peers of its own network do.
        own: those of `direct` that are addresses of its own interfaces.
    """

    direct: tuple[str, ...] = ()
    lan: tuple[str, ...] = ()
    own: tuple[str, ...] = ()


def own_addresses(
    listening: Sequence[str], reach: Reachability, announced: Sequence[str]
) -> OwnAddresses:
    """What to announce, of the multiaddrs at which p2pd listens and those that were observed.

    p2pd lists what others observe among its own addresses: behind a NAT they are dropped.
    """
    private = [a for a in listening if not is_public(host_of(a))]
    public = [a for a in listening if is_public(host_of(a))]
    if reach.behind_nat or reach.nat is Nat.FIREWALLED:
        public = []
    lan = [a for a in private if not _is_loopback(a)] or private
    if announced:
        return OwnAddresses(tuple(announced), tuple(lan), tuple(public))
    forwarded = [to_multiaddr(*address) for address in reach.direct] if reach.behind_nat else []
    if reach.public_host:
        return OwnAddresses((*public, *forwarded), tuple(lan), tuple(public))
    # Nobody sees a public address: this may be a swarm in one LAN, or on one machine.
    return OwnAddresses((*public, *private), (), (*public, *private))


def to_multiaddr(host: str, port: int) -> str:
    """The multiaddr of a TCP port."""
    return f"/ip{ipaddress.ip_address(host).version}/{host}/tcp/{port}"


def host_of(address: str) -> str:
    """The IP address or name in a multiaddr; of the relay if it is one of a circuit; else ""."""
    parts = address.split("/")
    return parts[2] if len(parts) > 2 else ""


def data_addresses(multiaddrs: Iterable[str], port: int) -> list[str]:
    """ "host:port" of the data plane on each IP address at which this node itself is reached.

    IPv6 addresses are bracketed; names, and the addresses of relays, are left out.
    """
    found = set()
    for multiaddr in multiaddrs:
        _, protocol, host, *rest = multiaddr.split("/")
        if protocol in ("ip4", "ip6") and "p2p-circuit" not in rest:
            found.add(f"[{host}]:{port}" if protocol == "ip6" else f"{host}:{port}")
    return sorted(found)


def to_dial(record: PeerRecord, network_hash: bytes) -> list[str]:
    """Multiaddrs of another peer to try, the most promising first.

    Addresses of a LAN are tried only from behind the same public address: elsewhere they belong
    to somebody else, or to nobody, and each costs its time limit.
    """
    same = bool(network_hash) and record.network_hash == network_hash
    return list(dict.fromkeys((*(record.lan_addresses if same else ()), *record.p2p_addresses)))


def data_addresses_to_try(record: PeerRecord, network_hash: bytes) -> list[str]:
    """The same for the "host:port" of another peer's data plane."""
    if not record.network_hash or record.network_hash == network_hash:
        return list(record.data_addresses)
    return [a for a in record.data_addresses if not _is_private(a.rpartition(":")[0].strip("[]"))]


def _is_private(host: str) -> bool:
    try:
        return not ipaddress.ip_address(host).is_global
    except ValueError:
        return False  # a name


def _is_loopback(address: str) -> bool:
    try:
        return ipaddress.ip_address(host_of(address)).is_loopback
    except ValueError:
        return False


def plain(addresses: Iterable[str]) -> list[str]:
    """Those that are not of a circuit."""
    return [a for a in addresses if "/p2p-circuit" not in a]
