"""Faults for a testnet: nodes are killed, started again and frozen, at the intervals of a spec.

    plan = parse_chaos("kill-every=2s,join-every=3s,partition=20s")
    chaos = Chaos(plan, testnet, say=print)
    chaos.step(time.monotonic())               # again and again

A majority of the nodes is always left alone, so the run goes on. A partition is made by stopping a
minority: to the others, a stopped node and one behind a broken link are the same.
"""

from __future__ import annotations

import difflib
import random
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from node.testnet import LocalTestnet, NodeProcess
from swarm.errors import Code, SwarmError
from swarm.wire.node_pb2 import RoundSummary

DURATION = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m)")
UNITS_S = {"ms": 0.001, "s": 1.0, "m": 60.0}
KEYS = ("kill-every", "join-every", "partition", "seed")
MIN_NODES = 3
HINT = "for example: kill-every=2s,join-every=3s,partition=20s"


@dataclass(frozen=True)
class ChaosPlan:
    """What is done how often; None for what is not done.

    Attributes:
        kill_every_s: seconds between two kills.
        join_every_s: seconds between two starts of killed nodes.
        partition_s: seconds that a minority is frozen, and then is not.
        seed: of the choice of victims.
    """

    kill_every_s: float | None = None
    join_every_s: float | None = None
    partition_s: float | None = None
    seed: int = 0


def parse_chaos(text: str) -> ChaosPlan:
    """The plan in "kill-every=2s,join-every=3s,partition=20s,seed=1"; every part is optional.

    Durations are numbers with the unit ms, s or m. Raises `USAGE`.
    """
    given: dict[str, str] = {}
    for item in text.split(","):
        key, separator, value = (part.strip() for part in item.partition("="))
        if key not in KEYS:
            near = difflib.get_close_matches(key, KEYS, n=1)
            hint = f"did you mean {near[0]}?" if near else f"known: {', '.join(KEYS)}"
            raise SwarmError(Code.USAGE, f"--chaos has no {key!r}", hint)
        if not separator or not value:
            raise SwarmError(Code.USAGE, f"--chaos {key} has no value", HINT)
        if key in given:
            raise SwarmError(Code.USAGE, f"--chaos {key} is given twice", HINT)
        given[key] = value
    if given.keys() == {"seed"}:
        raise SwarmError(Code.USAGE, "--chaos has a seed, but nothing to do", HINT)
    if not given.get("seed", "0").isdecimal():
        raise SwarmError(Code.USAGE, f"--chaos seed: {given['seed']!r} is not a number", HINT)
    return ChaosPlan(
        kill_every_s=_seconds(given, "kill-every"),
        join_every_s=_seconds(given, "join-every"),
        partition_s=_seconds(given, "partition"),
        seed=int(given.get("seed", "0")),
    )


def _seconds(given: Mapping[str, str], key: str) -> float | None:
    if key not in given:
        return None
    found = DURATION.fullmatch(given[key])
    if found is None or float(found[1]) == 0.0:
        raise SwarmError(
            Code.USAGE, f"--chaos {key}: {given[key]!r} is not a duration above zero", HINT
        )
    return float(found[1]) * UNITS_S[found[2]]


@dataclass
class Counts:
    """What was done so far."""

    killed: int = 0
    joined: int = 0
    frozen: int = 0


@dataclass
class _Timer:
    """Due once per interval; what was missed is not made up for."""

    every_s: float | None
    next_s: float | None = None

    def due(self, now: float) -> bool:
        if self.every_s is None:
            return False
        if self.next_s is not None and now < self.next_s:
            return False
        first, self.next_s = self.next_s is None, now + self.every_s
        return not first


class Chaos:
    """Does what the plan says to a running testnet; `say` gets one line for each thing done.

    Raises `USAGE` when the testnet is so small that no node can be spared.
    """

    def __init__(self, plan: ChaosPlan, testnet: LocalTestnet, say: Callable[[str], None]) -> None:
        if len(testnet.nodes) < MIN_NODES:
            raise SwarmError(
                Code.USAGE,
                f"--chaos leaves a majority alone: of {len(testnet.nodes)} nodes that is all",
                f"use --peers {MIN_NODES} or more",
            )
        self.counts = Counts()
        self._nodes = testnet.nodes
        self._testnet = testnet
        self._say = say
        self._random = random.Random(plan.seed)
        self._kill = _Timer(plan.kill_every_s)
        self._join = _Timer(plan.join_every_s)
        self._partition = _Timer(plan.partition_s)
        self._dead: list[NodeProcess] = []

    def step(self, now: float) -> None:
        """Do what is due; `now` is a monotonic clock."""
        for node in self._nodes:
            if node.ended:
                self._say(f"{node.plan.name} ended by itself: {node.failure()}")
                node.kill()
                self._dead.append(node)
        if self._partition.due(now):
            self._freeze_or_thaw()
        if self._kill.due(now):
            self._kill_one()
        if self._join.due(now) and self._dead:
            self._start_one()

    def _frozen(self) -> list[NodeProcess]:
        return [node for node in self._nodes if node.frozen]

    def _spare(self) -> int:
        """How many more may be harmed while a majority goes on."""
        harmed = len(self._frozen()) + len(self._dead)
        return (len(self._nodes) - 1) // 2 - harmed

    def _kill_one(self) -> None:
        candidates = [n for n in self._nodes if n.running and not n.frozen]
        if self._spare() < 1 or not candidates:
            return
        victim = self._random.choice(candidates)
        victim.kill()
        self._dead.append(victim)
        self.counts.killed += 1
        self._say(f"{victim.plan.name} killed")

    def _start_one(self) -> None:
        node = self._dead.pop(0)
        self._testnet.restart(self._nodes.index(node))
        self.counts.joined += 1
        self._say(f"{node.plan.name} started again")

    def _freeze_or_thaw(self) -> None:
        frozen = self._frozen()
        for node in frozen:
            node.thaw()
            self._say(f"{node.plan.name} goes on")
        if frozen:
            return
        candidates = [n for n in self._nodes if n.running]
        for node in self._random.sample(candidates, min(max(0, self._spare()), len(candidates))):
            node.freeze()
            self.counts.frozen += 1
            self._say(f"{node.plan.name} cut off (stopped)")


def check_hashes(told: Sequence[Mapping[int, RoundSummary]]) -> None:
    """All nodes that tell of a commit have the same bits after it; `told`: by node and round.

    Raises `STATE_MISMATCH`.
    """
    roots: dict[str, tuple[int, str]] = {}
    for summaries in told:
        for number, summary in summaries.items():
            known = roots.setdefault(summary.commit_id, (number, summary.state_root))
            if known[1] != summary.state_root:
                raise SwarmError(
                    Code.STATE_MISMATCH, f"round {number}: the nodes hold different bits"
                )
