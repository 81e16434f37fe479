"""The opening half of the data plane: an idle lane, or a new one by the best way to the peer.

    pool = LanePool(handshake)
    lane = pool.open(record, limit)
    pool.release(lane)                      # kept for the next call if it is at rest

The ladder to a peer is its announced addresses in order, then the tunnel. What worked last comes
first; an address that failed comes last for a while, so that a dead one does not cost its time
limit again for each lane. All of that is forgotten when the peer restarts (new certificate), and
when a better path to it has appeared (`renew`): calls then move to it, one by one.
"""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import timedelta
from typing import TypeAlias

from swarm.errors import Code, SwarmError
from swarm.network.framing import SocketLane
from swarm.network.handshake import Handshake
from swarm.network.punching import Source
from swarm.network.sockets import connect
from swarm.network.tls import certificate_sha256
from swarm.wire.membership_pb2 import PeerRecord

OpenTunnel: TypeAlias = Callable[[PeerRecord, timedelta], socket.socket]

STEP_LIMIT = timedelta(seconds=2)  # for one address, handshake included, if others are left
MAX_ADDRESSES = 8
AVOID_FAILED = timedelta(minutes=2)
IDLE_KEEP = timedelta(seconds=60)  # below the server's limit
MAX_IDLE_PER_PEER = 8
TUNNEL = "tunnel"


@dataclass
class _Peer:
    """What is known about one incarnation of a peer."""

    digest: bytes
    idle: list[tuple[float, SocketLane]] = field(default_factory=list)  # since when
    worked: str = ""
    renewed: int = 0  # times; lanes from before the last one are not kept
    failed_s: dict[str, float] = field(default_factory=dict)


