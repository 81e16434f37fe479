"""What a peer may say: checks of the round protocol's messages before anything is done with them.

Pure. Each raises `MESSAGE_MALFORMED` naming what is wrong; none trusts a number it has not bounded.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping

from swarm.collective.changes import MAX_CHANGE_BYTES
from swarm.collective.codecs import ALIGNMENT, CODECS
from swarm.collective.plan import UNSCALED
from swarm.collective.shares import LARGEST_CHUNK_BYTES, LARGEST_CHUNK_ELEMENTS
from swarm.collective.tags import MAX_TAG_WEIGHT, MAX_TAGS, is_tag
from swarm.collective.tallies import MAX_ROUND_BYTES
from swarm.errors import Code, SwarmError
from swarm.network.records import MAX_RECORD_BYTES
from swarm.wire import collective_pb2 as pb

MIN_CHUNK_ELEMENTS = 1 << 12  # smaller chunks cost more messages than they are worth
MAX_TOP_K = 1 << 10
MAX_PEERS = 4096
MAX_ATTEMPT_JUMP = 1000  # ballots beyond the highest promised one
MAX_ATTEMPT_STEP = MAX_ATTEMPT_JUMP // 2  # that a leader believes at once of who refuses its ballot
MAX_DOMAIN_BYTES = 64
MAX_RATE_BPS = 1e15  # of a link
MAX_SECONDS = 1e9  # that anything took; about thirty years
MAX_LOSS = 1e9
MAX_SIGNED_BYTES = MAX_RECORD_BYTES + 256  # of a peer's record with its signature


def require(condition: bool, problem: str) -> None:
    """Raise `MESSAGE_MALFORMED` unless `condition` holds."""
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
    require(len(set(names)) == len(names), "a fragment is offered twice")
    require(len(names) <= max(MAX_TAGS, len(numel)), "too many fragments are offered")
    for c in ready.contributions:
        known = is_tag(c.fragment, c.numel) if open_tags else c.fragment in numel
        require(known, "an unknown fragment is offered")
        require(c.codec in CODECS or not c.codec, "an unknown codec is asked for")
        exact = CODECS[c.codec or "fp32"].lossless
        require(exact or c.operation != pb.AGREE, "a state is to be encoded")
    weights = [c.weight for c in ready.contributions]
    heaviest = MAX_TAG_WEIGHT if open_tags else max_tokens
    require(all(math.isfinite(w) and 0 <= w <= heaviest for w in weights), "impossible weight")
    norms = [c.norm for c in ready.contributions]
    require(all(math.isfinite(n) and n >= 0 for n in norms), "impossible norm")
    rates = (ready.upload_bps, ready.download_bps)
    require(all(0 <= r <= MAX_RATE_BPS for r in rates), "impossible bandwidth")
    require(ready.tokens <= max_tokens and ready.steps <= max_tokens, "impossible token count")
    require(len(ready.routed_tokens) in (0, routing_width), "wrong number of routing counts")
    counts = ready.routed_tokens
    require(all(n <= max_tokens * MAX_TOP_K for n in counts), "impossible routing count")
    require(abs(ready.loss) <= MAX_LOSS, "impossible loss")
    served = max(ready.served_bytes, ready.relayed_bytes)
    require(served <= MAX_ROUND_BYTES, "impossible count of bytes")
    require(len(ready.change.payload) <= MAX_CHANGE_BYTES, "a change of the run is too long")
    able = ready.capability
    times = (ready.train_seconds, able.seconds_per_step)
    require(all(0 <= t <= MAX_SECONDS for t in times), "impossible training time")
    require(len(able.domain.encode()) <= MAX_DOMAIN_BYTES, "the domain's name is too long")
    require(ready.record.ByteSize() <= MAX_SIGNED_BYTES, "the peer's record is too long")
    named = max(len(ready.suspects), len(ready.declined))
    require(named <= MAX_PEERS, "too many peers are named")


def check_plan(
    plan: pb.Plan,
    numel: Mapping[str, int],
    promised_attempt: int,
    attempt_timeout_ms: int,
    open_tags: bool = False,
) -> None:
    """A leader's plan: every element of known fragments reduced once, by a contributor."""
    require(
        0 < plan.ballot.attempt <= promised_attempt + MAX_ATTEMPT_JUMP, "impossible ballot number"
    )
    require(0 < plan.attempt_timeout_ms <= attempt_timeout_ms, "impossible time limit")
    require(0 < len(plan.electorate) <= MAX_PEERS, "impossible electorate")
    size = plan.chunk_elements
    possible = MIN_CHUNK_ELEMENTS <= size <= LARGEST_CHUNK_ELEMENTS and size % ALIGNMENT == 0
    require(possible, "impossible chunk size")
    members = [m.peer for m in plan.members]
    require(len(members) <= MAX_PEERS and sorted(set(members)) == members, "members not sorted")
    names = [f.fragment for f in plan.fragments]
    require(sorted(set(names)) == names, "fragments not sorted")
    for fragment in plan.fragments:
        name = fragment.fragment
        known = is_tag(name, fragment.numel) if open_tags else numel.get(name) == fragment.numel
        require(known, f"{name}: unknown, or of another size")
        _check_fragment_plan(fragment, set(members), size)


