"""What a relay gives to whom (pure: the clock is passed in).

    meter = RelayMeter(RelayBudget())
    meter.reserve(peer, now_s)                    # a place for a peer that wants to be reachable
    meter.open(src, dst, now_s); meter.close(src, dst)
    pause_s = meter.take(src, dst, count, now_s)  # wait as long before the next bytes

Bandwidth is shared by token buckets: one for the relay, one for each peer. Bytes of a circuit
count for both of its ends. A peer whose bytes of the hour are spent gets a trickle, enough for
control messages: a peer that can not even talk would lose its place in the swarm.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from datetime import timedelta

from swarm.errors import Code, SwarmError

HOUR_S = 3600.0
BURST_S = 0.25  # of its rate that a bucket holds
TRICKLE_BPS = 256e3
MAX_PEERS = 4096  # about whom is kept what they were given; identities cost nothing


@dataclass(frozen=True, kw_only=True)
class RelayBudget:
    """Limits of a relay.

    Attributes:
        bandwidth_bps: bits per second that it forwards for all peers together.
        peer_bandwidth_bps: the same for one peer.
        peer_bytes_per_hour: bytes that it forwards for one peer at full speed.
        max_reservations: peers that it makes reachable.
        max_circuits: circuits at once.
        max_circuits_per_peer: circuits at once that one peer may have a part in.
        reservation_ttl: after which a reservation must be renewed.
    """

    bandwidth_bps: float = 400e6
    peer_bandwidth_bps: float = 200e6
    peer_bytes_per_hour: int = 64 * 2**30
    max_reservations: int = 128
    max_circuits: int = 256
    max_circuits_per_peer: int = 32
    reservation_ttl: timedelta = timedelta(minutes=30)


@dataclass
class _Bucket:
    """May go below zero: what was taken is paid for by waiting."""

    level: float  # bytes
    at_s: float

    def take(self, count: int, rate_bps: float, now_s: float) -> float:
        """Seconds to wait for `count` bytes at `rate_bps`."""
        rate = rate_bps / 8
        filled = self.level + (now_s - self.at_s) * rate
        self.level = min(filled, rate * BURST_S) - count
        self.at_s = now_s
        return max(0.0, -self.level / rate)


@dataclass
class _Peer:
    bucket: _Bucket
    hour_start_s: float
    circuits: int = 0
    hour_bytes: int = 0
    total_bytes: int = 0
    reserved_until_s: float = -math.inf


@dataclass
class RelayMeter:
    """See the module docstring. Not safe for threads by itself.

    Attributes:
        budget: the limits.
        total_bytes: forwarded so far for anybody.
    """

    budget: RelayBudget
    total_bytes: int = 0
    _peers: dict[str, _Peer] = field(default_factory=dict)
    _bucket: _Bucket | None = None
    _circuits: int = 0

    def reserve(self, peer: str, now_s: float) -> None:
        """Give or prolong a reservation. Raises `RELAY_REFUSED` when all places are taken."""
        if self.reservations(now_s) >= self.budget.max_reservations and not self.reserved(
            peer, now_s
        ):
            raise refused("all reservations are taken")
        self._peer(peer, now_s).reserved_until_s = (
            now_s + self.budget.reservation_ttl.total_seconds()
        )

    def reserved(self, peer: str, now_s: float) -> bool:
        """Whether `peer` has a reservation."""
        return peer in self._peers and self._peers[peer].reserved_until_s > now_s

    def reservations(self, now_s: float) -> int:
        """Number of peers with a reservation."""
        return sum(peer.reserved_until_s > now_s for peer in self._peers.values())

    def open(self, src: str, dst: str, now_s: float) -> None:
        """Count a circuit from `src` to `dst`. Raises `RELAY_REFUSED`."""
        if not self.reserved(dst, now_s):
            raise refused(f"{dst} has no reservation")
        ends = {src: self._peer(src, now_s), dst: self._peer(dst, now_s)}
        if self._circuits >= self.budget.max_circuits:
            raise refused("all circuits are taken")
        for name, peer in ends.items():
            if peer.circuits >= self.budget.max_circuits_per_peer:
                raise refused(f"{name} has {peer.circuits} circuits already")
        self._circuits += 1
        for peer in ends.values():
            peer.circuits += 1

    def close(self, src: str, dst: str) -> None:
        """A circuit that `open` counted has ended."""
        self._circuits -= 1
        for name in {src, dst}:
            self._peers[name].circuits -= 1

    def take(self, src: str, dst: str, count: int, now_s: float) -> float:
        """Account for `count` forwarded bytes; seconds to wait before forwarding more."""
        self.total_bytes += count
        if self._bucket is None:
            self._bucket = _Bucket(0.0, now_s)
        pauses = [self._bucket.take(count, self.budget.bandwidth_bps, now_s)]
        for name in {src, dst}:
            peer = self._peers[name]
            if now_s - peer.hour_start_s >= HOUR_S:
                peer.hour_start_s, peer.hour_bytes = now_s, 0
            peer.hour_bytes += count
            peer.total_bytes += count
            spent = peer.hour_bytes > self.budget.peer_bytes_per_hour
            rate = TRICKLE_BPS if spent else self.budget.peer_bandwidth_bps
            pauses.append(peer.bucket.take(count, rate, now_s))
        return max(pauses)

    def forwarded(self) -> dict[str, int]:
        """Bytes forwarded so far for each peer that is known at the moment."""
        return {name: peer.total_bytes for name, peer in self._peers.items() if peer.total_bytes}

    @property
    def circuits(self) -> int:
        """Circuits at the moment."""
        return self._circuits

    def _peer(self, name: str, now_s: float) -> _Peer:
        if name not in self._peers:
            self._forget(now_s)
            if len(self._peers) >= MAX_PEERS:
                raise refused("too many peers")
            self._peers[name] = _Peer(_Bucket(0.0, now_s), now_s)
        return self._peers[name]

    def _forget(self, now_s: float) -> None:
        """Drop who has no reservation, no circuit, and no bytes in this hour that count."""
        for name, peer in list(self._peers.items()):
            old = now_s - peer.hour_start_s >= HOUR_S or not peer.hour_bytes
            if old and not peer.circuits and peer.reserved_until_s <= now_s:
                del self._peers[name]


def refused(reason: str) -> SwarmError:
    """A `RELAY_REFUSED` error."""
    return SwarmError(Code.RELAY_REFUSED, reason, "another relay may have room")
