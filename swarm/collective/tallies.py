"""What each peer has given to a run, summed in its commits. Pure.

A record has the sums of all rounds until it, so they need no other memory, are agreed and signed
as all of it is, and outlive whoever gave something. Nothing is paid for them.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

from swarm.errors import Code, SwarmError
from swarm.wire import collective_pb2 as pb

MAX_TALLIES = 1024  # about 100 KB of each record, and the last 256 records are kept
MAX_ROUND_BYTES = 1 << 44  # that a peer may say of one round


def add_tallies(
    record: pb.RoundRecord, previous: pb.RoundRecord | None, ready: Mapping[str, pb.Ready]
) -> None:
    """Add the sums to a draft that has its round and its fragments.

    A peer counts when an update of its is in a fragment that advanced.
    """
    sums = {t.peer: t for t in previous.tallies} if previous is not None else {}
    for peer in _counted(record):
        given, before = ready.get(peer, pb.Ready()), sums.get(peer, pb.Tally())
        sums[peer] = pb.Tally(
            peer=peer,
            tokens=before.tokens + given.tokens,
            rounds=before.rounds + 1,
            served_bytes=before.served_bytes + given.served_bytes,
            relayed_bytes=before.relayed_bytes + given.relayed_bytes,
            last_round=record.round,
        )
    largest = sorted(sums.values(), key=lambda t: (-t.tokens, t.peer))[:MAX_TALLIES]
    record.tallies.extend(sorted(largest, key=lambda t: t.peer))


def check_tallies(record: pb.RoundRecord, previous: pb.RoundRecord | None, max_tokens: int) -> None:
    """A record to vote for adds at most one round to each sum, of those who counted in it.

    Raises `MESSAGE_MALFORMED`. `max_tokens`: of one peer in a round.
    """
    names = [t.peer for t in record.tallies]
    if sorted(set(names)) != names or len(names) > MAX_TALLIES:
        raise SwarmError(Code.MESSAGE_MALFORMED, "the sums of contributions are not sorted")
    before = {t.peer: t for t in previous.tallies} if previous is not None else {}
    counted = _counted(record)
    _check_nobody_is_gone(record, before.keys() | counted, before)
    grown = [t.tokens - before.get(t.peer, pb.Tally()).tokens for t in record.tallies]
    if sum(grown) > record.committed_tokens - (previous.committed_tokens if previous else 0):
        raise SwarmError(Code.MESSAGE_MALFORMED, "the contributions are more than the round's")
    for tally in record.tallies:
        old = before.get(tally.peer, pb.Tally(peer=tally.peer))
        possible = (
            0 <= tally.tokens - old.tokens <= max_tokens
            and 0 <= tally.served_bytes - old.served_bytes <= MAX_ROUND_BYTES
            and 0 <= tally.relayed_bytes - old.relayed_bytes <= MAX_ROUND_BYTES
            and tally.rounds == old.rounds + 1
            and tally.last_round == record.round
        )
        if not possible if tally.peer in counted else tally != old:
            raise SwarmError(Code.MESSAGE_MALFORMED, f"impossible contributions of {tally.peer}")


def _check_nobody_is_gone(
    record: pb.RoundRecord, expected: Collection[str], before: Mapping[str, pb.Tally]
) -> None:
    """Only where there are more than fit, those go who gave least."""
    kept = {t.peer: t.tokens for t in record.tallies}
    least = min(kept.values()) if len(kept) == MAX_TALLIES else -1
    gone = [before.get(peer, pb.Tally()).tokens for peer in expected if peer not in kept]
    if any(tokens > least for tokens in gone):
        raise SwarmError(Code.MESSAGE_MALFORMED, "the contributions of somebody are gone")


def _counted(record: pb.RoundRecord) -> set[str]:
    return {
        peer for outcome in record.fragments if outcome.advanced for peer in outcome.contributors
    }
