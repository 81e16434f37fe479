"""Getting level with the newest commit: what is lacking, and fetching it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from swarm.collective.context import RoundEvent
from swarm.collective.protocol.effects import Fetch, FetchGaveUp
from swarm.wire import collective_pb2 as pb

if TYPE_CHECKING:
    from swarm.collective.protocol.machine import PeerMachine

PARALLEL = 4  # downloads at once
RETRY_S = 0.5


class Recovery:
    """Keeps count of what this peer lacks; fetches it when it is asked to."""

    def __init__(self, peer: PeerMachine) -> None:
        self._peer = peer
        self._lacking: dict[str, pb.FragmentVersion] | None = {}  # None: not known yet
        self._fetching: dict[str, pb.FragmentVersion] = {}
        self._retry_at: dict[str, float] = {}
        self._deadline: float | None = None  # of fetching; None: nobody asked
        self._fetched = 0

    @property
    def level(self) -> bool:
        """True when this peer has exactly what the newest commit says."""
        return self._lacking is not None and not self._lacking

    def wants(self, version: pb.FragmentVersion) -> bool:
        """True while a fragment of this version is lacking."""
        return self._lacking is not None and self._lacking.get(version.fragment) == version

    def commit_changed(self) -> None:
        """A commit was adopted; what is here of it is not known yet."""
        self._lacking = None

    def set_lacking(self, lacking: Iterable[pb.FragmentVersion]) -> None:
        """What is not here of the newest commit."""
        self._lacking = {v.fragment: v for v in lacking}
        self._retry_at.clear()
        self._fetched = 0

    def ask(self) -> None:
        """Fetch what is lacking, until the join limit from now."""
        if self._lacking is None or self._lacking:
            self._deadline = self._peer.now + self._peer.setup.timeouts.join_s

    def fetched(self, version: pb.FragmentVersion) -> None:
        """A fragment is here now."""
        self._finish(version)
        if self._lacking is None or not self.wants(version):
            return
        del self._lacking[version.fragment]
        self._fetched += 1
        if not self._lacking:
            detail = f"{self._fetched} fragments"
            self._peer.emit(RoundEvent("resync", version.version, detail))

    def failed(self, version: pb.FragmentVersion) -> None:
        """Nobody served it; it is asked for again. The others may have gone on to a newer one."""
        peer = self._peer
        self._finish(version)
        self._retry_at[version.fragment] = peer.now + RETRY_S
        others = [p for p in peer.roster if p != peer.setup.me]
        if others:
            peer.history.catch_up(peer.rng.choice(others))

    def _finish(self, version: pb.FragmentVersion) -> None:
        if self._fetching.get(version.fragment) == version:
            del self._fetching[version.fragment]

    def step(self) -> None:
        """Start the downloads that are due."""
        if self._deadline is None or self._lacking is None:
            return
        peer = self._peer
        if not self._lacking:
            self._deadline = None
        elif peer.now >= self._deadline:
            self._deadline = None
            peer.out.append(FetchGaveUp(tuple(self._lacking)))
        else:
            peer.wake_by(self._deadline)
            for version in self._lacking.values():
                self._fetch_if_due(version)

    def _fetch_if_due(self, version: pb.FragmentVersion) -> None:
        peer, name = self._peer, version.fragment
        due = self._retry_at.get(name, peer.now)
        if self._fetching.get(name) == version:
            return
        if peer.now < due:
            peer.wake_by(due)
        elif len(self._fetching) < PARALLEL:
            self._fetching[name] = version
            peer.out.append(Fetch(version, tuple(peer.roster)))
