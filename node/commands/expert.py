"""`node expert`: train an expert alone, show, publish, list, fetch and withdraw it."""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

from node.commands.expert_proxies import register_proxies
from node.commands.expert_sharing import register_sharing
from node.exit_codes import OK
from node.parser import Verbs, add_command, positive_float, positive_int, share

EXAMPLES = """\
  node expert train --base base --data ~/texts --domain law --out law     on your machine, alone
  node expert show law                                                    its card
  node expert publish law --base base --listen 0.0.0.0:4001               until stopped
  node expert fetch law --base base --peer ADDRESS --out experts/law
  node expert withdraw law --reason "contract ended"
Then: node assemble --base base --expert law --expert experts/medicine --out model"""
TRAIN_EXAMPLES = """\
  node expert train --base base --data ~/texts --domain law --out law
  node expert train --base base --data ~/texts --domain law --out law --rank 8
  node expert train --base base --data ~/texts --domain law --out law --cut-loss 0.01
  node expert train --base base --data ~/texts --domain law --out law --dp-epsilon 8
No network is used. Stop it with Ctrl-C; the same command goes on exactly where it was.
The key that signs is made as law.key, the training state is in law.training: keep both to yourself,
they are not in the directory law."""


def register(verbs: Verbs) -> None:
    """Add `node expert` and its actions."""
    group = add_command(verbs, "expert", "train an expert alone, share it, take it back", EXAMPLES)
    actions = group.add_subparsers(dest="action", metavar="ACTION", required=True)
    _register_train(actions)
    show = add_command(
        actions, "show", "print an expert's card", "  node expert show law\n", run_show
    )
    show.add_argument("expert", type=Path, metavar="DIR", help="directory of the expert")
    withdraw = add_command(
        actions, "withdraw", "take an expert back, or offer it again",
        "  node expert withdraw law --reason \"contract ended\"\n"
        "  node expert withdraw law --undo\n"
        "Publish the directory afterwards, so that others learn of it.",
        run_withdraw,
    )  # fmt: skip
    withdraw.add_argument("expert", type=Path, metavar="DIR", help="directory of the expert")
    withdraw.add_argument("--reason", default="", metavar="TEXT", help="why, for people")
    withdraw.add_argument("--undo", action="store_true", help="offer it again")
    withdraw.add_argument("--key", type=Path, metavar="FILE", help="owner's key (default: DIR.key)")
    register_sharing(actions)
    register_proxies(actions)


def _register_train(actions: Verbs) -> None:
    parser = add_command(
        actions, "train", "train an expert on your text, with no network", TRAIN_EXAMPLES, run_train
    )
    required = parser.add_argument_group("required")
    required.add_argument("--base", type=Path, required=True, metavar="DIR", help="the base")
    required.add_argument(
        "--data", required=True, metavar="PATH", help="your text, as for node start"
    )
    required.add_argument("--domain", required=True, metavar="NAME", help="what it is about")
    required.add_argument("--out", type=Path, required=True, metavar="DIR", help="expert to write")
    card = parser.add_argument_group("on the card")
    card.add_argument("--description", default="", metavar="TEXT", help="the text, in words")
    card.add_argument("--licence", default="unspecified", metavar="TEXT", help="terms of use")
    card.add_argument("--key", type=Path, metavar="FILE", help="owner's key (default: OUT.key)")
    numbers = parser.add_argument_group("training")
    for name, default, text in (
        ("--steps", 1000, "AdamW steps"),
        ("--batch-size", 16, "sequences per step"),
        ("--sequence-length", 128, "tokens per sequence"),
    ):
        numbers.add_argument(
            name, type=positive_int, default=default, metavar="N",
            help=f"{text} (default: %(default)s)",
        )  # fmt: skip
    numbers.add_argument(
        "--learning-rate", type=positive_float, default=2e-3, metavar="X",
        help="at the peak (default: %(default)s)",
    )  # fmt: skip
    numbers.add_argument(
        "--public-share", type=float, default=0.5, metavar="X",
        help="part of each batch that is the base's public text, so that the expert does no harm "
        "on text that is not yours; 0: none (default: %(default)s)",
    )  # fmt: skip
    numbers.add_argument(
        "--rank", type=positive_int, metavar="R", help="train factors of rank R instead of matrices"
    )
    numbers.add_argument("--seed", type=int, default=0, metavar="N", help="order of the text")
    numbers.add_argument(
        "--threads", type=positive_int, default=1, metavar="N", help="CPU threads (default: 1)"
    )
    numbers.add_argument("--device", default="cpu", help="cpu, cuda or mps (default: %(default)s)")
    private = parser.add_argument_group("differential privacy (pip install 'expertswarm[privacy]')")
    private.add_argument(
        "--dp-epsilon", type=positive_float, metavar="E",
        help="train with noise, so that the expert tells at most this much of any one sequence",
    )  # fmt: skip
    private.add_argument(
        "--dp-delta", type=share, metavar="D",
        help="chance that it tells more (default: 1e-05); below 1 / sequences",
    )  # fmt: skip
    private.add_argument(
        "--max-grad-norm", type=positive_float, metavar="C",
        help="a sequence's gradient is cut to this norm (default: 1.0)",
    )  # fmt: skip
    cut = parser.add_argument_group("cut to low rank after training").add_mutually_exclusive_group()
    cut.add_argument("--cut-rank", type=positive_int, metavar="R", help="every matrix to rank R")
    cut.add_argument(
        "--cut-energy", type=share, metavar="X", help="keep this share of each difference, e.g. 0.9"
    )
    cut.add_argument(
        "--cut-loss", type=share, metavar="X",
        help="smallest rank with at most this much more held-out loss, e.g. 0.01",
    )  # fmt: skip


def run_train(args: argparse.Namespace) -> int:
    """Train, sign the card, write the expert."""
    from node.experts.training import train
    from node.experts.view import card_lines

    signed = train(args)
    if args.json:
        print(signed.to_json().decode())
    else:
        print("\n".join(card_lines(signed, None)))
    return OK


def run_show(args: argparse.Namespace) -> int:
    """Print the card after checking its signature."""
    from node.experts.folder import load_notice
    from node.experts.view import card_lines
    from swarm.experts.artifact import load_card

    signed = load_card(args.expert)
    notice = load_notice(args.expert, signed)
    if args.json:
        withdrawn = notice is not None and notice.withdrawn
        content = json.loads(signed.to_json())
        print(json.dumps({**content, "id": signed.id, "withdrawn": withdrawn}))
    else:
        print("\n".join(card_lines(signed, notice)))
    return OK


def run_withdraw(args: argparse.Namespace) -> int:
    """Sign the next notice and put it beside the card."""
    from node.experts.folder import add_notice
    from swarm.experts.artifact import load_card

    signed = load_card(args.expert)
    notice = add_notice(
        args.expert, signed, args.key, withdrawn=not args.undo, reason=args.reason,
        now_ms=int(time.time() * 1000),
    )  # fmt: skip
    if args.json:
        print(notice.to_json().decode())
    else:
        word = "withdrawn" if notice.withdrawn else "offered again"
        print(
            f"expert {signed.id[:16]} ({signed.card.domain}) is {word}; publish it to tell others"
        )
    return OK
