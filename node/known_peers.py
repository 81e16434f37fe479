"""The peers that a node has met, on disk: the way back when all that it was told of are gone."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from swarm.files import write_atomic
from swarm.network.contacts import KEPT_PEERS, by_peer, is_address

ADDRESSES = "peers.txt"


def load_addresses(directory: Path) -> tuple[str, ...]:
    """Addresses of peers met in earlier runs of this node, so that it needs no bootstrap peer.

    The peers that answered last come first. Lines that are damaged are passed over.
    """
    try:
        lines = (directory / ADDRESSES).read_text(encoding="utf-8", errors="replace").split()
    except OSError:
        return ()
    return tuple(line for line in lines if is_address(line))


def save_addresses(directory: Path, addresses: Sequence[str]) -> None:
    """Keep the addresses for the next start, and those of up to 64 peers in all from before.

    A node that was cut off, or started alone, knows few peers; the file must not forget the rest.
    Raises `DISK_FULL` or `DIR_NOT_WRITABLE`.
    """
    before = load_addresses(directory)
    kept = by_peer(addresses)
    for peer, old in by_peer(before).items():
        if peer not in kept and len(kept) < KEPT_PEERS:
            kept[peer] = old
    lines = tuple(address for found in kept.values() for address in found)
    if lines != before:
        write_atomic(directory / ADDRESSES, "".join(f"{line}\n" for line in lines).encode())
