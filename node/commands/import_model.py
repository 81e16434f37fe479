"""`node import HF_DIR`: read a model of another program."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from node.exit_codes import OK
from node.parser import Verbs, add_command

EXAMPLES = """\
  node import OLMoE-1B-7B-0125 --out model
  node import hf --out model && node eval model
Reads directories of Hugging Face models of the types flex_olmo, olmoe and olmo2 (dense: becomes
one expert), as save_pretrained or node export wrote them. Weights become fp32."""


def register(verbs: Verbs) -> None:
    """Add `node import`."""
    parser = add_command(verbs, "import", "read a Hugging Face model", EXAMPLES, run)
    parser.add_argument("source", type=Path, metavar="HF_DIR", help="directory of the model")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="directory to write")


def run(args: argparse.Namespace) -> int:
    """Write the model in this program's format."""
    from swarm.assembly.exchange import import_hf

    metadata = import_hf(args.source, args.out)
    experts = sum(name.startswith("expert.") for name in metadata["fragments"])
    if args.json:
        print(json.dumps(metadata))
        return OK
    kind = metadata["provenance"]["imported"]
    print(f"wrote the {kind} {metadata['run_name']} with {experts} experts to {args.out}")
    return OK
