"""Getting level with a commit: fetching fragments from other peers, verified against its hashes."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import Protocol

import numpy as np

from swarm.collective.codecs import F32
from swarm.collective.context import Context, RoundEvent
from swarm.collective.state import EMPTY_SHA256, FragmentState, sha256_of
from swarm.errors import Code, SwarmError
from swarm.wire import collective_pb2 as pb
from swarm.wire.membership_pb2 import PeerRecord

RETRY_S = 0.5


class Downloader(Protocol):
    """The part of the data plane that recovery needs."""

    def download_blob(
        self, sources: Sequence[PeerRecord], sha256: bytes, into: memoryview, timeout: timedelta
    ) -> None:
        """Fetch exactly `len(into)` bytes with that hash from any source; raises a typed error."""
        ...


def fetch_fragment(
    bulk: Downloader,
    sources: Sequence[PeerRecord],
    version: pb.FragmentVersion,
    numel: int,
    timeout: timedelta,
) -> FragmentState | None:
    """Parameters and momentum of a fragment; blocking. None when no source could serve it."""
    momentum = np.zeros(0 if version.momentum_sha256 == EMPTY_SHA256 else numel, dtype="<f4")
    try:
        theta = _fetch_array(bulk, sources, version.theta_sha256, numel, timeout)
        if sha256_of(momentum) != version.momentum_sha256:
            momentum = _fetch_array(bulk, sources, version.momentum_sha256, numel, timeout)
    except SwarmError:
        return None
    return FragmentState(
        theta, momentum, version.version, version.theta_sha256, version.momentum_sha256
    )


def _fetch_array(
    bulk: Downloader,
    sources: Sequence[PeerRecord],
    sha256: bytes,
    numel: int,
    timeout: timedelta,
) -> F32:
    values = np.empty(numel, dtype="<f4")
    bulk.download_blob(sources, sha256, values.data.cast("B"), timeout)
    return values


class Resync:
    """Keeps count of what a member lacks of the newest commit, and fetches it."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._lacking: list[pb.FragmentOutcome] = []

    @property
    def level(self) -> bool:
        """True when this peer has exactly what the newest commit says."""
        return not self._lacking

    def adopt(self, record: pb.RoundRecord) -> None:
        """Take over what a new commit agreed on, as far as it is here."""
        wanted = self._context.policy.wanted(record)
        self._lacking = self._context.state.adopt(record, wanted)

    async def run(self, roster: Callable[[], Sequence[str]]) -> None:
        """Fetch until level, following newer commits that arrive meanwhile.

        Raises `FRAGMENT_UNAVAILABLE` when nobody serves a fragment within the join limit.
        """
        clock, limit_s = self._context.clock, self._context.manifest.timeouts.join_s
        deadline = clock() + limit_s
        while self._lacking:
            target = self._lacking
            done = await self._fetch(target, await self._sources(set(roster())))
            if done:
                detail = f"{len(done)} fragments"
                self._context.emit(RoundEvent("resync", target[0].state.version, detail))
            if self._lacking is target:
                self._lacking = [o for o in target if o.state.fragment not in done]
            if self._lacking and clock() > deadline:
                names = ", ".join(o.state.fragment for o in self._lacking)
                raise SwarmError(
                    Code.FRAGMENT_UNAVAILABLE,
                    f"no peer served {names} for {limit_s:g} s",
                    "a peer that holds the newest state must be online",
                )
            if self._lacking:
                await asyncio.sleep(RETRY_S)

    async def _fetch(
        self, target: list[pb.FragmentOutcome], sources: Sequence[PeerRecord]
    ) -> set[str]:
        done: set[str] = set()
        for outcome in target:
            version = outcome.state
            if self._lacking is not target:
                break
            state = await asyncio.to_thread(
                fetch_fragment,
                self._context.bulk,
                sources,
                version,
                outcome.numel,
                self._context.manifest.timeouts.join,
            )
            if state is not None and self._lacking is target:
                self._context.state.put(version.fragment, state)
                done.add(version.fragment)
        return done

    async def _sources(self, roster: set[str]) -> list[PeerRecord]:
        """Members of the roster first, then anybody else."""
        records = await self._context.directory.records()
        me = self._context.transport.peer_id
        others = [r for p, r in records.items() if p != me]
        return sorted(others, key=lambda r: (r.peer_id not in roster, r.peer_id))
