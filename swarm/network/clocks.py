"""How far the peers' clocks are from ours, told from pings (pure).

hivemind's DHT refuses peers whose clock differs by more than 3 s, and envelopes are good for 60 s,
so a wrong clock looks like a broken network. NTP's estimate is used: half of the way there.
"""

from __future__ import annotations

import statistics
from collections import OrderedDict

DHT_LIMIT_S = 3.0  # hivemind.dht.protocol.MAX_DHT_TIME_DISCREPANCY_SECONDS
MAX_PEERS = 64


class ClockOffsets:
    """The newest offset of each of the last peers; positive: theirs is ahead."""

    def __init__(self) -> None:
        self._offsets_s: OrderedDict[str, float] = OrderedDict()

    def note(self, peer: str, sent_s: float, received_s: float, theirs_ms: int) -> None:
        """A ping went out and its answer came at these Unix times, saying `theirs_ms`."""
        if theirs_ms:
            self._offsets_s[peer] = theirs_ms / 1000 - (sent_s + received_s) / 2
            self._offsets_s.move_to_end(peer)
            if len(self._offsets_s) > MAX_PEERS:
                self._offsets_s.popitem(last=False)

    def __len__(self) -> int:
        return len(self._offsets_s)

    @property
    def median_s(self) -> float:
        """Seconds; one liar, or one wrong clock among several, does not move it. 0.0: no peers."""
        return statistics.median(self._offsets_s.values()) if self._offsets_s else 0.0
