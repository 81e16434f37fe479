"""`node generate DIR`: let an assembled model continue a text."""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path

from node.exit_codes import OK
from node.parser import Verbs, add_command, positive_int

EXAMPLES = """\
  node generate model --prompt "def main("
  node generate model --prompt "The derivative of" --tokens 400 --temperature 0.6
  echo "template <" | node generate model --prompt -"""


def register(verbs: Verbs) -> None:
    """Add `node generate`."""
    parser = add_command(
        verbs, "generate", "continue a text with an assembled model", EXAMPLES, run
    )
    parser.add_argument("model", type=Path, metavar="DIR", help="directory of node assemble")
    parser.add_argument(
        "--prompt", required=True, metavar="TEXT", help="text to continue; - reads standard input"
    )
    parser.add_argument(
        "--tokens", type=positive_int, default=200, metavar="N",
        help="longest continuation, in bytes for the byte tokenizer (default: %(default)s)",
    )  # fmt: skip
    parser.add_argument(
        "--temperature", type=float, default=0.8, metavar="X",
        help="0 always takes the likeliest (default: %(default)s)",
    )  # fmt: skip
    parser.add_argument(
        "--top-k", type=positive_int, metavar="N", help="draw among the N likeliest (default: all)"
    )
    parser.add_argument(
        "--seed", type=int, default=0, metavar="N", help="the same seed, the same text"
    )


def run(args: argparse.Namespace) -> int:
    """Print the prompt and its continuation as it comes."""
    import torch

    from node.text import printable, stream_text
    from swarm.assembly import load_model
    from swarm.data import ByteTokenizer
    from swarm.inference.engine import generate

    prompt = sys.stdin.read() if args.prompt == "-" else args.prompt
    model, _ = load_model(args.model)
    tokenizer = ByteTokenizer()
    started = time.monotonic()
    stream = generate(
        model,
        [tokenizer.BOS, *tokenizer.encode(prompt).tolist()],
        args.tokens,
        temperature=args.temperature,
        top_k=args.top_k,
        generator=torch.Generator().manual_seed(args.seed),
        stop=(tokenizer.EOS,),
    )
    if args.json:
        text = "".join(stream_text(stream))
        seconds = round(time.monotonic() - started, 3)
        print(json.dumps({"prompt": prompt, "text": text, "seconds": seconds}))
        return OK
    print(printable(prompt), end="", flush=True)
    for piece in stream_text(stream):
        print(printable(piece), end="", flush=True)
    print()
    return OK
