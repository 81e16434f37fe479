"""`node run`: found a run by writing its manifest and its key, tickets, export and import."""

from __future__ import annotations

import argparse
import dataclasses
import json
from pathlib import Path
from typing import TYPE_CHECKING

from node.commands.run_change import register_changes
from node.commands.ticket import register_ticket
from node.exit_codes import OK
from node.parser import Verbs, add_command, positive_int
from node.paths import default_directory
from swarm.config import RunManifest
from swarm.errors import Code, SwarmError
from swarm.files import write_atomic
from swarm.model.config import ModelConfig
from swarm.presets import PRESETS, preset

if TYPE_CHECKING:
    from node.run_file import RunFile

EXAMPLES = """\
  node run init RUN.toml                              8 experts, founded by 2 peers
  node run init RUN.toml --name law --peers 4         4 peers, 2 experts each
  node run init RUN.toml --preset spes --peers 4      as SPES does it: other presets in --help
  node run init RUN.toml --experts 16 --peers 8 --seed 7
  node run init RUN.toml --closed                     only with a ticket: node run ticket
Edit the file before the first start only: a changed manifest is another run."""


def register(verbs: Verbs) -> None:
    """Add `node run` with its actions."""
    group = add_command(verbs, "run", "make what all peers of a run share", EXAMPLES)
    actions = group.add_subparsers(dest="action", metavar="ACTION", required=True)
    parser = add_command(
        actions, "init", "write a run's manifest, with a comment on every field, and its key",
        EXAMPLES, run,
    )  # fmt: skip
    model = ModelConfig()
    parser.add_argument("manifest", type=Path, metavar="RUN.toml", help="file to write")
    parser.add_argument("--name", help="name of the run, for people (default: the file's name)")
    parser.add_argument(
        "--experts", type=positive_int, default=model.num_experts, metavar="N",
        help="routed experts per layer (default: %(default)s)",
    )  # fmt: skip
    parser.add_argument(
        "--peers", type=positive_int, default=2, metavar="N",
        help="peers that found the run and share the experts (default: %(default)s)",
    )  # fmt: skip
    parser.add_argument(
        "--experts-per-peer", type=positive_int, metavar="N",
        help="experts that each peer holds (default: experts / peers, at most 2)",
    )  # fmt: skip
    parser.add_argument(
        "--seed", type=int, default=0, metavar="N", help="seed of the initial weights (default: 0)"
    )
    parser.add_argument(
        "--closed", action="store_true",
        help="let in only peers with a ticket (default: whoever has the manifest)",
    )  # fmt: skip
    parser.add_argument(
        "--preset", choices=sorted(PRESETS), metavar="NAME",
        help="values to start from: spes, diloco, held or streaming (default: DiLoCo with SPES' "
        "split of the experts)",
    )  # fmt: skip
    parser.add_argument(
        "--finer", type=positive_int, default=1, metavar="N",
        help="cut each expert into N narrower ones, of which a token takes N times as many",
    )  # fmt: skip
    parser.add_argument("--force", action="store_true", help="overwrite both files")
    register_ticket(actions)
    register_changes(actions)
    _register_export(actions)
    _register_import(actions)


def _register_export(actions: Verbs) -> None:
    parser = add_command(
        actions, "export", "write a run's newest state, as a node has it, to one file",
        "  node run export law.run --run RUN.toml\n"
        "  node run export law.run --run RUN.toml --dir ~/nodes/law\n"
        "No key, text or optimizer state is in the file.",
        export,
    )  # fmt: skip
    parser.add_argument("file", type=Path, metavar="FILE", help="file to write")
    parser.add_argument(
        "--run", dest="manifest", type=Path, required=True, metavar="RUN.toml",
        help="manifest of the run",
    )  # fmt: skip
    parser.add_argument(
        "--dir", type=Path, metavar="DIR", help="directory of the node (default: by the run's name)"
    )


def _register_import(actions: Verbs) -> None:
    parser = add_command(
        actions, "import", "make a node's directory from an exported run",
        "  node run import law.run --run RUN.toml\n"
        "  node run import law.run --run RUN.toml --dir ~/nodes/law\n"
        "A node that starts there has the state without downloading it.",
        import_,
    )  # fmt: skip
    parser.add_argument("file", type=Path, metavar="FILE", help="file that was exported")
    parser.add_argument(
        "--run", dest="manifest", type=Path, required=True, metavar="RUN.toml",
        help="manifest of the run; written if it is not there",
    )  # fmt: skip
    parser.add_argument(
        "--dir", type=Path, metavar="DIR", help="directory to make (default: by the run's name)"
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


def run(args: argparse.Namespace) -> int:
    """Write the manifest and the run key."""
    key_path = args.manifest.with_suffix(".key")
    for path in (args.manifest, key_path):
        if path.exists() and not args.force:
            raise SwarmError(
                Code.USAGE, f"{path} exists", "choose another name, or overwrite it with --force"
            )
    held = args.experts_per_peer or max(1, min(2, args.experts // args.peers))
    base = RunManifest()
    model = dataclasses.replace(
        base.model, num_experts=args.experts, top_k=min(base.model.top_k, args.experts)
    )
    manifest = dataclasses.replace(
        base,
        name=args.name or args.manifest.stem,
        model=model.finer(args.finer),
        sync=dataclasses.replace(base.sync, experts_per_peer=held * args.finer),
        membership=dataclasses.replace(base.membership, min_peers=args.peers),
        genesis=dataclasses.replace(base.genesis, seed=args.seed),
    )
    if args.preset:
        manifest = preset(args.preset, manifest)
    manifest = found_run(manifest, args.manifest, closed=args.closed)
    if args.json:
        facts = {"manifest": str(args.manifest), "key": str(key_path), "name": manifest.name}
        print(json.dumps({**facts, "run_id": manifest.run_id.hex()}))
    else:
        print(f"wrote {args.manifest} (run {manifest.run_id.hex()[:16]}) and {key_path}")
        share = "a ticket (node run ticket)" if args.closed else "the .toml"
        print(f"Give {share} to everybody who takes part; keep the .key to yourself.")
        print(f"next: node start --run {args.manifest} --data PATH --domain NAME")
    return OK


def found_run(manifest: RunManifest, path: Path, *, closed: bool = False) -> RunManifest:
    """Write `manifest`, completed with its run key and initial state, to `path`.

    The key goes beside it with the suffix .key, mode 0600. Both files are replaced when there.
    Raises `DIR_NOT_WRITABLE` or `DISK_FULL`.
    """
    from swarm.identity import Identity, public_key_of
    from swarm.model.fragments import FragmentLayout, fragment_hash, initial_fragment, state_root

    key_path = path.with_suffix(".key")
    key_path.unlink(missing_ok=True)
    layout = FragmentLayout.of(
        manifest.model, manifest.sync.trunk_fragments, manifest.sync.router_rows
    )
    seed = manifest.genesis.seed
    hashes = {
        name: fragment_hash(initial_fragment(manifest.model, layout, name, seed))
        for name in layout.names
    }
    genesis = dataclasses.replace(manifest.genesis, state_root=state_root(hashes).hex())
    identity = Identity.load_or_create(key_path)
    complete = dataclasses.replace(
        manifest,
        genesis=genesis,
        run_public_key=public_key_of(identity.peer_id).public_bytes_raw().hex(),
    )
    if closed:
        membership = dataclasses.replace(complete.membership, admission="ticket")
        complete = dataclasses.replace(complete, membership=membership)
    write_atomic(path, complete.to_toml().encode())
    return complete
