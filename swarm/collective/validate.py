"""What a peer may say: checks of the round protocol's messages before anything is done with them.

Pure. Each raises `MESSAGE_MALFORMED` naming what is wrong; none trusts a number it has not bounded.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping

from swarm.collective.changes import MAX_CHANGE_BYTES
from swarm.collective.codecs import ALIGNMENT, CODECS
from swarm.collective.plan import UNSCALED
from swarm.collective.shares import LARGEST_CHUNK_BYTES, LARGEST_CHUNK_ELEMENTS
from swarm.collective.state import Planned, Results
from swarm.collective.tags import MAX_TAG_WEIGHT, MAX_TAGS, is_tag
from swarm.collective.tallies import MAX_ROUND_BYTES
from swarm.errors import Code, SwarmError
from swarm.network.records import MAX_RECORD_BYTES
from swarm.wire import collective_pb2 as pb

MIN_CHUNK_ELEMENTS = 1 << 12  # smaller chunks cost more messages than they are worth
MAX_TOP_K = 1 << 10
MAX_PEERS = 4096
MAX_ATTEMPT_JUMP = 1000  # ballots beyond the highest promised one
MAX_DOMAIN_BYTES = 64
MAX_RATE_BPS = 1e15  # of a link
MAX_SECONDS = 1e9  # that anything took; about thirty years
MAX_LOSS = 1e9
MAX_SIGNED_BYTES = MAX_RECORD_BYTES + 256  # of a peer's record with its signature


def _require(condition: bool, problem: str) -> None:
    if not condition:
        raise SwarmError(Code.MESSAGE_MALFORMED, problem)


def check_ready(
    ready: pb.Ready,
    numel: Mapping[str, int],
    routing_width: int,
    max_tokens: int,
    open_tags: bool = False,
) -> None:
    """A peer's offer: known fragments (or any tags), finite weights, plausible counts."""
    names = [c.fragment for c in ready.contributions]
    _require(len(set(names)) == len(names), "a fragment is offered twice")
    _require(len(names) <= max(MAX_TAGS, len(numel)), "too many fragments are offered")
    for c in ready.contributions:
        known = is_tag(c.fragment, c.numel) if open_tags else c.fragment in numel
        _require(known, "an unknown fragment is offered")
        _require(c.codec in CODECS or not c.codec, "an unknown codec is asked for")
    weights = [c.weight for c in ready.contributions]
    heaviest = MAX_TAG_WEIGHT if open_tags else max_tokens
    _require(all(math.isfinite(w) and 0 <= w <= heaviest for w in weights), "impossible weight")
    norms = [c.norm for c in ready.contributions]
    _require(all(math.isfinite(n) and n >= 0 for n in norms), "impossible norm")
    rates = (ready.upload_bps, ready.download_bps)
    _require(all(0 <= r <= MAX_RATE_BPS for r in rates), "impossible bandwidth")
    _require(ready.tokens <= max_tokens and ready.steps <= max_tokens, "impossible token count")
    _require(len(ready.routed_tokens) in (0, routing_width), "wrong number of routing counts")
    counts = ready.routed_tokens
    _require(all(n <= max_tokens * MAX_TOP_K for n in counts), "impossible routing count")
    _require(abs(ready.loss) <= MAX_LOSS, "impossible loss")
    served = max(ready.served_bytes, ready.relayed_bytes)
    _require(served <= MAX_ROUND_BYTES, "impossible count of bytes")
    _require(len(ready.change.payload) <= MAX_CHANGE_BYTES, "a change of the run is too long")
    able = ready.capability
    times = (ready.train_seconds, able.seconds_per_step)
    _require(all(0 <= t <= MAX_SECONDS for t in times), "impossible training time")
    _require(len(able.domain.encode()) <= MAX_DOMAIN_BYTES, "the domain's name is too long")
    _require(ready.record.ByteSize() <= MAX_SIGNED_BYTES, "the peer's record is too long")
    named = max(len(ready.suspects), len(ready.declined))
    _require(named <= MAX_PEERS, "too many peers are named")


