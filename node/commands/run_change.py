"""`node run set`, `pause`, `resume`, `revoke`, `end`: change a run that goes on; and `validate`."""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from node.control_client import ControlClient
from node.exit_codes import OK
from node.joining import require_closed
from node.parser import Verbs, add_command
from node.paths import find_directory, genesis_path
from node.waiting import wait_for
from swarm.config import RunManifest
from swarm.errors import Code, SwarmError

if TYPE_CHECKING:
    from swarm.identity import Identity
    from swarm.wire import collective_pb2 as pb
    from swarm.wire.node_pb2 import StatusReply

WAIT_S = 120
TAKES_EFFECT = """\
It needs RUN.key beside RUN.toml, and a node of the run on this machine, which one does not matter.
It takes effect for all peers at the same round, when a commit has it."""


def register_changes(actions: Verbs) -> None:
    """Add the verbs of this module."""
    _register_validate(actions)
    parser = _add(
        actions, "set", "change a setting of a run that goes on, for all peers",
        "  node run set RUN.toml training.learning_rate=1e-3\n"
        "  node run set RUN.toml training.inner_steps=60 sync.replication=2\n"
        "  node run set RUN.toml training.learning_rate=        as the manifest says again\n",
        _set,
    )  # fmt: skip
    parser.add_argument(
        "settings", nargs="+", metavar="NAME=VALUE",
        help="training.learning_rate, training.inner_steps (H), sync.experts_per_peer or "
        "sync.replication",
    )  # fmt: skip
    _add(actions, "pause", "let nobody train, until it is resumed", _example("pause"), _pause)
    _add(actions, "resume", "let everybody train again", _example("resume"), _resume)
    parser = _add(
        actions, "revoke", "let a peer, or whoever uses a ticket, take part no more",
        "  node run revoke RUN.toml 12D3KooW...      a peer, by its id in `node status --json`\n"
        "  node run revoke RUN.toml 12D3KooW... --undo\n"
        "Only in a closed run: in an open one anybody may come back with another key.\n",
        _revoke,
    )  # fmt: skip
    parser.add_argument("name", metavar="ID", help="id of a peer, or key of a ticket in hex")
    parser.add_argument("--undo", action="store_true", help="let it take part again")
    _add(actions, "end", "end the run: all nodes stop, for good", _example("end"), _end)


def _example(verb: str) -> str:
    return f"  node run {verb} RUN.toml\n  node run {verb} RUN.toml --dir ~/nodes/law\n"


def _add(
    actions: Verbs, verb: str, summary: str, examples: str, edit: Callable[..., None]
) -> argparse.ArgumentParser:
    def run(args: argparse.Namespace) -> int:
        return _change(args, edit)

    parser = add_command(actions, verb, summary, examples + TAKES_EFFECT, run)
    parser.add_argument("manifest", type=Path, metavar="RUN.toml", help="manifest of the run")
    parser.add_argument("--dir", type=Path, metavar="DIR", help="directory of the node to tell")
    parser.add_argument(
        "--timeout", type=float, default=WAIT_S, metavar="SECONDS",
        help="longest wait for the commit; 0: do not wait (default: %(default)s)",
    )  # fmt: skip
    return parser


def _set(change: pb.RunChange, args: argparse.Namespace) -> None:
    for text in args.settings:
        name, separator, value = text.partition("=")
        if not separator:
            raise SwarmError(Code.USAGE, f"{text!r} is not NAME=VALUE", "see: node run set --help")
        if not value:
            change.settings.pop(name, None)
            continue
        try:
            change.settings[name] = float(value)
        except ValueError:
            raise SwarmError(Code.USAGE, f"{name}: {value!r} is not a number") from None


def _pause(change: pb.RunChange, args: argparse.Namespace) -> None:
    change.paused = True


def _resume(change: pb.RunChange, args: argparse.Namespace) -> None:
    change.paused = False


def _end(change: pb.RunChange, args: argparse.Namespace) -> None:
    change.ended = True


def _revoke(change: pb.RunChange, args: argparse.Namespace) -> None:
    kept = {name for name in change.revoked if name != args.name}
    del change.revoked[:]
    change.revoked.extend(sorted(kept if args.undo else kept | {args.name}))


