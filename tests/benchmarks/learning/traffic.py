"""Bytes that a swarm sends: computed from what each round averaged, as the collective moves it.

Contributors stream the slices of a fragment to their reducers, who are contributors, and these
send the mean to everybody who keeps the fragment. A sole holder that nobody else needs sends
nothing. Control messages are not counted. Means over the peers, so as much is received as sent.
"""

from __future__ import annotations

from swarm.collective.codecs import get_codec
from swarm.config import RunManifest
from swarm.model.fragments import FragmentLayout
from swarm.simulation.learning import RoundLog

FP32_BYTES = 4


def layout_of(manifest: RunManifest) -> FragmentLayout:
    """How the manifest cuts the model."""
    sync = manifest.sync
    return FragmentLayout.of(manifest.model, sync.trunk_fragments, sync.router_rows)


def round_bytes(manifest: RunManifest, log: RoundLog, peers: int) -> float:
    """Mean bytes that one of `peers` peers sends in a round."""
    layout, codec = layout_of(manifest), get_codec(manifest.sync.codec)
    total = 0
    for name, contributors in log.contributors.items():
        shared = manifest.sync.forward == "full" or layout.expert_index(name) is None
        keepers = log.peers if shared else contributors
        copies = (contributors - 1) + (keepers - 1)
        total += codec.encoded_bytes(layout.numel(name)) * copies
    return total / peers


def return_bytes(manifest: RunManifest, held: int) -> int:
    """Bytes that a peer with `held` experts downloads when it comes back: parameters, momentum."""
    layout = layout_of(manifest)
    experts = manifest.model.num_experts if manifest.sync.forward == "full" else held
    values = sum(layout.numel(name) for name in layout.trunk_names)
    values += experts * layout.numel(layout.expert_name(0))
    return 2 * FP32_BYTES * values


def gradient_bytes(manifest: RunManifest, peers: int, steps: int) -> float:
    """Mean bytes that a peer sends when the fp32 gradients of all are averaged in each step."""
    layout = layout_of(manifest)
    values = sum(layout.numel(name) for name in layout.names)
    return 2 * (peers - 1) / peers * values * FP32_BYTES * steps
