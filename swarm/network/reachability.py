"""Can other peers reach this one? Judged from what they see of it (pure functions).

    judge(observations, listen_port=4700, announced=())        # -> Reachability

p2pd dials from the port on which it listens, so the remote address that others see of our
connections is how the NAT maps that very port. A peer that sees it can also try a new connection
to it, from a port of its own: that is what a stranger's call looks like to the NAT.
"""

from __future__ import annotations

import enum
import hashlib
import ipaddress
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass

MIN_OBSERVERS = 2  # with different addresses, to tell a symmetric NAT
PUNCH_OBSERVERS = 4  # go-libp2p believes an observed address from four hosts on, not before


class Nat(str, enum.Enum):
    """What is between this peer and the others, as far as TCP goes; UDP is not used."""

    UNKNOWN = "unknown"
    PUBLIC = "public"
    FORWARDED = "port-forwarded"
    FIREWALLED = "firewalled"
    ENDPOINT_INDEPENDENT = "endpoint-independent"
    SYMMETRIC = "symmetric"
    LOCAL = "local"


HIDDEN = frozenset({Nat.FIREWALLED, Nat.ENDPOINT_INDEPENDENT, Nat.SYMMETRIC})
OPEN = frozenset({Nat.PUBLIC, Nat.FORWARDED})


@dataclass(frozen=True)
class Observation:
    """What one peer sees of us.

    Attributes:
        observer_host: IP address of that peer.
        host: our IP address as it sees it.
        port: the same for our port.
        local_host: our own IP address on the way to that peer.
        open_ports: ports of `host` at which it reached us anew; None if it did not try.
        listening: whether the connection that it sees comes from the port on which we listen.
    """

    observer_host: str
    host: str
    port: int
    local_host: str
    open_ports: frozenset[int] | None = None
    listening: bool = True


@dataclass(frozen=True)
class Reachability:
    """The judgement.

    Attributes:
        kind: value of a `Nat`.
        reason: why, in words for people.
        observed: "host:port" of this peer as others see it, most frequent first.
        relays: peer ids of the relays that hold a reservation for this peer.
        direct: (host, port) at which anybody reaches this peer, as far as the observations tell.
        observers: number of public peers with different addresses that were asked.
        behind_nat: whether others see another address than our own.
    """

    kind: str = Nat.UNKNOWN.value
    reason: str = "no peer has been asked yet"
    observed: tuple[str, ...] = ()
    relays: tuple[str, ...] = ()
    direct: tuple[tuple[str, int], ...] = ()
    observers: int = 0
    behind_nat: bool = False

    @property
    def nat(self) -> Nat:
        """The kind."""
        return Nat(self.kind)

    @property
    def hidden(self) -> bool:
        """Whether strangers do not reach this peer, or maybe not: it needs relays.

        A NAT of which nothing is known counts, and a forwarded port too: some NATs let in anybody
        who is being talked to, and those who were asked are.
        """
        return self.nat in HIDDEN or self.behind_nat

    @property
    def public_host(self) -> str:
        """The public IP address that others see, or ""."""
        host = self.observed[0].rpartition(":")[0].strip("[]") if self.observed else ""
        return host if is_public(host) else ""


def judge(
    observations: Sequence[Observation], listen_port: int, announced: Collection[str] = ()
) -> Reachability:
    """What the observations say together; `announced` are addresses that the user vouches for."""
    public = [o for o in observations if is_public(o.observer_host) and is_public(o.host)]
    observed = _by_frequency(public or observations)
    count = len({o.observer_host for o in public})
    if announced:
        reason = f"announced by the user: {', '.join(announced)}"
        return Reachability(Nat.FORWARDED.value, reason, observed, observers=count)
    if not observations:
        return Reachability()
    if not public:
        reason = f"{len(observations)} peers see a private address, {observed[0]}"
        return Reachability(Nat.LOCAL.value, reason, observed)
    kind, reason = _judge_public(public, count)
    direct = sorted({(o.host, port) for o in public for port in o.open_ports or ()})
    if len(direct) > 1:  # the port that the user chose rather than one that a NAT did
        direct.sort(key=lambda address: address[1] != listen_port)
    return Reachability(
        kind.value,
        reason,
        observed,
        direct=tuple(direct),
        observers=count,
        behind_nat=any(o.host != o.local_host for o in public),
    )


def _judge_public(public: Sequence[Observation], count: int) -> tuple[Nat, str]:
    tried = [o for o in public if o.open_ports is not None]
    reached = [o for o in tried if o.open_ports]
    behind_nat = [o for o in public if o.host != o.local_host]
    dialled = f"{len(reached)} of {len(tried)} peers could dial back"
    if not behind_nat:
        if reached:
            return Nat.PUBLIC, f"own address is public, and {dialled}"
        if tried:
            return Nat.FIREWALLED, f"own address is public, but {dialled}"
        return Nat.UNKNOWN, "own address is public, but nobody has tried to dial back"
    mapped = [o for o in public if o.listening]
    mapping = f"{len({(o.host, o.port) for o in mapped})} seen by {count} peers"
    if reached:
        return Nat.FORWARDED, f"behind NAT ({mapping}), and {dialled}"
    if not mapped:
        return Nat.UNKNOWN, "behind NAT; connections do not come from the own port for now"
    if _all_alike(mapped):
        return Nat.ENDPOINT_INDEPENDENT, f"behind NAT that shows all peers one address ({mapping})"
    if count >= MIN_OBSERVERS:
        return Nat.SYMMETRIC, f"behind NAT that shows each peer another address ({mapping})"
    return Nat.UNKNOWN, "behind NAT of unknown kind: only one public peer could be asked"


def _all_alike(public: Sequence[Observation]) -> bool:
    """Whether two observers saw one address: a symmetric NAT makes a new one for each.

    Not all have to: some may be connected from another port than that on which we listen.
    """
    seen = {(o.observer_host, o.host, o.port) for o in public}
    counts = Counter((host, port) for _, host, port in seen)
    return max(counts.values()) >= MIN_OBSERVERS


def _by_frequency(observations: Sequence[Observation]) -> tuple[str, ...]:
    seen = [_shown(o.host, o.port) for o in observations]
    return tuple(sorted(set(seen), key=lambda address: (-seen.count(address), address)))


def _shown(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def is_public(host: str) -> bool:
    """Whether an IP address is meant to be reached from anywhere."""
    try:
        return ipaddress.ip_address(host).is_global
    except ValueError:
        return False


def network_hash(run_id: bytes, public_host: str) -> bytes:
    """Tells peers with one public address that they may be in one LAN, and others nothing.

    Empty where no public address is known. 16 bytes, salted with the run: it hides an address from
    the curious, not from somebody who tries all of IPv4.
    """
    if not public_host:
        return b""
    return hashlib.sha256(b"expertswarm lan" + run_id + public_host.encode()).digest()[:16]