class LanePool:
    """See the module docstring."""

    def __init__(self, handshake: Handshake) -> None:
        self.open_tunnel: OpenTunnel | None = None
        self.addresses: Callable[[PeerRecord], list[str]] = lambda r: list(r.data_addresses)
        self._handshake = handshake
        self._lock = threading.Lock()
        self._peers: dict[str, _Peer] = {}
        self._busy: dict[SocketLane, tuple[_Peer, int]] = {}
        self._closed = False

    def open(self, record: PeerRecord, limit: timedelta) -> SocketLane:
        """A lane to the peer of a verified record.

        Raises `PEER_UNREACHABLE` (no way worked), `PEER_REFUSED`, or `MESSAGE_MALFORMED` (a record
        without a proper certificate).
        """
        deadline_s = time.monotonic() + limit.total_seconds()
        peer = self._peer(record)
        renewed = peer.renewed
        lane = self._take_idle(peer) or self._climb(record, peer, deadline_s)
        with self._lock:
            if not self._closed:
                self._busy[lane] = peer, renewed
                return lane
        lane.close()
        raise _stopping()

    def seen_from(self, source: Source, record: PeerRecord, limit: timedelta) -> str:
        """See `DataPlane.seen_from`."""
        deadline_s = time.monotonic() + limit.total_seconds()
        problems = []
        for address in self.addresses(record)[:MAX_ADDRESSES]:
            try:
                sock = source.connect(address, max(0.05, deadline_s - time.monotonic()))
                lane = self._handshake.open_direct(sock, record, deadline_s)
            except OSError as error:
                problems.append(f"{address}: {error.strerror or error}")
            else:
                source.keep(lane)
                return lane.seen
        raise SwarmError(Code.PEER_UNREACHABLE, f"{record.peer_id}: {'; '.join(problems)}")

    def release(self, lane: SocketLane) -> None:
        """Keep the lane if both sides have said END, else close it."""
        now_s = time.monotonic()
        with self._lock:
            peer, renewed = self._busy.pop(lane, (None, 0))
            current = peer is not None and self._peers.get(lane.peer) is peer
            fresh = peer is not None and peer.renewed == renewed
            keep = current and fresh and lane.at_rest and not self._closed
            if peer is not None and keep and len(peer.idle) < MAX_IDLE_PER_PEER:
                peer.idle.append((now_s, lane))
            else:
                keep = False
            stale = self._take_stale(now_s)
        for old in stale:
            old.close()
        if not keep:
            lane.close()

    def paths(self) -> dict[str, str]:
        """How each peer was reached last: an address, or "tunnel"."""
        with self._lock:
            return {name: peer.worked for name, peer in self._peers.items() if peer.worked}

    def renew(self, name: str) -> None:
        """A better path to a peer has appeared: use no lane of the old one for another call."""
        with self._lock:
            peer = self._peers.get(name)
            if peer is None:
                return
            old, peer.idle = peer.idle, []
            peer.renewed += 1
            peer.worked = ""
            peer.failed_s.clear()
        for _, lane in old:
            lane.close()

    def tunnelled(self) -> set[str]:
        """Peers with whom a call is under way through a tunnel."""
        with self._lock:
            return {lane.peer for lane in self._busy if lane.path == TUNNEL}

    def close(self) -> None:
        """End all lanes, those at work too; later calls fail."""
        with self._lock:
            self._closed = True
            idle = [lane for peer in self._peers.values() for _, lane in peer.idle]
            busy = list(self._busy)
            self._peers.clear()
        for lane in idle:
            lane.close()
        for lane in busy:
            lane.cancel()

    # ---- idle lanes -----------------------------------------------------------------------

    def _peer(self, record: PeerRecord) -> _Peer:
        digest = certificate_sha256(record.tls_certificate)
        with self._lock:
            if self._closed:
                raise _stopping()
            peer = self._peers.get(record.peer_id)
            if peer is not None and peer.digest == digest:
                return peer
            replaced = peer.idle if peer is not None else []
            peer = self._peers[record.peer_id] = _Peer(digest)
        for _, lane in replaced:
            lane.close()
        return peer

    def _take_idle(self, peer: _Peer) -> SocketLane | None:
        while True:
            with self._lock:
                if not peer.idle:
                    return None
                since_s, lane = peer.idle.pop()
            # An older one may be ended by its server at this very moment.
            fresh = time.monotonic() - since_s < IDLE_KEEP.total_seconds()
            if fresh and not lane.hung_up():
                return lane
            lane.close()

    def _take_stale(self, now_s: float) -> list[SocketLane]:
        stale = []
        for peer in self._peers.values():
            oldest_s = now_s - IDLE_KEEP.total_seconds()
            stale += [lane for since_s, lane in peer.idle if since_s < oldest_s]
            peer.idle = [entry for entry in peer.idle if entry[0] >= oldest_s]
        return stale

    # ---- new lanes ------------------------------------------------------------------------

    def _climb(self, record: PeerRecord, peer: _Peer, deadline_s: float) -> SocketLane:
        ways = self._ways(record, peer)
        problems: list[str] = []
        for number, way in enumerate(ways):
            now_s = time.monotonic()
            last = number == len(ways) - 1
            step_s = deadline_s if last else min(deadline_s, now_s + STEP_LIMIT.total_seconds())
            try:
                lane = self._open_by(way, record, step_s)
            except SwarmError as error:
                if error.code is not Code.PEER_UNREACHABLE:
                    raise
                problems.append(f"{way}: {error.message.removeprefix(f'{record.peer_id}: ')}")
                with self._lock:
                    peer.failed_s[way] = time.monotonic()
                continue
            with self._lock:
                peer.worked = way
                peer.failed_s.pop(way, None)
            return lane
        reason = "; ".join(problems) or "it announces no data address"
        raise SwarmError(Code.PEER_UNREACHABLE, f"{record.peer_id}: {reason}")

    def _ways(self, record: PeerRecord, peer: _Peer) -> list[str]:
        """Addresses and the tunnel, the most promising first."""
        ways = list(dict.fromkeys(self.addresses(record)[:MAX_ADDRESSES]))
        if self.open_tunnel is not None:
            ways.append(TUNNEL)
        avoided_s = time.monotonic() - AVOID_FAILED.total_seconds()
        with self._lock:
            # A tunnel is left again when the addresses that failed are due for another try.
            due = peer.worked == TUNNEL and all(
                peer.failed_s.get(way, 0.0) < avoided_s for way in ways if way != TUNNEL
            )
            return sorted(
                ways,
                key=lambda way: (
                    way != peer.worked or due,
                    peer.failed_s.get(way, 0.0) > avoided_s,
                ),
            )

    def _open_by(self, way: str, record: PeerRecord, deadline_s: float) -> SocketLane:
        limit_s = max(0.05, deadline_s - time.monotonic())
        if way == TUNNEL:
            assert self.open_tunnel is not None
            stream = self.open_tunnel(record, timedelta(seconds=limit_s))
            return self._handshake.open_tunnel(stream, record, deadline_s)
        try:
            sock = connect(way, limit_s)
        except TimeoutError:
            raise SwarmError(Code.PEER_UNREACHABLE, "no connection in time") from None
        except OSError as error:
            raise SwarmError(Code.PEER_UNREACHABLE, error.strerror or str(error)) from error
        except SwarmError as error:
            raise SwarmError(Code.PEER_UNREACHABLE, error.message) from error
        return self._handshake.open_direct(sock, record, deadline_s)


def _stopping() -> SwarmError:
    return SwarmError(Code.PEER_UNREACHABLE, "this node is stopping")
