"""`node assemble`: fetch the newest commit of a run from its peers and write the whole model."""

from __future__ import annotations

import argparse
import asyncio
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from node.control_client import ControlClient
from node.exit_codes import OK
from node.parser import Verbs, add_command
from node.paths import default_directory
from swarm.config import RunManifest
from swarm.errors import Code, SwarmError

EXAMPLES = """\
  node assemble --run RUN.toml --out model                    through the node that runs here
  node assemble --run RUN.toml --out model --peer ADDRESS     through any peer of the run
  node assemble --run RUN.toml --out model --dir ~/nodes/law
Writes model.safetensors and config.json, which Hugging Face transformers loads."""


def register(verbs: Verbs) -> None:
    """Add `node assemble`."""
    parser = add_command(
        verbs, "assemble", "download all fragments of a run and write the model", EXAMPLES, run
    )
    parser.add_argument(
        "--run", dest="manifest", type=Path, required=True, metavar="RUN.toml",
        help="manifest of the run",
    )  # fmt: skip
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="directory to write")
    parser.add_argument(
        "--peer", action="append", default=[], metavar="ADDRESS", dest="peers",
        help="a peer to ask, several are better",
    )  # fmt: skip
    parser.add_argument(
        "--dir", type=Path, metavar="DIR",
        help="ask through the node of this directory (default: by the run's name)",
    )  # fmt: skip


def run(args: argparse.Namespace) -> int:
    """Assemble the run's newest state."""
    manifest = RunManifest.load(args.manifest)
    addresses = list(args.peers)
    if args.dir is not None or not addresses:
        addresses += _addresses_of_node(manifest, args.dir or default_directory(manifest.name))
    report = _silent if args.json else print
    facts = assemble_run(manifest, addresses, args.out, report)
    done = f"wrote round {facts['provenance']['round']} to {args.out}"
    print(json.dumps(facts) if args.json else done)
    return OK


def assemble_run(
    manifest: RunManifest, addresses: Sequence[str], out: Path, report: Callable[[str], None]
) -> dict[str, Any]:
    """Fetch the newest commit through `addresses` and write the model to `out`.

    Returns what was assembled, as it is also written to `out`/expertswarm.json. Raises as
    `fetch_newest`, and `DISK_FULL` or `DIR_NOT_WRITABLE`.
    """
    from node.fetch import fetch_newest
    from swarm.assembly import assemble

    state = asyncio.run(fetch_newest(manifest, addresses, report))
    hashes = {f.state.fragment: f.state.theta_hash for f in state.record.fragments}
    provenance = {
        "commit_id": state.commit_id.hex(),
        "branch": state.record.branch.hex(),
        "round": state.record.round,
        "committed_tokens": state.record.committed_tokens,
        "roster": sorted(state.record.roster),
        "sequence_length": manifest.training.sequence_length,
    }
    return assemble(manifest, state.fragments, hashes, out, provenance)


def _addresses_of_node(manifest: RunManifest, directory: Path) -> list[str]:
    with ControlClient(directory) as control:
        status = control.status()
    if status.run_id != manifest.run_id.hex():
        raise SwarmError(
            Code.RUN_MISMATCH,
            f"the node in {directory} is in run {status.run_id[:16]}, "
            f"the manifest is of run {manifest.run_id.hex()[:16]}",
            "name the manifest of that run, or another node with --dir",
        )
    return list(status.addresses)


def _silent(line: str) -> None:
    pass