def _check_fragment_plan(fragment: pb.FragmentPlan, members: set[str], chunk: int) -> None:
    name = fragment.fragment
    require(fragment.codec in CODECS, f"{name}: unknown codec")
    largest = min(chunk, max((p.end - p.begin for p in fragment.parts), default=0))
    fits = CODECS[fragment.codec].encoded_bytes(largest) <= LARGEST_CHUNK_BYTES
    require(fits, f"{name}: impossible chunk size")
    require(fragment.operation in pb.Operation.values(), f"{name}: unknown operation")
    contributors = list(fragment.contributors)
    require(
        bool(contributors) and sorted(set(contributors)) == contributors,
        f"{name}: contributors not sorted",
    )
    require(set(contributors) <= members, f"{name}: a contributor is no member")
    require(
        set(contributors) <= set(fragment.receivers) <= members, f"{name}: impossible receivers"
    )
    require(set(fragment.holders) <= set(fragment.receivers), f"{name}: impossible holders")
    weights = list(fragment.weights)
    require(
        len(weights) == len(contributors) and all(math.isfinite(w) and w > 0 for w in weights),
        f"{name}: impossible weights",
    )
    scaled = fragment.operation not in UNSCALED
    require(not scaled or abs(sum(weights) - 1) < 1e-3, f"{name}: the weights do not sum to 1")
    norms = list(fragment.norms)
    require(
        len(norms) in (0, len(contributors)) and all(math.isfinite(n) and n >= 0 for n in norms),
        f"{name}: impossible norms",
    )
    if fragment.operation == pb.AGREE:
        require(not fragment.parts, f"{name}: nothing is reduced where all must agree")
        require(CODECS[fragment.codec].lossless, f"{name}: a state is to be encoded")
        return
    edges = sorted((p.begin, p.end) for p in fragment.parts)
    whole = bool(edges) and edges[0][0] == 0 and edges[-1][1] == fragment.numel
    require(
        whole and all(a[1] == b[0] for a, b in itertools.pairwise(edges)),
        f"{name}: its parts do not cover it once",
    )
    aligned = all(begin % ALIGNMENT == 0 for begin, _ in edges)
    require(aligned, f"{name}: a part begins in the middle of a block")
    require({p.reducer for p in fragment.parts} <= set(contributors), f"{name}: foreign reducer")


def check_report(report: pb.Report, numel: Mapping[str, int], open_tags: bool = False) -> None:
    """A member's report: no more than one result for each fragment, hashes of the right size."""
    names = [r.fragment for r in report.results]
    known = len(names) <= MAX_TAGS if open_tags else set(names) <= numel.keys()
    require(len(set(names)) == len(names) and known, "impossible results")
    squares = [n.squares for n in report.norms]
    require(all(math.isfinite(s) and s >= 0 for s in squares), "impossible norms")
    hashes = [h for r in report.results for h in (r.theta_hash, r.momentum_hash)]
    require(all(len(h) == 32 for h in hashes), "a hash has the wrong size")
    require(len(report.suspects) <= MAX_PEERS, "too many suspects")
