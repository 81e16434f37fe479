"""The small run that is explored: its manifest, its policy, and a founding made beforehand."""

from __future__ import annotations

import functools
import hashlib
from typing import Any

from swarm.collective.consensus import commit_id, vote_text
from swarm.collective.state import FragmentState, version_message
from swarm.config import (
    BalanceConfig,
    MembershipConfig,
    RunManifest,
    SyncConfig,
    TimeoutPolicy,
    TrainingConfig,
)
from swarm.model.config import ModelConfig
from swarm.wire import collective_pb2 as pb

RUN_ID = hashlib.sha256(b"exploration").digest()
FRAGMENTS = {"expert.0": 1, "trunk.0": 1}
NAMES = ("ann", "bob", "cyd", "dan", "eve", "fay", "gus", "hal", "ida")
SIGNATURE = b"signed"  # stands for every signature; the world knows who has signed what
MAX_TOKENS = 1000  # of one peer in a round
EXPERTS = 2  # that tokens are routed to; the second has no fragment of its own here
BIAS_RATE = 0.25  # sums of it are exact
TIMEOUTS = TimeoutPolicy(
    heartbeat_s=0.5, chunk_s=1.0, attempt_s=2.0, round_s=3.0, join_s=3.5, lease_s=4.0
)


class ExploredRun(RunManifest):
    """A manifest whose id is not hashed again for each message."""

    @property
    def run_id(self) -> bytes:
        return RUN_ID


@functools.cache
def manifest(policy: str, min_peers: int, run_public_key: str) -> RunManifest:
    """A model of one layer with two experts, and short time limits."""
    return ExploredRun(
        run_public_key=run_public_key,
        timeouts=TIMEOUTS,
        model=ModelConfig(num_layers=1, num_experts=EXPERTS, context_length=MAX_TOKENS),
        training=TrainingConfig(inner_steps=1, batch_size=1, sequence_length=MAX_TOKENS // 4),
        balance=BalanceConfig(bias_rate=BIAS_RATE),
        sync=SyncConfig(trunk_fragments=1, aggregation="mean", error_feedback=False),
        membership=MembershipConfig(min_peers=min_peers, on_majority_lost=policy),
    )


class NoBytes:
    """In place of an array: only hashes are looked at."""

    @property
    def data(self) -> NoBytes:
        return self

    def cast(self, _: str) -> NoBytes:
        return self


NO_BYTES: Any = NoBytes()


def digest(*parts: object) -> bytes:
    return hashlib.sha256(repr(parts).encode()).digest()


def fragment_state(version: int, theta: bytes, momentum: bytes) -> FragmentState:
    return FragmentState(NO_BYTES, NO_BYTES, version, theta, momentum)


@functools.cache
def initial(fragment: str) -> FragmentState:
    return fragment_state(0, digest(fragment, "theta"), digest(fragment, "momentum"))


class Rules:
    """`Policy` of the explored run: everybody keeps everything and trains the trunk; two places of
    the only expert go to the first members."""

    numel = FRAGMENTS
    open_tags = False
    routing_width = EXPERTS

    def wanted(self, record):
        return self.numel.keys()

    def trains(self, record, peer):
        experts = next((a.experts for a in record.assignments if a.peer == peer), ())
        return ["trunk.0", *(f"expert.{e}" for e in experts)]

    def initial(self, fragment):
        return initial(fragment)

    def initial_version(self, fragment):
        return version_message(fragment, initial(fragment))

    def apply(self, fragment, mean, state, contributors, encoded=None):
        raise NotImplementedError("the world computes hashes only")

    def assign(self, record, previous, ready):
        for place, peer in enumerate(sorted(record.roster)):
            record.assignments.add(peer=peer, experts=[0] if place < 2 else [])


Signed = tuple[tuple[str, bytes], ...]  # who has signed what
Link = tuple[pb.Commit, pb.RoundRecord, Signed]


def _link(
    before: Link | None, electorate: list[str], voters: list[str], founds: bool, tokens: int
) -> Link:
    """A commit in which nothing advanced."""
    previous = commit_id(before[0].record) if before is not None else b""
    branch = before[1].branch if before is not None else b""
    record = pb.RoundRecord(
        run_id=RUN_ID,
        branch=digest("branch", previous, electorate)[:16] if founds else branch,
        round=before[1].round + 1 if before is not None else 0,
        previous=previous,
        electorate=electorate,
        unanimous=founds,
        roster=electorate,
        outcome=pb.SKIPPED if before is not None else pb.FOUNDED,
        committed_tokens=(before[1].committed_tokens if before is not None else 0) + tokens,
        proposer=electorate[0],
        attempts=1,
    )
    for name in sorted(FRAGMENTS):
        record.fragments.add(state=version_message(name, initial(name)), numel=FRAGMENTS[name])
    Rules().assign(record, None, {})
    data = record.SerializeToString()
    ballot = pb.Ballot(attempt=1, leader=electorate[0])
    text = vote_text(RUN_ID, ballot, data)
    votes = [
        pb.Vote(voter=n, ballot=ballot, record_sha256=commit_id(data), signature=SIGNATURE)
        for n in voters
    ]
    return pb.Commit(record=data, votes=votes), record, tuple((n, text) for n in voters)


@functools.cache
def founding(peers: int) -> Link:
    """The founding of the run by the first `peers` names."""
    names = sorted(NAMES[:peers])
    return _link(None, names, names, True, 0)


@functools.cache
def fork(peers: int, side: tuple[str, ...], rounds: tuple[int, ...]) -> tuple[Link, ...]:
    """The history on one side of a cut: a round for each number of tokens after the founding.

    A majority continues the branch, fewer found another.
    """
    links = [founding(peers)]
    apart = len(side) <= peers // 2
    electorate = sorted(side) if apart else list(links[0][1].roster)
    for index, tokens in enumerate(rounds):
        links.append(_link(links[-1], electorate, sorted(side), apart and index == 0, tokens))
    return tuple(links)
