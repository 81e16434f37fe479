"""`node testnet`: several real nodes on this machine, until Ctrl-C."""

from __future__ import annotations

import argparse
import dataclasses
import json
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

from node.exit_codes import OK
from node.parser import Verbs, add_command, positive_int
from node.paths import make_directory
from swarm.config import RunManifest

if TYPE_CHECKING:
    from node.chaos import ChaosPlan

DOMAINS = ("python", "cpp", "maths", "english")
EXAMPLES = """\
  node testnet                              four peers on the built-in corpora
  node testnet --peers 2 --data ~/a --data ~/b
  node testnet --run RUN.toml --dir /tmp/net --plain
  node testnet --chaos kill-every=30s,join-every=40s,partition=60s
Its nodes are ordinary ones: node status --dir DIR/peer-1, node stop --dir DIR/peer-1."""


def register(verbs: Verbs) -> None:
    """Add `node testnet`."""
    parser = add_command(
        verbs, "testnet", "run several real nodes on this machine, until Ctrl-C", EXAMPLES, run
    )
    parser.add_argument(
        "--peers", type=positive_int, default=4, metavar="N", help="nodes (default: %(default)s)"
    )
    parser.add_argument(
        "--run", dest="manifest", type=Path, metavar="RUN.toml",
        help="manifest (default: a new run with two experts per peer)",
    )  # fmt: skip
    parser.add_argument(
        "--data", action="append", metavar="PATH",
        help="data of the first peer, the second and so on, again from the first when there are "
        "more peers (default: demo:python, demo:cpp, demo:maths, demo:english)",
    )  # fmt: skip
    parser.add_argument(
        "--dir",
        type=Path,
        metavar="DIR",
        help="keep the nodes' directories here (default: temporary)",
    )
    parser.add_argument(
        "--seconds", type=positive_int, metavar="N", help="stop after so long (default: never)"
    )
    parser.add_argument(
        "--chaos", type=_chaos, metavar="SPEC",
        help="disturb the nodes, but never a majority at once. kill-every=2s: kill one every two "
        "seconds; join-every=3s: start a killed one again; partition=20s: stop a minority for "
        "20 s, as if it was cut off, then let it go on for 20 s; seed=N: other victims. Ends "
        "with an error when nodes hold different bits after the same commit",
    )  # fmt: skip
    parser.add_argument("--plain", action="store_true", help="lines instead of a live view")


def _chaos(text: str) -> ChaosPlan:
    from node.chaos import parse_chaos

    return parse_chaos(text)


def run(args: argparse.Namespace) -> int:
    """Start the nodes and show them until Ctrl-C or the given time."""
    if args.dir is not None:
        return _run_in(args, args.dir)
    with tempfile.TemporaryDirectory(prefix="testnet-") as temporary:
        return _run_in(args, Path(temporary))


def _run_in(args: argparse.Namespace, root: Path) -> int:
    from node.chaos import Chaos, check_hashes
    from node.screen import Screen
    from node.swarm_watch import SwarmWatch
    from node.testnet import LocalTestnet, PeerPlan

    data = args.data or [f"demo:{domain}" for domain in DOMAINS]
    peers = []
    for index in range(args.peers):
        source = data[index % len(data)]
        domain = source.rpartition(":")[2] if source.startswith("demo:") else Path(source).stem
        peers.append(PeerPlan(f"peer-{index + 1}", domain, source))
    manifest_path = args.manifest or _new_run(root, args.peers)
    started = time.monotonic()
    with Screen(plain=args.plain, quiet=args.json) as screen:
        with LocalTestnet(manifest_path, peers, root) as testnet:
            watch = SwarmWatch(testnet, "testnet", screen, total_s=float(args.seconds or 0))
            watch.phase = "starting"
            testnet.start(on_poll=watch.look)
            watch.phase = "running, Ctrl-C ends it"
            chaos = Chaos(args.chaos, testnet, watch.event) if args.chaos else None
            while args.seconds is None or time.monotonic() - started < args.seconds:
                watch.look()
                if chaos is None:
                    testnet.raise_if_ended()
                else:
                    check_hashes([node.summaries for node in watch.recorder.nodes])
                    chaos.step(time.monotonic())
                time.sleep(watch.interval_s)
    if args.json:
        result: dict[str, object] = {
            "rounds": [dataclasses.asdict(r) for r in watch.recorder.rounds()]
        }
        if chaos is not None:
            result["chaos"] = dataclasses.asdict(chaos.counts)
        print(json.dumps(result))
    return OK


def _new_run(root: Path, peers: int) -> Path:
    from node.commands.run import found_run

    base = RunManifest(name="testnet")
    experts = max(base.model.num_experts, 2 * peers)
    manifest = dataclasses.replace(
        base,
        model=dataclasses.replace(base.model, num_experts=experts),
        membership=dataclasses.replace(base.membership, min_peers=peers),
    )
    make_directory(root)
    found_run(manifest, root / "RUN.toml")
    return root / "RUN.toml"
