"""What one daemon is told at its start; `node start` fills it in from the command line."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from swarm.network.p2p.config import RelayMode  # which every command would import else


@dataclass(frozen=True, kw_only=True)
class DaemonConfig:
    """Settings of one node, none of which the other peers have to agree on."""

    manifest_path: Path
    """The run's manifest, RUN.toml."""

    data: str
    """Path of the text to train on, or a built-in corpus such as `demo:python`."""

    domain: str
    """Name of what the data is about; shown to others, unlike the data."""

    peers: tuple[str, ...]
    """Addresses (multiaddr with /p2p/<id>) of peers to join through; none founds the run."""

    directory: Path
    """Holds everything of the node: key, fragments, token shards, socket, log."""

    name: str
    """Display name; empty: one that is made from the peer id."""

    host: str
    """Interface to listen on."""

    port: int
    """TCP port of the peer-to-peer daemon; 0 picks a free one."""

    threads: int
    """CPU threads of the worker."""

    device: str
    """`auto`, `cpu`, `cuda`, `cuda:1` or `mps`."""

    allow_solo: bool
    """Train on although no other peer answers."""

    announce: tuple[str, ...] = ()
    """Multiaddrs at which others reach this node, in place of what it finds out."""

    relay: RelayMode = "on"
    """See `NetworkConfig.relay`."""

    mdns: bool = False
    """See `NetworkConfig.mdns`."""

    metrics: tuple[str, int] | None = None
    """Host and port of `/metrics` and `/healthz`; None: not served."""

    @property
    def data_dir(self) -> Path:
        """Where the worker keeps the prepared tokens of `data`."""
        return data_directory(self.directory)


def data_directory(node_directory: Path) -> Path:
    """Where the node in `node_directory` keeps its prepared tokens."""
    return node_directory / "shards"