def check_plan(
    plan: pb.Plan,
    numel: Mapping[str, int],
    promised_attempt: int,
    attempt_timeout_ms: int,
    open_tags: bool = False,
) -> None:
    """A leader's plan: every element of known fragments reduced once, by a contributor."""
    _require(
        0 < plan.ballot.attempt <= promised_attempt + MAX_ATTEMPT_JUMP, "impossible ballot number"
    )
    _require(0 < plan.attempt_timeout_ms <= attempt_timeout_ms, "impossible time limit")
    _require(0 < len(plan.electorate) <= MAX_PEERS, "impossible electorate")
    size = plan.chunk_elements
    possible = MIN_CHUNK_ELEMENTS <= size <= LARGEST_CHUNK_ELEMENTS and size % ALIGNMENT == 0
    _require(possible, "impossible chunk size")
    members = [m.peer for m in plan.members]
    _require(len(members) <= MAX_PEERS and sorted(set(members)) == members, "members not sorted")
    names = [f.fragment for f in plan.fragments]
    _require(sorted(set(names)) == names, "fragments not sorted")
    for fragment in plan.fragments:
        name = fragment.fragment
        known = is_tag(name, fragment.numel) if open_tags else numel.get(name) == fragment.numel
        _require(known, f"{name}: unknown, or of another size")
        _check_fragment_plan(fragment, set(members), size)


def _check_fragment_plan(fragment: pb.FragmentPlan, members: set[str], chunk: int) -> None:
    name = fragment.fragment
    _require(fragment.codec in CODECS, f"{name}: unknown codec")
    largest = min(chunk, max((p.end - p.begin for p in fragment.parts), default=0))
    fits = CODECS[fragment.codec].encoded_bytes(largest) <= LARGEST_CHUNK_BYTES
    _require(fits, f"{name}: impossible chunk size")
    _require(fragment.operation in pb.Operation.values(), f"{name}: unknown operation")
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
    scaled = fragment.operation not in UNSCALED
    _require(not scaled or abs(sum(weights) - 1) < 1e-3, f"{name}: the weights do not sum to 1")
    norms = list(fragment.norms)
    _require(
        len(norms) in (0, len(contributors)) and all(math.isfinite(n) and n >= 0 for n in norms),
        f"{name}: impossible norms",
    )
    if fragment.operation == pb.AGREE:
        _require(not fragment.parts, f"{name}: nothing is reduced where all must agree")
        return
    edges = sorted((p.begin, p.end) for p in fragment.parts)
    whole = bool(edges) and edges[0][0] == 0 and edges[-1][1] == fragment.numel
    _require(
        whole and all(a[1] == b[0] for a, b in itertools.pairwise(edges)),
        f"{name}: its parts do not cover it once",
    )
    aligned = all(begin % ALIGNMENT == 0 for begin, _ in edges)
    _require(aligned, f"{name}: a part begins in the middle of a block")
    _require({p.reducer for p in fragment.parts} <= set(contributors), f"{name}: foreign reducer")


