"""What a peer may say: checks of the round protocol's messages before anything is done with them.

Pure. Each raises `MESSAGE_MALFORMED` naming what is wrong; none trusts a number it has not bounded.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping

from swarm.collective.codecs import CODECS
from swarm.collective.plan import CHUNK_ELEMENTS
from swarm.errors import Code, SwarmError
from swarm.wire import collective_pb2 as pb

MAX_TOKENS = 1 << 44  # of one peer in one round
MAX_PEERS = 4096
MAX_ATTEMPT_JUMP = 1000  # ballots beyond the highest promised one


def _require(condition: bool, problem: str) -> None:
    if not condition:
        raise SwarmError(Code.MESSAGE_MALFORMED, problem)


def check_ready(ready: pb.Ready, numel: Mapping[str, int], routing_width: int) -> None:
    """A peer's offer: known fragments, finite weights, plausible counts."""
    names = [c.fragment for c in ready.contributions]
    _require(len(set(names)) == len(names), "a fragment is offered twice")
    _require(set(names) <= numel.keys(), "an unknown fragment is offered")
    weights = [c.weight for c in ready.contributions]
    _require(all(math.isfinite(w) and 0 <= w <= MAX_TOKENS for w in weights), "impossible weight")
    _require(ready.tokens <= MAX_TOKENS and ready.steps <= MAX_TOKENS, "impossible token count")
    _require(len(ready.routed_tokens) in (0, routing_width), "wrong number of routing counts")
    _require(all(n <= MAX_TOKENS for n in ready.routed_tokens), "impossible routing count")
    _require(math.isfinite(ready.loss), "the loss is not finite")


def check_plan(
    plan: pb.Plan, numel: Mapping[str, int], promised_attempt: int, attempt_timeout_ms: int
) -> None:
    """A leader's plan: every element of known fragments reduced once, by a contributor."""
    _require(
        0 < plan.ballot.attempt <= promised_attempt + MAX_ATTEMPT_JUMP, "impossible ballot number"
    )
    _require(0 < plan.attempt_timeout_ms <= attempt_timeout_ms, "impossible time limit")
    _require(0 < len(plan.electorate) <= MAX_PEERS, "impossible electorate")
    _require(0 < plan.chunk_elements <= CHUNK_ELEMENTS, "impossible chunk size")
    members = [m.peer for m in plan.members]
    _require(len(members) <= MAX_PEERS and sorted(set(members)) == members, "members not sorted")
    names = [f.fragment for f in plan.fragments]
    _require(sorted(set(names)) == names, "fragments not sorted")
    for fragment in plan.fragments:
        _check_fragment_plan(fragment, numel, set(members))


def _check_fragment_plan(
    fragment: pb.FragmentPlan, numel: Mapping[str, int], members: set[str]
) -> None:
    name = fragment.fragment
    _require(numel.get(name) == fragment.numel, f"{name}: unknown, or of another size")
    _require(fragment.codec in CODECS, f"{name}: unknown codec")
    contributors = list(fragment.contributors)
    _require(
        bool(contributors) and sorted(set(contributors)) == contributors,
        f"{name}: contributors not sorted",
    )
    _require(set(contributors) <= members, f"{name}: a contributor is no member")
    _require(
        set(contributors) <= set(fragment.receivers) <= members, f"{name}: impossible receivers"
    )
    _require(set(fragment.holders) <= set(fragment.receivers), f"{name}: impossible holders")
    weights = list(fragment.weights)
    _require(
        len(weights) == len(contributors) and all(math.isfinite(w) and w > 0 for w in weights),
        f"{name}: impossible weights",
    )
    _require(abs(sum(weights) - 1) < 1e-3, f"{name}: the weights do not sum to 1")
    edges = sorted((p.begin, p.end) for p in fragment.parts)
    whole = bool(edges) and edges[0][0] == 0 and edges[-1][1] == fragment.numel
    _require(
        whole and all(a[1] == b[0] for a, b in itertools.pairwise(edges)),
        f"{name}: its parts do not cover it once",
    )
    _require({p.reducer for p in fragment.parts} <= set(contributors), f"{name}: foreign reducer")


def check_record(
    record: pb.RoundRecord,
    previous: pb.RoundRecord | None,
    initial: Callable[[str], pb.FragmentVersion],
    numel: Mapping[str, int],
    own_results: Mapping[str, set[bytes]],
) -> None:
    """A record to vote for: it may change only what a round changes.

    `initial` gives a fragment's version at genesis. `own_results`: parameter hashes that this peer
    computed in attempts of the round, by fragment. A record that agrees with less than half of them
    is not the outcome of those attempts; a single difference may be this peer's own fault.
    """
    names = [o.state.fragment for o in record.fragments]
    _require(names == sorted(numel), "the record does not name every fragment once")
    before = {o.state.fragment: o.state for o in previous.fragments} if previous else {}
    compared = agreeing = 0
    for outcome in record.fragments:
        name, state = outcome.state.fragment, outcome.state
        old = before.get(name) or initial(name)
        if not outcome.advanced:
            _require(state == old, f"{name} changed without having advanced")
            continue
        _require(state.version == old.version + 1, f"{name} advanced by more than one version")
        _require(len(state.theta_sha256) == len(state.momentum_sha256) == 32, f"{name} has no hash")
        if name in own_results:
            compared += 1
            agreeing += state.theta_sha256 in own_results[name]
    _require(2 * agreeing >= compared, "it is not the outcome of the attempts made here")
    roster = set(previous.roster) if previous is not None else set(record.electorate)
    _require(sorted(set(record.roster)) == list(record.roster), "the roster is not sorted")
    _require(bool(record.roster), "the roster is empty")
    _require(set(record.roster) <= roster | set(record.joined), "the roster has strangers")
    tokens = previous.committed_tokens if previous is not None else 0
    grown = record.committed_tokens - tokens
    _require(0 <= grown <= MAX_TOKENS * MAX_PEERS, "impossible token count")
