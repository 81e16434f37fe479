"""What a peer may say: checks of the round protocol's messages before anything is done with them.

Pure. Each raises `MESSAGE_MALFORMED` naming what is wrong; none trusts a number it has not bounded.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping

from swarm.collective.codecs import CODECS
from swarm.collective.plan import CHUNK_ELEMENTS
from swarm.collective.state import Results
from swarm.errors import Code, SwarmError
from swarm.wire import collective_pb2 as pb

MAX_TOP_K = 1 << 10
MAX_PEERS = 4096
MAX_ATTEMPT_JUMP = 1000  # ballots beyond the highest promised one


def _require(condition: bool, problem: str) -> None:
    if not condition:
        raise SwarmError(Code.MESSAGE_MALFORMED, problem)


def check_ready(
    ready: pb.Ready, numel: Mapping[str, int], routing_width: int, max_tokens: int
) -> None:
    """A peer's offer: known fragments, finite weights, plausible counts."""
    names = [c.fragment for c in ready.contributions]
    _require(len(set(names)) == len(names), "a fragment is offered twice")
    _require(set(names) <= numel.keys(), "an unknown fragment is offered")
    weights = [c.weight for c in ready.contributions]
    _require(all(math.isfinite(w) and 0 <= w <= max_tokens for w in weights), "impossible weight")
    _require(ready.tokens <= max_tokens and ready.steps <= max_tokens, "impossible token count")
    _require(len(ready.routed_tokens) in (0, routing_width), "wrong number of routing counts")
    counts = ready.routed_tokens
    _require(all(n <= max_tokens * MAX_TOP_K for n in counts), "impossible routing count")
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
    own_results: Results,
    max_tokens: int,
) -> None:
    """A record to vote for: it may change only what a round changes.

    `initial` gives a fragment's version at genesis. `own_results`: what this peer computed from the
    same contributors' updates. A record that agrees with less than half of it is not the outcome of
    those attempts; a single difference may be this peer's own fault. `max_tokens`: of one peer.
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
        own = own_results.get((name, tuple(outcome.contributors)))
        if own is not None:
            compared += 1
            agreeing += own == (state.theta_sha256, state.momentum_sha256)
    _require(2 * agreeing >= compared, "it is not the outcome of the attempts made here")
    roster = set(previous.roster) if previous is not None else set(record.electorate)
    _require(sorted(set(record.roster)) == list(record.roster), "the roster is not sorted")
    _require(bool(record.roster), "the roster is empty")
    _require(set(record.roster) <= roster | set(record.joined), "the roster has strangers")
    _require(grows_plausibly(record, previous, max_tokens), "impossible token count")


def grows_plausibly(
    record: pb.RoundRecord, previous: pb.RoundRecord | None, max_tokens: int
) -> bool:
    """True when a round added no more tokens than its electors can have trained.

    The history with more tokens wins, so nobody may write down any number; the first commit has 0.
    """
    if previous is None:
        return record.committed_tokens == 0
    grown = record.committed_tokens - previous.committed_tokens
    return 0 <= grown <= max_tokens * len(record.electorate)


def check_report(report: pb.Report, numel: Mapping[str, int]) -> None:
    """A member's report: no more than one result for each fragment, hashes of the right size."""
    names = [r.fragment for r in report.results]
    _require(len(set(names)) == len(names) and set(names) <= numel.keys(), "impossible results")
    hashes = [h for r in report.results for h in (r.theta_sha256, r.momentum_sha256)]
    _require(all(len(h) == 32 for h in hashes), "a hash has the wrong size")
    _require(len(report.suspects) <= MAX_PEERS, "too many suspects")
