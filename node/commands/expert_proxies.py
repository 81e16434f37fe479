"""`node expert proxies`: choose public text to tune a router on in the place of one's own."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from node.exit_codes import OK
from node.parser import Verbs, add_command, positive_int

EXAMPLES = """\
  node expert proxies --data ~/texts --public public.jsonl --out law-proxy.jsonl
  node expert proxies --data ~/texts --public ~/public --out law-proxy.jsonl --documents 500
Then: node assemble --base base --expert law --tune-router law-proxy.jsonl --out model
What is written is public text alone; which of it was chosen tells something of yours."""


def register_proxies(actions: Verbs) -> None:
    """Add `node expert proxies`."""
    parser = add_command(
        actions, "proxies", "choose public text that is like yours, to tune routers on",
        EXAMPLES, run,
    )  # fmt: skip
    parser.add_argument("--data", required=True, metavar="PATH", help="your text")
    parser.add_argument("--public", required=True, metavar="PATH", help="text to choose from")
    parser.add_argument(
        "--out", type=Path, required=True, metavar="FILE", help=".jsonl file to write"
    )
    parser.add_argument(
        "--documents", type=positive_int, default=200, metavar="N",
        help="how many at most (default: %(default)s)",
    )  # fmt: skip


def run(args: argparse.Namespace) -> int:
    """Choose and write."""
    from swarm.data.documents import DataReport, extract_text, list_files, read_documents
    from swarm.experts.proxies import choose_proxies
    from swarm.files import write_atomic

    def documents(source: str) -> list[bytes]:
        files = list_files(Path(source).expanduser())
        return list(read_documents(files, extract_text, DataReport(), None))

    public = documents(args.public)
    chosen = choose_proxies(documents(args.data), public, args.documents)
    lines = [json.dumps({"text": public[place].decode()}) + "\n" for place in chosen]
    write_atomic(args.out, "".join(lines).encode())
    facts = {"chosen": len(chosen), "of": len(public), "file": str(args.out)}
    done = f"wrote {len(chosen)} of {len(public)} public documents to {args.out}"
    print(json.dumps(facts) if args.json else done)
    return OK
