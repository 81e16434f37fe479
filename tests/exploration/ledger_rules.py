"""What a commit adds to what all before it have added: written down anew for the oracle."""

from __future__ import annotations

from rules import BIAS_RATE, EXPERTS, MAX_TOKENS

from swarm.wire import collective_pb2 as pb


def wrong_sums(record: pb.RoundRecord, before: pb.RoundRecord | None) -> str:
    """What is wrong with the sums that a commit carries on; empty if nothing is."""
    before = before if before is not None else pb.RoundRecord()
    return _wrong_tallies(record, before) or _wrong_bias(record, before)


def _wrong_tallies(record: pb.RoundRecord, before: pb.RoundRecord) -> str:
    counted = {p for o in record.fragments if o.advanced for p in o.contributors}
    old = {t.peer: t for t in before.tallies}
    new = {t.peer: t for t in record.tallies}
    if new.keys() != old.keys() | counted:
        return "somebody's contributions appear or vanish"
    for peer, tally in new.items():
        was = old.get(peer, pb.Tally(peer=peer))
        if peer not in counted and tally != was:
            return f"{peer} contributed nothing, and more is written down"
        rounds = (tally.rounds, tally.last_round)
        if peer in counted and rounds != (was.rounds + 1, record.round):
            return f"a round of {peer} is not counted once"
        if not 0 <= tally.tokens - was.tokens <= MAX_TOKENS:
            return f"{peer} contributed what it can not have"
    grown = sum(t.tokens for t in new.values()) - sum(t.tokens for t in old.values())
    if grown > record.committed_tokens - before.committed_tokens:
        return "peers contributed more tokens than were committed"
    return ""


def _wrong_bias(record: pb.RoundRecord, before: pb.RoundRecord) -> str:
    counts, bias = list(record.routed_tokens), list(record.selection_bias)
    old = list(before.selection_bias)
    if not counts:
        return "" if bias == old else "the bias changed without counts"
    mean = sum(counts) / EXPERTS
    old = old or [0.0] * EXPERTS
    for count, now, then in zip(counts, bias, old, strict=True):
        step = 0.0 if count == mean else BIAS_RATE if count < mean else -BIAS_RATE
        if now != then + step:
            return "the bias does not follow the counts"
    return ""
