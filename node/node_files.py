"""The files of one node's directory: the lock that makes it one node's, and the saved fragments.

What a node trains on is private, so nobody but its user may read the directory or a file in it.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import stat
from collections.abc import Iterator, Mapping
from pathlib import Path

from node.paths import make_directory
from swarm.collective.state import FragmentState
from swarm.config import RunManifest
from swarm.errors import Code, SwarmError
from swarm.experts.store import FragmentStore
from swarm.files import storage_error
from swarm.wire import collective_pb2 as pb


@contextlib.contextmanager
def node_lock(directory: Path) -> Iterator[None]:
    """Make the directory private and hold it.

    Raises `NODE_ALREADY_RUNNING` when another process does, or `DIR_NOT_WRITABLE`.
    """
    make_directory(directory)
    path = directory / "node.lock"
    try:
        if not directory.stat().st_mode & stat.S_ISVTX:  # not /tmp itself, which is everybody's
            directory.chmod(0o700)
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


def require_free(directory: Path) -> None:
    """Raise `NODE_ALREADY_RUNNING` when a node runs in the directory."""
    with node_lock(directory):
        pass


def require_same_run(
    directory: Path, manifest_path: Path, manifest: RunManifest, record: pb.RoundRecord | None
) -> None:
    """Raise `RUN_MISMATCH` when the newest commit of a node is of another run than its manifest."""
    if record is not None and record.run_id != manifest.run_id:
        raise SwarmError(
            Code.RUN_MISMATCH,
            f"{directory} belongs to run {record.run_id.hex()[:16]}, "
            f"{manifest_path} is run {manifest.run_id.hex()[:16]}",
            "give this run its own directory with --dir",
        )


def load_fragments(store: FragmentStore, record: pb.RoundRecord | None) -> dict[str, FragmentState]:
    """Fragments of the last known commit that are on disk whole; the rest comes from the swarm."""
    outcomes = record.fragments if record is not None else []
    found = {o.state.fragment: load_fragment(store, o.state) for o in outcomes}
    return {name: state for name, state in found.items() if state is not None}


def load_fragment(store: FragmentStore, version: pb.FragmentVersion) -> FragmentState | None:
    """A fragment that is on disk whole, or None. Raises `DIR_NOT_WRITABLE`."""
    try:
        theta = store.get(version.theta_hash)
        momentum = store.get(version.momentum_hash)
    except SwarmError as error:
        if error.code is not Code.FRAGMENT_CORRUPT:
            raise
        return None
    if theta is None or momentum is None:
        return None
    return FragmentState(
        theta, momentum, version.version, version.theta_hash, version.momentum_hash
    )


def save_fragments(
    store: FragmentStore, fragments: Mapping[str, FragmentState], *, sync: bool = True
) -> None:
    """Write the fragments that are not there yet. Raises `DISK_FULL` or `DIR_NOT_WRITABLE`.

    Without `sync` they do not outlive a power cut.
    """
    for state in fragments.values():
        store.put(state.theta_hash, state.theta, sync=sync)
        store.put(state.momentum_hash, state.momentum, sync=sync)
