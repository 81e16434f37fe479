"""`node eval DIR`: what a model knows of each domain, and which expert it takes for it."""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from node.exit_codes import OK
from node.parser import Verbs, add_command, positive_int
from swarm.errors import Code, SwarmError

if TYPE_CHECKING:
    from swarm.evaluation.report import Plan
    from swarm.model.transformer import Transformer

DEMO_DATA = tuple(f"{name}=demo:{name}" for name in ("python", "cpp", "maths", "english"))
EXAMPLES = """\
  node eval model                                   the four built-in corpora
  node eval model --data law=~/texts --data forum=posts.jsonl.gz
  node eval model --leave-one-out --top-k 1 2 4 --rank 1 4 16 --switch
  node eval model --data law=~/texts --unseen poems=poems.txt --extract --plots plots
Only the validation split is used: about one document in twenty, chosen by its hash; --extract
prompts with the training split and compares."""


def register(verbs: Verbs) -> None:
    """Add `node eval`."""
    parser = add_command(verbs, "eval", "measure a model on held-out text", EXAMPLES, run)
    parser.add_argument("model", type=Path, metavar="DIR", help="directory of the model")
    parser.add_argument(
        "--data", action="append", type=_named_source, metavar="NAME=PATH",
        help="a domain and its text, as for node start (default: the built-in corpora)",
    )  # fmt: skip
    parser.add_argument(
        "--unseen", action="append", type=_named_source, default=[], metavar="NAME=PATH",
        help="the same for a domain that no expert was trained on",
    )  # fmt: skip
    parser.add_argument(
        "--max-tokens", type=positive_int, default=100_000, metavar="N",
        help="measure on so many tokens of each domain (default: %(default)s)",
    )  # fmt: skip
    parser.add_argument(
        "--sequence-length", type=positive_int, metavar="N",
        help="context to predict in (default: as it was trained)",
    )  # fmt: skip
    parser.add_argument(
        "--threads", type=positive_int, default=1, metavar="N",
        help="CPU threads (default: %(default)s)",
    )  # fmt: skip
    _register_studies(parser)


def _register_studies(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--leave-one-out", action="store_true", help="each domain without one expert after another"
    )
    parser.add_argument(
        "--top-k", type=positive_int, nargs="+", default=[], metavar="K",
        help="with other numbers of active experts",
    )  # fmt: skip
    parser.add_argument(
        "--rank", type=positive_int, nargs="+", default=[], metavar="R",
        help="with the owners' experts cut to low rank; for assemblies of experts",
    )  # fmt: skip
    parser.add_argument(
        "--size", type=positive_int, nargs="+", default=[], metavar="N",
        help="with only N experts: similar ones merged, or the least used left out",
    )  # fmt: skip
    parser.add_argument(
        "--switch", action="store_true", help="texts that change their domain in the middle"
    )
    parser.add_argument(
        "--extract", action="store_true",
        help="how much of the training text comes out when it is prompted with pieces of it",
    )  # fmt: skip
    parser.add_argument(
        "--plots", type=Path, metavar="DIR", help="write PNG files too (needs matplotlib)"
    )


def run(args: argparse.Namespace) -> int:
    """Print bits per byte, routing, and what else was asked for."""
    import torch
    from rich.console import Console

    from node.evaluation_plots import require_matplotlib, write_plots
    from node.evaluation_tables import tables
    from swarm.data import prepare_corpus
    from swarm.evaluation.report import report

    if args.plots is not None:
        require_matplotlib()  # before minutes of work
    torch.set_num_threads(args.threads)
    model, names, plan = _model_and_plan(args)
    sources = [*(args.data or map(_named_source, DEMO_DATA)), *args.unseen]
    console = Console(highlight=False)
    with tempfile.TemporaryDirectory(prefix="eval-") as temporary:
        texts = {name: prepare_corpus(source, Path(temporary) / name) for name, source in sources}
        unseen = [name for name, _ in args.unseen]
        with Console(stderr=True).status("reading") as status:
            result = report(model, names, texts, plan, unseen, status.update)
    if args.json:
        print(json.dumps(result))
    else:
        for number, table in enumerate(tables(result)):
            console.print(*([] if number == 0 else [""]), table, sep="\n")
    if args.plots is not None:
        written = ", ".join(path.name for path in write_plots(result, args.plots))
        print(f"wrote {written} to {args.plots}", file=sys.stderr)
    return OK


def _model_and_plan(args: argparse.Namespace) -> tuple[Transformer, list[str], Plan]:
    """The model, its experts' names, and what to measure.

    Raises `USAGE` when the model is not fit for what was asked.
    """
    from swarm.assembly import load_assembly, load_model
    from swarm.assembly.isolated import ASSEMBLY_FILE
    from swarm.evaluation.report import Plan

    model, metadata = load_model(args.model)
    total = model.config.num_experts
    names, origins, first = [str(expert) for expert in range(total)], {}, 0
    if (args.model / ASSEMBLY_FILE).exists():
        assembly = load_assembly(args.model)
        first, cards = assembly.base_size, [signed.card for signed in assembly.cards]
        base = ["base"] if first == 1 else [f"base {expert}" for expert in range(first)]
        names = [*base, *(card.domain for card in cards)]
        origins = {first + place: card.origins for place, card in enumerate(cards)}
    if args.rank and not origins:
        raise SwarmError(
            Code.USAGE, "--rank needs an assembly of owners' experts", "see: node assemble --help"
        )
    if beyond := [k for k in args.top_k if k > total]:
        raise SwarmError(Code.USAGE, f"--top-k {beyond[0]}: the model has {total} experts")
    if wrong := [size for size in args.size if not min(first + 1, total) <= size <= total]:
        raise SwarmError(
            Code.USAGE, f"--size {wrong[0]}: need {min(first + 1, total)} to {total} experts"
        )
    if args.leave_one_out and total == 1:
        raise SwarmError(Code.USAGE, "--leave-one-out: the model has only one expert")
    plan = Plan(
        sequence_length=args.sequence_length
        or metadata.get("provenance", {}).get("sequence_length"),
        limit_tokens=args.max_tokens,
        leave_out=range(first, total) if args.leave_one_out else (),
        top_k=args.top_k,
        ranks=args.rank,
        origins=origins,
        sizes=args.size,
        protected=first,
        switches=args.switch,
        extraction=args.extract,
    )
    return model, names, plan


def _named_source(text: str) -> tuple[str, str]:
    name, separator, source = text.partition("=")
    if not separator or not name or "/" in name or not source:
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME=PATH")
    return name, source
