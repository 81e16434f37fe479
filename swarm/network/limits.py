"""What one peer, and all together, may ask of a node (pure: the clock is passed in).

    limits = RequestLimits(MESSAGES)
    limits.take(peer, size, now_s)          # raises OVER_LIMIT
    ...; limits.done(peer)                  # when the request is answered

Peer ids are free, so a limit for each peer does not bound what all ask together, and a limit for
all lets a crowd of strangers starve the members. So both hold, and members (`trusted`) are bound
only by their own.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

from swarm.errors import Code, SwarmError

MAX_PEERS = 4096  # whose budgets are remembered; the global one holds for those forgotten


@dataclass(frozen=True)
class Rate:
    """So much at once, and so much a second for ever."""

    burst: float
    per_second: float


@dataclass(frozen=True)
class Allowance:
    """Limits of one kind of request; sizes in bytes."""

    requests: Rate
    volume: Rate
    at_once: int


@dataclass(frozen=True)
class Policy:
    """Limits of one peer, and of all strangers together."""

    peer: Allowance
    strangers: Allowance


MIB = 2.0**20
MESSAGES = Policy(
    peer=Allowance(Rate(500, 100), Rate(64 * MIB, 8 * MIB), at_once=64),
    strangers=Allowance(Rate(4000, 1000), Rate(256 * MIB, 64 * MIB), at_once=512),
)
DHT_REQUESTS = Policy(
    peer=Allowance(Rate(1000, 200), Rate(32 * MIB, 4 * MIB), at_once=64),
    strangers=Allowance(Rate(8000, 2000), Rate(256 * MIB, 32 * MIB), at_once=512),
)
# A speed test moves its volume both ways; a home link of 100 Mbit/s needs a few MiB to show.
SPEED_TESTS = Policy(
    peer=Allowance(Rate(40, 0.2), Rate(32 * MIB, 0.125 * MIB), at_once=1),
    strangers=Allowance(Rate(400, 4), Rate(128 * MIB, 2 * MIB), at_once=4),
)
NO_VOLUME = Rate(0, 0)  # of what has no size
# The other side's call is waited for, or made, for some seconds; an honest peer tries six times in
# ten minutes for each pair that falls back to the relay.
PUNCHES = Policy(
    peer=Allowance(Rate(6, 0.1), NO_VOLUME, at_once=1),
    strangers=Allowance(Rate(48, 2), NO_VOLUME, at_once=12),
)
# Up to four ports are dialled for two seconds; asked for at a start and once a minute.
DIAL_BACKS = Policy(
    peer=Allowance(Rate(10, 0.2), NO_VOLUME, at_once=2),
    strangers=Allowance(Rate(200, 8), NO_VOLUME, at_once=16),
)


class _Budget:
    """A token bucket of requests and one of bytes."""

    def __init__(self, allowance: Allowance, now_s: float) -> None:
        self._allowance = allowance
        self._requests = allowance.requests.burst
        self._volume = allowance.volume.burst
        self._filled_s = now_s

    def has(self, size: int, now_s: float) -> bool:
        """Whether one more request of `size` bytes is within the budget."""
        passed_s = max(0.0, now_s - self._filled_s)
        self._filled_s = now_s
        rates = self._allowance
        self._requests = _filled(self._requests, rates.requests, passed_s)
        self._volume = _filled(self._volume, rates.volume, passed_s)
        return self._requests >= 1 and self._volume >= size

    def spend(self, size: int) -> None:
        """Take what `has` has found to be there."""
        self._requests -= 1
        self._volume -= size


def _filled(level: float, rate: Rate, passed_s: float) -> float:
    return min(rate.burst, level + passed_s * rate.per_second)


class RequestLimits:
    """See the module docstring. `trusted` tells members, who do not count among the strangers."""

    def __init__(self, policy: Policy, trusted: Callable[[str], bool] = lambda peer: False) -> None:
        self._policy = policy
        self._trusted = trusted
        self._peers: OrderedDict[str, _Budget] = OrderedDict()
        self._strangers = _Budget(policy.strangers, 0.0)
        self._running: Counter[str] = Counter()
        self._running_strangers: Counter[str] = Counter()

    def take(self, peer: str, size: int, now_s: float) -> None:
        """Let one request of `peer` begin. Raises `OVER_LIMIT`; then it does not count."""
        budget = self._budget(peer, now_s)
        stranger = not self._trusted(peer)
        if self._running[peer] >= self._policy.peer.at_once:
            raise over_limit(f"{self._running[peer]} requests of {peer} at once")
        if not budget.has(size, now_s):
            raise over_limit(f"too many requests or bytes of {peer}")
        if stranger:
            if self._running_strangers.total() >= self._policy.strangers.at_once:
                raise over_limit("too many requests of strangers at once")
            if not self._strangers.has(size, now_s):
                raise over_limit("too many requests or bytes of strangers")
            self._strangers.spend(size)
            self._running_strangers[peer] += 1
        budget.spend(size)
        self._running[peer] += 1

    def done(self, peer: str) -> None:
        """A request that `take` let begin has ended."""
        for counter in (self._running, self._running_strangers):
            counter[peer] -= 1
            if counter[peer] <= 0:
                del counter[peer]

    def _budget(self, peer: str, now_s: float) -> _Budget:
        budget = self._peers.pop(peer, None) or _Budget(self._policy.peer, now_s)
        self._peers[peer] = budget
        if len(self._peers) > MAX_PEERS:
            self._peers.popitem(last=False)
        return budget


class RecordQuota:
    """How much a node stores for others in the DHT; leases free the places.

    Each dictionary (`key`) has its own room, in which it can be sent in one message. Whoever has a
    place may renew his entry for ever, so a flood of new owners displaces nobody.
    """

    def __init__(self, *, keys: int, owners: int, volume: int) -> None:
        self._keys = keys
        self._owners = owners
        self._volume = volume
        self._entries: dict[bytes, dict[str, tuple[float, int]]] = {}

    def take(self, owner: str, key: bytes, size: int, *, expires_s: float, now_s: float) -> None:
        """Count an entry of `size` bytes until it expires. Raises `OVER_LIMIT`."""
        if not self._fits(owner, key, size):
            self._drop_expired(now_s)
        if not self._fits(owner, key, size):
            raise over_limit(f"no room for another record of {owner}")
        self._entries.setdefault(key, {})[owner] = (expires_s, size)

    def _fits(self, owner: str, key: bytes, size: int) -> bool:
        entries = self._entries.get(key)
        if entries is None:
            return len(self._entries) < self._keys
        others = sum(held for peer, (_, held) in entries.items() if peer != owner)
        return others + size <= self._volume and (owner in entries or len(entries) < self._owners)

    def _drop_expired(self, now_s: float) -> None:
        for key, entries in list(self._entries.items()):
            for owner in [owner for owner, (until_s, _) in entries.items() if until_s <= now_s]:
                del entries[owner]
            if not entries:
                del self._entries[key]


def over_limit(what: str) -> SwarmError:
    """An `OVER_LIMIT` error."""
    return SwarmError(Code.OVER_LIMIT, what, "ask less often, or another peer")
