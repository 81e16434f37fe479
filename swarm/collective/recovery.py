"""Getting the bytes of a fragment from other peers, verified against the hashes of a commit."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from typing import Protocol

import numpy as np

from swarm.collective.codecs import F32
from swarm.collective.state import FragmentState, sha256_of
from swarm.errors import SwarmError
from swarm.wire import collective_pb2 as pb
from swarm.wire.membership_pb2 import PeerRecord


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
    momentum = np.zeros(numel, dtype="<f4")
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
