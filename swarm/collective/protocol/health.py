"""Who lives: signs of life, and probes of those who are silent.

A peer is dead for us when two probes in a row were missed, or one after a call that failed. A
probe of a process that was killed fails at once, so that is known after `AGAIN_S`; one that was
frozen is known after two probe limits. A verdict holds for the open round: who comes back quickly
must not miss the next one by it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from google.protobuf.message import Message

from swarm.wire.control_pb2 import Ping

if TYPE_CHECKING:
    from swarm.collective.protocol.machine import PeerMachine, Pending

MAX_SILENCE_S = 1.0  # who is waited for, and was not heard of for so long, is probed
MIN_PROBE_S = 0.5  # a busy machine answers late
AGAIN_S = 0.2  # between a missed probe and the next
MISSES = 2
FORGET_S = 60.0  # silence of one that is no member


@dataclass
class Probe:
    """A running question whether a peer lives: `missed` so far, the next one at `next_at`."""

    missed: int
    next_at: float
    call_id: int = 0  # of the probe in flight


class Health:
    """See the module docstring.

    Attributes:
        heard: when each peer was last heard of.
        suspects: peers that are believed dead, and why.
    """

    def __init__(self, peer: PeerMachine) -> None:
        self.heard: dict[str, float] = {}
        self.suspects: dict[str, str] = {}
        self.silence_s = min(MAX_SILENCE_S, peer.setup.timeouts.heartbeat_s / 2)
        self.probe_s = max(MIN_PROBE_S, peer.setup.timeouts.heartbeat_s / 2)
        self._peer = peer
        self._died: dict[str, float] = {}
        self._probes: dict[str, Probe] = {}

    def heard_from(self, peer: str) -> None:
        """Note a sign of life."""
        self.heard[peer] = self._peer.now
        self.suspects.pop(peer, None)
        self._died.pop(peer, None)
        self._probes.pop(peer, None)

    def last_heard(self, peer: str) -> float:
        """When the peer was last heard of; long ago if never."""
        return self.heard.get(peer, -1e9)

    def check(self, peer: str, since: float) -> bool | None:
        """Whether `peer` lives by what was seen since then; None: a probe is on its way."""
        if peer == self._peer.setup.me or self.heard.get(peer, -1e9) >= since:
            return True
        if self._died.get(peer, -1e9) >= since:
            return False
        if peer not in self._probes:
            self._probes[peer] = Probe(0, self._peer.now)
            self._send_due(peer)
        return None

    def missed(self, peer: str) -> None:
        """A call to `peer` failed, which counts as a missed probe."""
        if peer not in self._probes:
            self._probes[peer] = Probe(1, self._peer.now + AGAIN_S)

    def is_missing(self, peer: str) -> bool:
        """True when the last call to `peer` failed, and it is not known yet whether it lives."""
        return peer in self._probes and self._probes[peer].missed > 0

    def step(self) -> None:
        """Send the probes that are due."""
        for peer in list(self._probes):
            self._send_due(peer)

    def _send_due(self, peer: str) -> None:
        probe = self._probes[peer]
        if probe.call_id:
            return
        if self._peer.now < probe.next_at:
            self._peer.wake_by(probe.next_at)
            return
        probe.call_id = self._peer.call(peer, Ping(), self._on_pong, timeout_s=self.probe_s)

    def _on_pong(self, peer: str, reply: Message | None, call: Pending) -> None:
        probe = self._probes.get(peer)
        if reply is not None or probe is None or probe.call_id != call.call_id:
            return
        probe.missed += 1
        probe.call_id = 0
        probe.next_at = self._peer.now + AGAIN_S
        if probe.missed >= MISSES:
            del self._probes[peer]
            self._died[peer] = self._peer.now
            self.suspects.setdefault(peer, "does not answer")

    def round_is_over(self) -> None:
        """A commit was adopted: verdicts of its round are void, and strangers are forgotten."""
        self._died.clear()
        members, horizon = set(self._peer.roster), self._peer.now - FORGET_S
        self.heard = {p: at for p, at in self.heard.items() if p in members or at >= horizon}
        known = members | self.heard.keys()
        self.suspects = {p: why for p, why in self.suspects.items() if p in known}

    def is_dead(self, peer: str) -> bool:
        """True when `peer` was found dead a short while ago."""
        return self._died.get(peer, -1e9) >= self._peer.now - self._peer.setup.timeouts.heartbeat_s
