"""What a leader may have voted for: checks of a round's record, beside those of what it carries on.

Pure. Each raises `MESSAGE_MALFORMED` naming what is wrong. Sums of contributions, the bias and
changes of the run are checked where they are made (`tallies`, `selection_bias`, `changes`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

from swarm.collective.codecs import CODECS
from swarm.collective.state import Planned, Results
from swarm.collective.tags import MAX_TAGS, is_tag
from swarm.collective.validate import MAX_SECONDS, require
from swarm.wire import collective_pb2 as pb


def check_record(
    record: pb.RoundRecord,
    previous: pb.RoundRecord | None,
    initial: Callable[[str], pb.FragmentVersion],
    numel: Mapping[str, int],
    max_tokens: int,
    open_tags: bool = False,
) -> None:
    """A record to vote for: it may change only what a round changes.

    `initial` gives a fragment's version at genesis. `max_tokens`: of one peer.
    """
    names = [o.state.fragment for o in record.fragments]
    before = {o.state.fragment: o for o in previous.fragments} if previous else {}
    required = set(numel) | set(before)
    require(sorted(set(names)) == names, "the record names a fragment twice")
    require(required <= set(names), "the record does not name every fragment")
    require(open_tags or required == set(names), "the record names an unknown fragment")
    require(len(names) <= max(MAX_TAGS, len(numel)), "the record names too many fragments")
    for outcome in record.fragments:
        name, state = outcome.state.fragment, outcome.state
        if open_tags:  # each peer tells its caller whose result it is
            shares = list(outcome.weights)
            fit = len(shares) == len(outcome.contributors) and all(map(math.isfinite, shares))
            require(fit, f"{name} has impossible weights")
            require(outcome.codec in ("", *CODECS), f"{name} has an unknown codec")
        old = before[name].state if name in before else initial(name)
        if not outcome.advanced:
            kept = pb.FragmentOutcome(state=old, numel=numel.get(name, 0))
            if open_tags and name in before:  # whose result it is goes on with it
                kept.CopyFrom(before[name])
                kept.advanced = False
            require(outcome == kept, f"{name} changed without having advanced")
            continue
        fits = is_tag(name, outcome.numel) if open_tags else outcome.numel == numel[name]
        require(fits, f"{name} has another size")
        require(state.version == old.version + 1, f"{name} advanced by more than one version")
        require(len(state.theta_hash) == len(state.momentum_hash) == 32, f"{name} has no hash")
    roster = set(previous.roster) if previous is not None else set(record.electorate)
    require(sorted(set(record.roster)) == list(record.roster), "the roster is not sorted")
    require(bool(record.roster), "the roster is empty")
    require(set(record.roster) <= roster | set(record.joined), "the roster has strangers")
    advanced = any(o.advanced for o in record.fragments)
    is_first, is_skipped = record.outcome == pb.FOUNDED, record.outcome == pb.SKIPPED
    require(is_first == (previous is None), "only the first commit founds the run")
    require(is_first or is_skipped != advanced, "the outcome is not what advanced")
    require(grows_plausibly(record, previous, max_tokens), "impossible token count")


def check_as_computed(record: pb.RoundRecord, own_results: Results) -> None:
    """The record agrees with what this peer computed from the same contributors' updates.

    One that agrees with less than half of it is not the outcome of those attempts; a single
    difference may be this peer's own fault.
    """
    pairs = [
        (own, (o.state.theta_hash, o.state.momentum_hash))
        for o in record.fragments
        if o.advanced and (own := own_results.get((o.state.fragment, tuple(o.contributors))))
    ]
    agreeing = sum(own == said for own, said in pairs)
    require(2 * agreeing >= len(pairs), "it is not the outcome of the attempts made here")


def check_made_as_planned(record: pb.RoundRecord, planned: Planned | None) -> None:
    """What advanced was made from the updates that the plan of its attempt names, in its codec.

    `planned` None: that plan is not known here.
    """
    if planned is None:
        return
    for outcome in record.fragments:
        said = (list(outcome.contributors), list(outcome.weights), outcome.codec)
        name = outcome.state.fragment
        fits = not outcome.advanced or planned.get(name) == said
        require(fits, f"{name} was planned with other updates")


def check_duties(record: pb.RoundRecord, max_steps: int) -> None:
    """Assignments: of members, each once, to experts that exist, with possible figures."""
    fragments = {o.state.fragment for o in record.fragments}
    peers = [a.peer for a in record.assignments]
    require(sorted(set(peers)) == peers, "the assignments are not sorted")
    require(set(peers) <= set(record.roster), "something is assigned to a stranger")
    for a in record.assignments:
        require(sorted(set(a.experts)) == list(a.experts), "assigned experts are not sorted")
        known = all(f"expert.{e}" in fragments for e in a.experts)
        require(known, "an expert that does not exist is assigned")
        require(len(a.since) in (0, len(a.experts)), "impossible assignment")
        require(a.steps <= max_steps, "impossible number of steps")
        require(0 <= a.seconds_per_step <= MAX_SECONDS, "impossible time of a step")
    figures = [s.trained_tokens for s in record.experts] + [abs(record.loss)]
    figures += [d.share for s in record.experts for d in s.served]
    require(all(math.isfinite(f) and f >= 0 for f in figures), "impossible figures")


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
