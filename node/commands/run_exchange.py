"""`node run export` and `node run import`: a run's newest state in one file."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING

from node.exit_codes import OK
from node.parser import Verbs, add_command
from node.paths import default_directory
from swarm.config import RunManifest

if TYPE_CHECKING:
    from node.run_file import RunFile


def register_exchange(actions: Verbs) -> None:
    """Add `node run export` and `node run import`."""
    writes = add_command(
        actions, "export", "write a run's newest state, as a node has it, to one file",
        "  node run export law.run --run RUN.toml\n"
        "  node run export law.run --run RUN.toml --dir ~/nodes/law\n"
        "No key, text or optimizer state is in the file.",
        export,
    )  # fmt: skip
    _add_places(writes, "file to write", "manifest of the run", "directory of the node")
    reads = add_command(
        actions, "import", "make a node's directory from an exported run",
        "  node run import law.run --run RUN.toml\n"
        "  node run import law.run --run RUN.toml --dir ~/nodes/law\n"
        "A node that starts there has the state without downloading it.",
        import_,
    )  # fmt: skip
    manifest = "manifest of the run; written if it is not there"
    _add_places(reads, "file that was exported", manifest, "directory to make")


def _add_places(parser: argparse.ArgumentParser, file: str, manifest: str, directory: str) -> None:
    """Both verbs are between the same three places; each says what they are to it."""
    parser.add_argument("file", type=Path, metavar="FILE", help=file)
    parser.add_argument(
        "--run", dest="manifest", type=Path, required=True, metavar="RUN.toml", help=manifest
    )
    parser.add_argument(
        "--dir", type=Path, metavar="DIR", help=f"{directory} (default: by the run's name)"
    )


def export(args: argparse.Namespace) -> int:
    """Write the newest state of a run to a file."""
    from node.run_file import export_run

    manifest = RunManifest.load(args.manifest)
    done = export_run(args.dir or default_directory(manifest.name), manifest, args.file)
    _say(args, done, f"wrote round {done.record.round} of {manifest.name} to {args.file}")
    return OK


def import_(args: argparse.Namespace) -> int:
    """Make a node's directory from a file."""
    from node.run_file import import_run, read_run

    directory = args.dir or default_directory(read_run(args.file).manifest.name)
    done = import_run(args.file, directory, args.manifest)
    _say(args, done, f"{directory} has round {done.record.round} of {done.manifest.name}")
    return OK


def _say(args: argparse.Namespace, done: RunFile, line: str) -> None:
    if args.json:
        facts = {"run_id": done.manifest.run_id.hex(), "round": int(done.record.round)}
        print(json.dumps({**facts, "fragments": sorted(done.fragments), "missing": done.missing}))
        return
    print(line)
    if done.missing:
        print(f"without {', '.join(done.missing)}, which the node does not keep")
