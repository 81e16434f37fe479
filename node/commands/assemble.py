"""`node assemble`: write a whole model, from a run's newest commit or from owners' experts."""

from __future__ import annotations

import argparse
import asyncio
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from node.control_client import ControlClient
from node.exit_codes import OK
from node.parser import Verbs, add_command, positive_int
from node.paths import default_directory
from node.text import plural
from swarm.config import RunManifest
from swarm.errors import Code, SwarmError

EXAMPLES = """\
  node assemble --run RUN.toml --out model                    through the node that runs here
  node assemble --run RUN.toml --out model --peer ADDRESS     through any peer of the run
  node assemble --run RUN.toml --out model --dir ~/nodes/law
  node assemble --base base --expert law --expert experts/medicine --out model
  node assemble --base base --expert law --expert medicine --exclude law --out model
  node assemble --base base --expert law --expert medicine --tune-router public.jsonl --out model
Writes model.safetensors and config.json, which Hugging Face transformers loads."""


def register(verbs: Verbs) -> None:
    """Add `node assemble`."""
    parser = add_command(
        verbs,
        "assemble",
        "write a model from a run, or from a base and owners' experts",
        EXAMPLES,
        run,
    )
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument(
        "--run", dest="manifest", type=Path, metavar="RUN.toml", help="manifest of the run"
    )
    source.add_argument("--base", type=Path, metavar="DIR", help="base of the experts")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="directory to write")
    of_run = parser.add_argument_group("with --run")
    of_run.add_argument(
        "--peer", action="append", default=[], metavar="ADDRESS", dest="peers",
        help="a peer to ask, several are better",
    )  # fmt: skip
    of_run.add_argument(
        "--dir", type=Path, metavar="DIR",
        help="ask through the node of this directory (default: by the run's name)",
    )  # fmt: skip
    _add_expert_arguments(parser)


def _add_expert_arguments(parser: argparse.ArgumentParser) -> None:
    of_base = parser.add_argument_group("with --base")
    of_base.add_argument(
        "--expert", action="append", type=Path, default=[], metavar="DIR", dest="experts",
        help="directory of an expert, for each one",
    )  # fmt: skip
    of_base.add_argument(
        "--include", action="append", metavar="NAME",
        help="take only these of them, by domain or id (default: all)",
    )  # fmt: skip
    of_base.add_argument(
        "--exclude", action="append", default=[], metavar="NAME",
        help="leave these out; nothing of them is in the model",
    )  # fmt: skip
    of_base.add_argument(
        "--top-k", type=positive_int, metavar="K",
        help="experts that process a token (default: three more than in the base)",
    )  # fmt: skip
    of_base.add_argument(
        "--margin", type=float, metavar="X",
        help="how much is left to the base beside the experts: added to its router biases "
        "(default: grows with their number, 0 for one, below 2.5 for many)",
    )  # fmt: skip
    of_base.add_argument(
        "--tune-router", action="append", default=[], metavar="PROXY",
        help="public text like the experts' own, to tune the router on; kept in files of its own, "
        "which can be removed",
    )  # fmt: skip
    of_base.add_argument(
        "--tune-steps", type=positive_int, default=200, metavar="N",
        help="steps of the tuning (default: %(default)s)",
    )  # fmt: skip


def run(args: argparse.Namespace) -> int:
    """Assemble the run's newest state, or the base's experts."""
    of_run = {"--peer": args.peers, "--dir": args.dir}
    if args.base is not None:
        _refuse(of_run, "--run")
        return _assemble_experts(args)
    of_base = {
        "--expert": args.experts, "--include": args.include, "--exclude": args.exclude,
        "--top-k": args.top_k, "--margin": args.margin, "--tune-router": args.tune_router,
    }  # fmt: skip
    _refuse(of_base, "--base")
    manifest = RunManifest.load(args.manifest)
    addresses = list(args.peers)
    if args.dir is not None or not addresses:
        addresses += _addresses_of_node(manifest, args.dir or default_directory(manifest.name))
    report = _silent if args.json else print
    facts = assemble_run(manifest, addresses, args.out, report)
    done = f"wrote round {facts['provenance']['round']} to {args.out}"
    print(json.dumps(facts) if args.json else done)
    return OK


def _refuse(options: Mapping[str, object], source: str) -> None:
    """Raise `USAGE` when one of these options was given: they have an effect with `source` only."""
    for name, value in options.items():
        if value not in (None, []):
            raise SwarmError(Code.USAGE, f"{name} goes with {source}", "see: node assemble --help")


def _assemble_experts(args: argparse.Namespace) -> int:
    from node.experts.assembling import AssemblyRequest, assemble_from

    request = AssemblyRequest(
        base=args.base,
        experts=args.experts,
        include=args.include,
        exclude=args.exclude,
        top_k=args.top_k,
        margin=args.margin,
        proxies=args.tune_router,
        tuning_steps=args.tune_steps,
    )
    content = assemble_from(request, args.out, _silent if args.json else print)
    experts = plural(len(content["cards"]), "expert")
    print(json.dumps(content) if args.json else f"wrote the base and {experts} to {args.out}")
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
        return list(control.status_in(manifest).addresses)


def _silent(line: str) -> None:
    pass
