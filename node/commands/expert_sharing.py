"""`node expert publish`, `list` and `fetch`: experts in the network of their base."""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from node.exit_codes import OK
from node.network_options import add_network_arguments, add_relay_mode
from node.parser import Verbs, add_command
from node.serving import reporter, serve_until_ended

PUBLISH_EXAMPLES = """\
  node expert publish law --base base --listen 0.0.0.0:4001
  node expert publish law experts/medicine --base base --peer ADDRESS
Runs until Ctrl-C. Those who know one publisher find all of them. What leaves the machine are the
cards and the tensors; a withdrawal is noticed while it runs."""
LIST_EXAMPLES = "  node expert list --base base --peer ADDRESS"
FETCH_EXAMPLES = """\
  node expert fetch law --base base --peer ADDRESS --out experts/law
  node expert fetch 3f9a1c04 --base base --peer ADDRESS --out experts/law
Everything is checked before it is written: signature, base, hash, names, sizes, values."""


def register_sharing(actions: Verbs) -> None:
    """Add the three actions."""
    publish = add_command(
        actions, "publish", "offer experts to others and serve them", PUBLISH_EXAMPLES, run_publish
    )
    publish.add_argument("experts", type=Path, nargs="+", metavar="DIR", help="expert directories")
    _add_base(publish, needs_peer=False)
    add_network_arguments(publish, port=0)
    add_relay_mode(publish)
    publish.add_argument(
        "--stop-on-eof", action="store_true",
        help="stop when standard input closes, so that it never outlives its starter",
    )  # fmt: skip
    listing = add_command(actions, "list", "show what is offered", LIST_EXAMPLES, run_list)
    _add_base(listing, needs_peer=True)
    fetch = add_command(actions, "fetch", "download an expert", FETCH_EXAMPLES, run_fetch)
    fetch.add_argument("name", metavar="NAME", help="domain, or the first 8 letters of an id")
    _add_base(fetch, needs_peer=True)
    fetch.add_argument("--out", type=Path, required=True, metavar="DIR", help="directory to write")


def _add_base(parser: argparse.ArgumentParser, *, needs_peer: bool) -> None:
    parser.add_argument("--base", type=Path, required=True, metavar="DIR", help="the base")
    parser.add_argument(
        "--peer", action="append", default=[], required=needs_peer, metavar="ADDRESS",
        dest="peers", help="a publisher to ask, several are better",
    )  # fmt: skip


def run_publish(args: argparse.Namespace) -> int:
    """Serve until stopped."""
    return asyncio.run(_publish(args))


async def _publish(args: argparse.Namespace) -> int:
    from node.experts.sharing import publish
    from swarm.experts.base import read_base_id
    from swarm.network.p2p import NetworkConfig

    report = reporter(as_json=args.json)
    config = NetworkConfig(
        host=args.listen[0],
        port=args.listen[1],
        initial_peers=tuple(args.peers),
        announce=tuple(args.announce),
        relay=args.relay,
    )
    with tempfile.TemporaryDirectory(prefix="publish-") as temporary:
        key = Path(temporary) / "identity.key"
        work = publish(args.experts, read_base_id(args.base), config, key, report)
        return await serve_until_ended(work, report, stop_on_eof=args.stop_on_eof)


def run_list(args: argparse.Namespace) -> int:
    """Print the offers."""
    return asyncio.run(_list(args))


async def _list(args: argparse.Namespace) -> int:
    from node.experts.sharing import visiting
    from node.experts.view import offer_lines
    from swarm.experts.base import read_base_id

    async with visiting(read_base_id(args.base), args.peers, _quiet) as visit:
        found = await visit.offers()
    if args.json:
        offers = [
            {
                "id": id_,
                "domain": item.card.card.domain,
                "owner": item.card.card.owner,
                "withdrawn": found.withdrawn(id_),
                "peers": item.peers,
            }
            for id_, item in sorted(found.listed.items())
        ]
        print(json.dumps({"experts": offers, "refused": dict(found.refused)}))
    else:
        print("\n".join(offer_lines(found)))
    return OK


def run_fetch(args: argparse.Namespace) -> int:
    """Download, check and write one expert."""
    return asyncio.run(_fetch(args, _quiet if args.json else _say))


async def _fetch(args: argparse.Namespace, report: Callable[[str], None]) -> int:
    from node.experts.folder import learn_notice, write_notice
    from node.experts.sharing import visiting
    from swarm.experts.artifact import check_card, check_expert, save_expert
    from swarm.experts.base import load_base

    base = load_base(args.base)
    async with visiting(base.id, args.peers, report) as visit:
        found = await visit.offers()
        listed = found.pick(args.name)
        learn_notice(args.out, listed.card, found.notices)  # it may have been fetched before
        found.notices.require_offered(listed.card.id)
        check_card(listed.card, base)
        weights = await visit.download(listed)
    check_expert(listed.card, weights, base)
    save_expert(args.out, listed.card, weights)
    if notice := found.notices.of(listed.card.id):
        write_notice(args.out, notice)
    facts = {"id": listed.card.id, "domain": listed.card.card.domain, "bytes": len(weights)}
    done = f"fetched {facts['domain']} {listed.card.id[:16]}, {len(weights)} bytes, checked"
    print(json.dumps(facts) if args.json else done)
    return OK


def _quiet(line: str) -> None:
    pass


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
