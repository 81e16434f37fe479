"""A run in one file: its manifest, its newest commit, and the fragments that a node has of it.

    export_run(directory, manifest, Path("law.run"))     # from a node's directory
    import_run(Path("law.run"), other_directory)         # a node that starts there goes on from it

safetensors: tensors `<fragment>/theta` and `<fragment>/momentum` (flat fp32), the rest as metadata.
Nothing private is in it: no key, no text, no optimizer state. Everything in it is checked when it
is read: the commit by its votes, the fragments by the hashes in the commit.
"""

from __future__ import annotations

import base64
from dataclasses import dataclass
from pathlib import Path

import safetensors
import safetensors.numpy
from google.protobuf.message import DecodeError

from node.node_files import load_fragments, node_lock, require_same_run, save_fragments
from swarm.collective.consensus import verify_commit
from swarm.collective.ledger import Ledger
from swarm.collective.state import FragmentState
from swarm.config import RunManifest
from swarm.errors import Code, SwarmError
from swarm.experts.store import FragmentStore
from swarm.files import write_atomic
from swarm.identity import verify
from swarm.wire import collective_pb2 as pb

FORMAT = "expertswarm run 1"
TRIES = 3  # a node that runs may remove what a commit before its newest one names


@dataclass(frozen=True)
class RunFile:
    """What a file holds, checked. `missing`: fragments of the commit that are not in it."""

    manifest: RunManifest
    commit: pb.Commit
    record: pb.RoundRecord
    fragments: dict[str, FragmentState]

    @property
    def missing(self) -> list[str]:
        """Names, sorted."""
        names = {outcome.state.fragment for outcome in self.record.fragments}
        return sorted(names - self.fragments.keys())


def export_run(directory: Path, manifest: RunManifest, path: Path) -> RunFile:
    """Write what the node in `directory` has of the newest commit that it knows to `path`.

    The node may be running. Raises `USAGE` when it has no commit, `RUN_MISMATCH` when it is of
    another run, `DISK_FULL` or `DIR_NOT_WRITABLE`.
    """
    for _ in range(TRIES):
        found = _newest(directory, manifest, path)
        if not found.missing:
            break
    tensors = {}
    for name, state in found.fragments.items():
        tensors[f"{name}/theta"], tensors[f"{name}/momentum"] = state.theta, state.momentum
    metadata = {
        "format": FORMAT,
        "manifest": manifest.to_toml(),
        "commit": base64.b64encode(found.commit.SerializeToString()).decode(),
    }
    write_atomic(path, safetensors.numpy.save(tensors, metadata=metadata))
    return found


def _newest(directory: Path, manifest: RunManifest, path: Path) -> RunFile:
    ledger = Ledger(directory)
    commit, record = ledger.commit, ledger.record
    if commit is None or record is None:
        raise SwarmError(
            Code.USAGE, f"{directory} has no commit of a run", "name a node's directory: --dir"
        )
    require_same_run(directory, path, manifest, record)
    store = FragmentStore(directory / "fragments")
    return RunFile(manifest, commit, record, load_fragments(store, record))


def read_run(path: Path) -> RunFile:
    """Read and check a file.

    Raises `CHECKPOINT_CORRUPT` when it is not such a file or damaged, `COMMIT_INVALID` when its
    commit is not one of its run.
    """
    try:
        with safetensors.safe_open(path, framework="np") as file:
            metadata = file.metadata() or {}
            if metadata.get("format") != FORMAT:
                raise ValueError("it is not an exported run of this version")
            manifest = RunManifest.from_toml(metadata["manifest"])
            commit = pb.Commit.FromString(base64.b64decode(metadata["commit"]))
            record = verify_commit(commit, manifest.run_id, verify)
            names = set(file.keys())
            fragments = {}
            for outcome in record.fragments:
                name, version = outcome.state.fragment, outcome.state
                if f"{name}/theta" in names:
                    theta = file.get_tensor(f"{name}/theta")
                    momentum = file.get_tensor(f"{name}/momentum")
                    fragments[name] = state = FragmentState.of(theta, momentum, version.version)
                    if not state.matches(version):
                        raise ValueError(f"{name} does not have the hash that was agreed")
    except (OSError, KeyError, ValueError, DecodeError, safetensors.SafetensorError) as error:
        raise SwarmError(
            Code.CHECKPOINT_CORRUPT, f"{path}: {error}", "export it again, or copy it again"
        ) from error
    return RunFile(manifest, commit, record, fragments)


def import_run(path: Path, directory: Path, manifest_path: Path) -> RunFile:
    """Put an exported run into a node's directory, and its manifest to `manifest_path`.

    Raises as `read_run`; `USAGE` when the directory has a commit, or the manifest's file is of
    another run; `NODE_ALREADY_RUNNING`; `DISK_FULL` or `DIR_NOT_WRITABLE`.
    """
    run = read_run(path)
    with node_lock(directory):
        if (directory / "commit.bin").exists():
            raise SwarmError(
                Code.USAGE, f"{directory} has a commit already", "name a new directory with --dir"
            )
        if not manifest_path.exists():
            write_atomic(manifest_path, run.manifest.to_toml().encode())
        elif RunManifest.load(manifest_path).run_id != run.manifest.run_id:
            raise SwarmError(
                Code.USAGE, f"{manifest_path} is of another run", "name another file with --run"
            )
        save_fragments(FragmentStore(directory / "fragments"), run.fragments)
        Ledger(directory).save_commit(run.commit)  # last: it says that the rest is there
    return run