def _change(args: argparse.Namespace, edit: Callable[..., None]) -> int:
    """Make the next change out of the newest one, hand it to a node, wait for its commit."""
    from node.run_changes import describe
    from swarm.collective.changes import sign_change
    from swarm.wire import collective_pb2 as pb

    manifest = RunManifest.load(args.manifest)
    key = _run_key(args.manifest)
    if edit is _revoke:
        require_closed(manifest)
    with ControlClient(find_directory(args.dir)) as control:
        newest = pb.SignedChange.FromString(control.status_in(manifest).newest_change)
        change = pb.RunChange.FromString(newest.payload)
        edit(change, args)
        change.number += 1
        change.issued_at_ms = round(1000 * time.time())
        control.change_run(sign_change(manifest, key, change).SerializeToString())
        committed = _wait(control, int(change.number), args.timeout)
    if args.json:
        facts = {"number": int(change.number), "settings": dict(change.settings)}
        facts |= {"paused": change.paused, "ended": change.ended, "round": committed}
        print(json.dumps({**facts, "revoked": list(change.revoked)}))
    else:
        when = f"in effect after round {committed}" if committed else "handed over"
        print(f"{describe(change)}; {when}")
    return OK


def _wait(control: ControlClient, number: int, limit_s: float) -> int:
    """Wait until the change is in effect; the newest round then. 0 when that is not waited for."""
    if limit_s <= 0:
        return 0
    late = SwarmError(
        Code.STAGE_TIMEOUT,
        f"no commit has change {number} after {limit_s:g} s",
        "it is not lost while the node runs: `node status` shows when it is in effect",
    )

    def in_effect() -> StatusReply | None:
        status = control.status()
        return status if status.change_number >= number else None

    return int(wait_for(in_effect, limit_s, late).round)


def _run_key(manifest_path: Path) -> Identity:
    from swarm.identity import Identity

    path = manifest_path.with_suffix(".key")
    if not path.exists():
        raise SwarmError(
            Code.CONFIG_INVALID,
            f"{path} is not there",
            "a run is changed by whoever founded it, with the key that `node run init` wrote",
        )
    return Identity.load_or_create(path)


def _register_validate(actions: Verbs) -> None:
    parser = add_command(
        actions, "validate", "check a run's manifest, its initial weights and its key",
        "  node run validate RUN.toml\n  node run validate RUN.toml --json",
        validate,
    )  # fmt: skip
    parser.add_argument("manifest", type=Path, metavar="RUN.toml", help="manifest of the run")


def validate(args: argparse.Namespace) -> int:
    """Say what is wrong with a manifest, or what run it is."""
    from swarm.collective.changes import run_key_of
    from swarm.identity import Identity
    from swarm.training.genesis import read_genesis
    from swarm.training.policy import RunPolicy

    manifest = RunManifest.load(args.manifest)
    policy = RunPolicy(manifest)
    genesis = genesis_path(args.manifest)
    if not policy.begins_with_model:
        policy.check_genesis()
    elif genesis.exists():
        read_genesis(genesis, manifest)
    path = args.manifest.with_suffix(".key")
    has_key = path.exists()
    if has_key and Identity.load_or_create(path).peer_id != run_key_of(manifest):
        raise SwarmError(
            Code.CONFIG_INVALID,
            f"{path} is not the key of {args.manifest}",
            "find the right one: without it the run can not be changed, nor tickets made",
        )
    parameters = sum(policy.numel.values())
    facts = {
        "run_id": manifest.run_id.hex(), "name": manifest.name, "parameters": parameters,
        "fragments": len(policy.numel), "admission": manifest.membership.admission, "key": has_key,
    }  # fmt: skip
    if args.json:
        print(json.dumps(facts))
    else:
        print(f"{args.manifest} is in order: run {manifest.name} {manifest.run_id.hex()[:16]}")
        admission = manifest.membership.admission
        print(f"{parameters} parameters in {len(policy.numel)} fragments, {admission} admission")
        print("its key is here" if has_key else "its key is not here")
    return OK
