"""`node run`: found a run by writing its manifest, its key, and the model that it begins with."""

from __future__ import annotations

import argparse
import dataclasses
import json
from pathlib import Path
from typing import TYPE_CHECKING

from node.commands.run_change import register_changes
from node.commands.run_exchange import register_exchange
from node.commands.ticket import register_ticket
from node.exit_codes import OK
from node.parser import Verbs, add_command, positive_int
from node.paths import genesis_path
from swarm.config import RunManifest
from swarm.errors import Code, SwarmError
from swarm.files import write_atomic
from swarm.model.config import ModelConfig
from swarm.presets import PRESETS, preset

if TYPE_CHECKING:
    from swarm.model.transformer import Transformer

EXAMPLES = """\
  node run init RUN.toml                              8 experts, founded by 2 peers
  node run init RUN.toml --name law --peers 4         4 peers, 2 experts each
  node run init RUN.toml --preset spes --peers 4      as SPES does it: other presets in --help
  node run init RUN.toml --experts 16 --peers 8 --seed 7
  node run init RUN.toml --closed                     only with a ticket: node run ticket
  node run init RUN.toml --from assembly --peers 4    begin with a model, not with a seed
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
        "--experts", type=positive_int, metavar="N",
        help=f"routed experts per layer (default: {model.num_experts}, or those of the model)",
    )  # fmt: skip
    parser.add_argument(
        "--from", dest="model", type=Path, metavar="DIR",
        help="model to begin with, of node assemble or node base make; its weights are written "
        "beside the manifest as RUN.genesis",
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
    register_exchange(actions)


def run(args: argparse.Namespace) -> int:
    """Write the manifest and the run key, and the weights of a model to begin with."""
    paths = [args.manifest, args.manifest.with_suffix(".key")]
    if args.model is not None:
        paths.append(genesis_path(args.manifest))
    for path in paths:
        if path.exists() and not args.force:
            raise SwarmError(
                Code.USAGE, f"{path} exists", "choose another name, or overwrite it with --force"
            )
    model = _given_model(args)
    config = model.config if model is not None else _dimensions(args.experts)
    manifest = found_run(_manifest(args, config), args.manifest, model, closed=args.closed)
    if args.json:
        names = ("manifest", "key", "genesis")
        facts = dict(zip(names, map(str, paths), strict=False))
        print(json.dumps({**facts, "name": manifest.name, "run_id": manifest.run_id.hex()}))
        return OK
    written = " and ".join(map(str, paths[1:]))
    print(f"wrote {args.manifest} (run {manifest.run_id.hex()[:16]}) and {written}")
    share = "a ticket (node run ticket)" if args.closed else "the .toml"
    print(f"Give {share} to everybody who takes part; keep the .key to yourself.")
    if model is not None:
        print(f"One founder needs {paths[2].name} beside the .toml; the others download from him.")
    print(f"next: node start --run {args.manifest} --data PATH --domain NAME")
    return OK


def _manifest(args: argparse.Namespace, config: ModelConfig) -> RunManifest:
    base = RunManifest()
    held = args.experts_per_peer or max(1, min(2, config.num_experts // args.peers))
    length = min(base.training.sequence_length, config.context_length)
    manifest = dataclasses.replace(
        base,
        name=args.name or args.manifest.stem,
        model=config.finer(args.finer),
        training=dataclasses.replace(base.training, sequence_length=length),
        sync=dataclasses.replace(
            base.sync,
            experts_per_peer=held * args.finer,
            trunk_fragments=min(base.sync.trunk_fragments, config.num_layers),
        ),
        membership=dataclasses.replace(base.membership, min_peers=args.peers),
        genesis=dataclasses.replace(base.genesis, seed=args.seed),
    )
    return preset(args.preset, manifest) if args.preset else manifest


def _given_model(args: argparse.Namespace) -> Transformer | None:
    """The model to begin with, if there is to be one; it says how many experts there are."""
    if args.model is None:
        return None
    if args.experts is not None or args.finer != 1:
        raise SwarmError(
            Code.USAGE, "the model says what experts there are", "leave --experts and --finer away"
        )
    from swarm.assembly.loading import load_model

    return load_model(args.model)[0]


def _dimensions(experts: int | None) -> ModelConfig:
    base = ModelConfig()
    count = base.num_experts if experts is None else experts
    return dataclasses.replace(base, num_experts=count, top_k=min(base.top_k, count))


def found_run(
    manifest: RunManifest, path: Path, model: Transformer | None = None, *, closed: bool = False
) -> RunManifest:
    """Write `manifest`, completed with its run key and initial state, to `path`.

    The key goes beside it with the suffix .key, mode 0600; with a `model` that the run begins
    with, its fragments too, with the suffix .genesis. Files that are there are replaced. Raises
    `DIR_NOT_WRITABLE` or `DISK_FULL`.
    """
    from swarm.identity import Identity, public_key_of

    key_path = path.with_suffix(".key")
    key_path.unlink(missing_ok=True)
    if model is None:
        manifest = _with_seed(manifest)
    else:
        from swarm.assembly.founding import found_with
        from swarm.training.genesis import write_genesis

        manifest, fragments = found_with(manifest, model)
        write_genesis(genesis_path(path), fragments)
    identity = Identity.load_or_create(key_path)
    complete = dataclasses.replace(
        manifest, run_public_key=public_key_of(identity.peer_id).public_bytes_raw().hex()
    )
    if closed:
        membership = dataclasses.replace(complete.membership, admission="ticket")
        complete = dataclasses.replace(complete, membership=membership)
    write_atomic(path, complete.to_toml().encode())
    return complete


def _with_seed(manifest: RunManifest) -> RunManifest:
    from swarm.model.fragments import fragment_hash, initial_fragment, state_root
    from swarm.training.genesis import layout_of

    layout = layout_of(manifest)
    seed = manifest.genesis.seed
    hashes = {
        name: fragment_hash(initial_fragment(manifest.model, layout, name, seed))
        for name in layout.names
    }
    genesis = dataclasses.replace(manifest.genesis, state_root=state_root(hashes).hex())
    return dataclasses.replace(manifest, genesis=genesis)
