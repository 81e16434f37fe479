"""`node base make`: a frozen public model that owners train their experts beside."""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from node.exit_codes import OK
from node.parser import Verbs, add_command

if TYPE_CHECKING:
    from swarm.model.transformer import Transformer

EXAMPLES = """\
  node base make base --from model --data ~/public-texts       from what node assemble wrote
  node base make base --from OLMo-dir --data a.jsonl.gz --data b.txt
  node base make base --from model --data ~/public-texts --embedding ngrams
The public texts fix what "like the public text" means for the routers of all experts, and up to
200000 tokens of them are kept in the base, as public.npy: owners train on them too.
Publish the directory; its id is on the card of every expert trained beside it."""


def register(verbs: Verbs) -> None:
    """Add `node base make`."""
    group = add_command(verbs, "base", "make the public model that experts build on", EXAMPLES)
    actions = group.add_subparsers(dest="action", metavar="ACTION", required=True)
    parser = add_command(actions, "make", "freeze a model as a base", EXAMPLES, run)
    parser.add_argument("out", type=Path, metavar="OUT", help="directory to write")
    parser.add_argument(
        "--from", dest="source", type=Path, required=True, metavar="DIR",
        help="model of node assemble --run, or a Hugging Face flex_olmo, olmoe or olmo2 directory",
    )  # fmt: skip
    parser.add_argument(
        "--data", action="append", required=True, metavar="PATH",
        help="public text, as for node start; several are taken in equal parts",
    )  # fmt: skip
    parser.add_argument(
        "--embedding", choices=("states", "ngrams"), default="states", metavar="KIND",
        help="what tells the domain of an owner's text: states, the model's hidden states, or "
        "ngrams, counts of hashed n-grams (default: states)",
    )  # fmt: skip


def run(args: argparse.Namespace) -> int:
    """Make the base and print its id."""
    import torch

    from swarm.experts.base import make_base, save_base

    torch.set_num_threads(1)
    model, provenance = _load(args.source)
    ngrams = args.embedding == "ngrams"
    base = make_base(model, _public_tokens(args.data), provenance, ngrams=ngrams)
    save_base(base, args.out)
    facts = {"id": base.id, "experts": base.size, "directory": str(args.out)}
    print(json.dumps(facts) if args.json else f"base {base.id} in {args.out}")
    return OK


def _load(directory: Path) -> tuple[Transformer, dict[str, Any]]:
    from swarm.assembly.assemble import METADATA, load_assembled
    from swarm.model.hf import load_hf

    if (directory / METADATA).exists():
        model, metadata = load_assembled(directory)
        return model, {"run_id": metadata["run_id"], **metadata["provenance"]}
    return load_hf(directory), {"from": directory.name}


def _public_tokens(sources: list[str]) -> Any:
    """Token ids of all sources, of each as many as the shortest has."""
    import numpy as np

    from swarm.data import prepare_corpus

    with tempfile.TemporaryDirectory(prefix="base-") as temporary:
        corpora = [
            prepare_corpus(source, Path(temporary) / str(number))
            for number, source in enumerate(sources)
        ]
        shortest = min(len(corpus.train) for corpus in corpora)
        return np.concatenate([corpus.train[:shortest] for corpus in corpora])
