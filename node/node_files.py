"""The files of one node's directory: the lock that makes it one node's, and the saved fragments."""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from node.paths import make_directory
from swarm.collective.state import FragmentState
from swarm.errors import Code, SwarmError
from swarm.experts.store import FragmentStore
from swarm.files import storage_error, write_atomic
from swarm.wire import collective_pb2 as pb

ADDRESSES = "peers.txt"


@contextlib.contextmanager
def node_lock(directory: Path) -> Iterator[None]:
    """Hold the node's directory. Raises `NODE_ALREADY_RUNNING` when another process does."""
    make_directory(directory)
    path = directory / "node.lock"
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    except OSError as error:
        raise storage_error(path, error) from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        raise SwarmError(
            Code.NODE_ALREADY_RUNNING,
            f"a node is running in {directory}",
            "stop it with: node stop, or give this one its own directory with --dir",
        ) from None
    try:
        yield
    finally:
        os.close(descriptor)


def load_addresses(directory: Path) -> tuple[str, ...]:
    """Addresses of peers met in earlier runs of this node, so that it needs no bootstrap peer."""
    try:
        lines = (directory / ADDRESSES).read_text(encoding="utf-8").split()
    except (OSError, UnicodeDecodeError):
        return ()
    return tuple(line for line in lines if line.startswith("/") and "/p2p/" in line)


def save_addresses(directory: Path, addresses: Sequence[str]) -> None:
    """Keep the addresses for the next start. Raises `DISK_FULL` or `DIR_NOT_WRITABLE`."""
    text = "".join(f"{address}\n" for address in sorted(addresses))
    path = directory / ADDRESSES
    if not path.exists() or path.read_text(encoding="utf-8") != text:
        write_atomic(path, text.encode())


def load_fragments(store: FragmentStore, record: pb.RoundRecord | None) -> dict[str, FragmentState]:
    """Fragments of the last known commit that are on disk whole; the rest comes from the swarm."""
    found: dict[str, FragmentState] = {}
    for outcome in record.fragments if record is not None else []:
        version = outcome.state
        try:
            theta = store.get(version.theta_sha256)
            momentum = store.get(version.momentum_sha256)
        except SwarmError as error:
            if error.code is not Code.FRAGMENT_CORRUPT:
                raise
            continue
        if theta is not None and momentum is not None:
            found[version.fragment] = FragmentState(
                theta, momentum, version.version, version.theta_sha256, version.momentum_sha256
            )
    return found


def save_fragments(store: FragmentStore, fragments: dict[str, FragmentState]) -> None:
    """Write all fragments and remove those of earlier rounds. Raises `DISK_FULL`."""
    for state in fragments.values():
        store.put(state.theta_sha256, state.theta)
        store.put(state.momentum_sha256, state.momentum)
    hashes = [(s.theta_sha256, s.momentum_sha256) for s in fragments.values()]
    store.keep(h for pair in hashes for h in pair)
