"""Getting the bytes of a fragment from other peers, verified against the hashes of a commit."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np

from swarm.collective.codecs import F32
from swarm.collective.state import FragmentState, sha256_of
from swarm.errors import SwarmError
from swarm.wire import collective_pb2 as pb
from swarm.wire.membership_pb2 import PeerRecord


class Downloader(Protocol):
    """The part of the data plane that recovery needs."""

    def download_blob(self, record: PeerRecord, sha256: bytes, into: memoryview) -> None:
        """Fetch exactly `len(into)` bytes with that hash; raises a typed error."""
        ...


def fetch_fragment(
    bulk: Downloader, sources: Sequence[PeerRecord], version: pb.FragmentVersion, numel: int
) -> FragmentState | None:
    """Parameters and momentum of a fragment; blocking. None when no source could serve it."""
    theta = _fetch_array(bulk, sources, version.theta_sha256, numel)
    if theta is None:
        return None
    zeros = np.zeros(numel, dtype=np.float32)
    if sha256_of(zeros) == version.momentum_sha256:
        momentum: F32 | None = zeros
    else:
        momentum = _fetch_array(bulk, sources, version.momentum_sha256, numel)
    if momentum is None:
        return None
    return FragmentState(
        theta, momentum, version.version, version.theta_sha256, version.momentum_sha256
    )


def _fetch_array(
    bulk: Downloader, sources: Sequence[PeerRecord], sha256: bytes, numel: int
) -> F32 | None:
    values = np.empty(numel, dtype="<f4")
    for source in sources:
        try:
            bulk.download_blob(source, sha256, values.data.cast("B"))
        except SwarmError:
            continue
        if sha256_of(values) == sha256:
            return values
    return None
