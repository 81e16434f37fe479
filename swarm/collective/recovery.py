"""Downloading what a peer lacks of a commit from other peers, verified against its hashes.

What is lacking, and when it is fetched, is decided in `swarm/collective/protocol/recovery.py`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Sequence
from datetime import timedelta
from typing import Protocol

import numpy as np

from swarm.collective.codecs import U8, Codec, decode, get_codec
from swarm.collective.context import Context
from swarm.collective.state import EMPTY_HASH, FragmentState, hash_of
from swarm.errors import SwarmError
from swarm.wire import collective_pb2 as pb
from swarm.wire.membership_pb2 import PeerRecord


class Downloader(Protocol):
    """The part of the data plane that recovery needs."""

    def download_blob(
        self, sources: Sequence[PeerRecord], blob_hash: bytes, into: memoryview, timeout: timedelta
    ) -> None:
        """Fetch exactly `len(into)` bytes with that hash from any source; raises a typed error."""
        ...


def fetch_fragment(
    bulk: Downloader,
    sources: Sequence[PeerRecord],
    version: pb.FragmentVersion,
    numel: int,
    timeout: timedelta,
    codec: Codec,
) -> FragmentState | None:
    """Parameters and momentum of a fragment; blocking. None when no source could serve it.

    `codec`: how what the parameters' hash names is encoded; the momentum is fp32.
    """
    momentum = np.zeros(0 if version.momentum_hash == EMPTY_HASH else numel, dtype="<f4")

    def fetch(blob_hash: bytes, size: int) -> U8:
        data = np.empty(size, np.uint8)
        bulk.download_blob(sources, blob_hash, data.data, timeout)
        return data

    try:
        data = fetch(version.theta_hash, codec.encoded_bytes(numel))
        theta = data.view("<f4") if codec.lossless else decode(codec, data, numel)
        if hash_of(momentum) != version.momentum_hash:
            momentum = fetch(version.momentum_hash, 4 * numel).view("<f4")
    except SwarmError:
        return None
    return FragmentState(
        theta,
        momentum,
        version.version,
        version.theta_hash,
        version.momentum_hash,
        None if codec.lossless else data,
    )


async def download(
    context: Context, version: pb.FragmentVersion, preferred: Collection[str]
) -> FragmentState | None:
    """A fragment from this peer's disk, the `preferred` peers, or anybody else.

    None also when it is not of the newest commit any more.
    """
    record = context.ledger.record
    outcomes = record.fragments if record is not None else []
    outcome = next((o for o in outcomes if o.state == version and o.numel), None)
    if outcome is None:
        return None
    if context.archive is not None:
        found = await asyncio.to_thread(context.archive.find, version)
        if found is not None:
            return found
    records = await context.directory.records()
    me = context.transport.peer_id
    others = [r for p, r in records.items() if p != me]
    sources = sorted(others, key=lambda r: (r.peer_id not in preferred, r.peer_id))
    return await asyncio.to_thread(
        fetch_fragment,
        context.bulk,
        sources,
        version,
        int(outcome.numel),
        context.manifest.timeouts.join,
        get_codec(outcome.codec or "fp32"),
    )
