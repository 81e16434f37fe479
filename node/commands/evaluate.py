"""`node eval DIR`: bits per byte of an assembled model on held-out text."""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

from node.exit_codes import OK
from node.parser import Verbs, add_command, positive_int

DEMO_DATA = tuple(f"{name}=demo:{name}" for name in ("python", "cpp", "maths", "english"))
EXAMPLES = """\
  node eval model                                   the four built-in corpora
  node eval model --data law=~/texts --data forum=posts.jsonl.gz
Only the validation split is used: about one document in twenty, chosen by its hash."""


def register(verbs: Verbs) -> None:
    """Add `node eval`."""
    parser = add_command(verbs, "eval", "measure a model on held-out text", EXAMPLES, run)
    parser.add_argument("model", type=Path, metavar="DIR", help="directory of node assemble")
    parser.add_argument(
        "--data", action="append", type=_named_source, metavar="NAME=PATH",
        help="a domain and its text, as for node start (default: the built-in corpora)",
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


def run(args: argparse.Namespace) -> int:
    """Print bits per byte and the routing of each domain."""
    import torch
    from rich.console import Console

    from swarm.assembly import load_model
    from swarm.data import prepare_corpus
    from swarm.evaluation import measure

    torch.set_num_threads(args.threads)
    model, metadata = load_model(args.model)
    length = args.sequence_length or metadata.get("provenance", {}).get("sequence_length")
    results: dict[str, dict[str, Any]] = {}
    with tempfile.TemporaryDirectory(prefix="eval-") as temporary:
        for name, source in args.data or map(_named_source, DEMO_DATA):
            corpus = prepare_corpus(source, Path(temporary) / name)
            found = measure(model, corpus.valid, length, limit_tokens=args.max_tokens)
            results[name] = {
                "bits_per_byte": found.bits_per_byte,
                "tokens": found.tokens,
                "routing": found.routing_shares.mean(axis=0).tolist(),
            }
    if args.json:
        print(json.dumps({"domains": results}))
        return OK
    Console(highlight=False).print(_table(results))
    return OK


def _table(results: dict[str, dict[str, Any]]) -> Any:
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("domain")
    for column in ("bits per byte", "tokens"):
        table.add_column(column, justify="right")
    table.add_column("share of tokens by expert")
    for name, result in results.items():
        shares = " ".join(f"{share:.0%}" for share in result["routing"])
        table.add_row(name, f"{result['bits_per_byte']:.4f}", str(result["tokens"]), shares)
    return table


def _named_source(text: str) -> tuple[str, str]:
    name, separator, source = text.partition("=")
    if not separator or not name or "/" in name or not source:
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME=PATH")
    return name, source