def check_record(
    record: pb.RoundRecord,
    previous: pb.RoundRecord | None,
    initial: Callable[[str], pb.FragmentVersion],
    numel: Mapping[str, int],
    own_results: Results,
    max_tokens: int,
    open_tags: bool = False,
) -> None:
    """A record to vote for: it may change only what a round changes.

    `initial` gives a fragment's version at genesis. `own_results`: what this peer computed from the
    same contributors' updates. A record that agrees with less than half of it is not the outcome of
    those attempts; a single difference may be this peer's own fault. `max_tokens`: of one peer.
    """
    names = [o.state.fragment for o in record.fragments]
    before = {o.state.fragment: o.state for o in previous.fragments} if previous else {}
    required = set(numel) | set(before)
    _require(sorted(set(names)) == names, "the record names a fragment twice")
    _require(required <= set(names), "the record does not name every fragment")
    _require(open_tags or required == set(names), "the record names an unknown fragment")
    _require(len(names) <= max(MAX_TAGS, len(numel)), "the record names too many fragments")
    compared = agreeing = 0
    for outcome in record.fragments:
        name, state = outcome.state.fragment, outcome.state
        if open_tags:  # each peer tells its caller whose result it is
            shares = list(outcome.weights)
            fit = len(shares) == len(outcome.contributors) and all(map(math.isfinite, shares))
            _require(fit, f"{name} has impossible weights")
        old = before.get(name) or initial(name)
        if not outcome.advanced:
            _require(state == old, f"{name} changed without having advanced")
            continue
        fits = is_tag(name, outcome.numel) if open_tags else outcome.numel == numel[name]
        _require(fits, f"{name} has another size")
        _require(state.version == old.version + 1, f"{name} advanced by more than one version")
        _require(len(state.theta_hash) == len(state.momentum_hash) == 32, f"{name} has no hash")
        own = own_results.get((name, tuple(outcome.contributors)))
        if own is not None:
            compared += 1
            agreeing += own == (state.theta_hash, state.momentum_hash)
    _require(2 * agreeing >= compared, "it is not the outcome of the attempts made here")
    roster = set(previous.roster) if previous is not None else set(record.electorate)
    _require(sorted(set(record.roster)) == list(record.roster), "the roster is not sorted")
    _require(bool(record.roster), "the roster is empty")
    _require(set(record.roster) <= roster | set(record.joined), "the roster has strangers")
    advanced = any(o.advanced for o in record.fragments)
    is_first, is_skipped = record.outcome == pb.FOUNDED, record.outcome == pb.SKIPPED
    _require(is_first == (previous is None), "only the first commit founds the run")
    _require(is_first or is_skipped != advanced, "the outcome is not what advanced")
    _require(grows_plausibly(record, previous, max_tokens), "impossible token count")


def check_made_as_planned(record: pb.RoundRecord, planned: Planned | None) -> None:
    """What advanced was made from the updates that the plan of its attempt names.

    `planned` None: that plan is not known here.
    """
    for outcome in record.fragments if planned is not None else ():
        said = (list(outcome.contributors), list(outcome.weights))
        name = outcome.state.fragment
        fits = not outcome.advanced or planned.get(name) == said
        _require(fits, f"{name} was planned with other updates")


def check_duties(record: pb.RoundRecord, max_steps: int) -> None:
    """Assignments: of members, each once, to experts that exist, with possible figures."""
    fragments = {o.state.fragment for o in record.fragments}
    peers = [a.peer for a in record.assignments]
    _require(sorted(set(peers)) == peers, "the assignments are not sorted")
    _require(set(peers) <= set(record.roster), "something is assigned to a stranger")
    for a in record.assignments:
        _require(sorted(set(a.experts)) == list(a.experts), "assigned experts are not sorted")
        known = all(f"expert.{e}" in fragments for e in a.experts)
        _require(known, "an expert that does not exist is assigned")
        _require(len(a.since) in (0, len(a.experts)), "impossible assignment")
        _require(a.steps <= max_steps, "impossible number of steps")
        _require(0 <= a.seconds_per_step <= MAX_SECONDS, "impossible time of a step")
    figures = [s.trained_tokens for s in record.experts] + [abs(record.loss)]
    figures += [d.share for s in record.experts for d in s.served]
    _require(all(math.isfinite(f) and f >= 0 for f in figures), "impossible figures")


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


def check_report(report: pb.Report, numel: Mapping[str, int], open_tags: bool = False) -> None:
    """A member's report: no more than one result for each fragment, hashes of the right size."""
    names = [r.fragment for r in report.results]
    known = len(names) <= MAX_TAGS if open_tags else set(names) <= numel.keys()
    _require(len(set(names)) == len(names) and known, "impossible results")
    squares = [n.squares for n in report.norms]
    _require(all(math.isfinite(s) and s >= 0 for s in squares), "impossible norms")
    hashes = [h for r in report.results for h in (r.theta_hash, r.momentum_hash)]
    _require(all(len(h) == 32 for h in hashes), "a hash has the wrong size")
    _require(len(report.suspects) <= MAX_PEERS, "too many suspects")
