"""What one peer and a crowd of strangers may ask; the clock is a number."""

from __future__ import annotations

import pytest

from swarm.errors import Code, SwarmError
from swarm.network.limits import (
    MAX_PEERS,
    Allowance,
    Policy,
    Rate,
    RecordQuota,
    RequestLimits,
)

PEER = Allowance(Rate(10, 1), Rate(1000, 100), at_once=3)
STRANGERS = Allowance(Rate(50, 5), Rate(5000, 500), at_once=20)
POLICY = Policy(PEER, STRANGERS)


def answered(limits: RequestLimits, peer: str, now_s: float, size: int = 1) -> bool:
    """Whether a request is let in; it ends at once."""
    try:
        limits.take(peer, size, now_s)
    except SwarmError as error:
        assert error.code is Code.OVER_LIMIT
        return False
    limits.done(peer)
    return True


def count(limits: RequestLimits, peer: str, now_s: float, tries: int, size: int = 1) -> int:
    return sum(answered(limits, peer, now_s, size) for _ in range(tries))


def test_one_peer_has_a_burst_and_then_its_rate() -> None:
    limits = RequestLimits(POLICY)
    assert count(limits, "mallory", 0.0, 100) == 10
    assert count(limits, "mallory", 5.0, 100) == 5
    assert count(limits, "mallory", 1000.0, 100) == 10
    assert answered(limits, "alice", 0.0)


def test_bytes_are_bounded_as_requests_are() -> None:
    limits = RequestLimits(POLICY)
    assert count(limits, "mallory", 0.0, 10, size=400) == 2
    assert not answered(limits, "mallory", 0.0, size=2000)  # larger than any burst
    assert count(limits, "mallory", 2.0, 10, size=400) == 1


def test_a_crowd_of_strangers_is_bounded_together_and_does_not_starve_a_member() -> None:
    limits = RequestLimits(POLICY, lambda peer: peer == "member")
    assert sum(count(limits, f"sybil{n}", 0.0, 10) for n in range(100)) == 50
    assert count(limits, "member", 0.0, 100) == 10


def test_requests_that_never_end_do_not_take_all_the_places() -> None:
    limits = RequestLimits(POLICY, lambda peer: peer == "member")
    for number in range(100):
        for _ in range(5):
            try:
                limits.take(f"sybil{number}", 1, 0.0)
            except SwarmError:
                break
    assert not answered(limits, "stranger", 100.0)
    assert answered(limits, "member", 100.0)
    limits.done("sybil0")
    assert answered(limits, "stranger", 100.0)


def test_one_peer_has_three_requests_under_way_and_a_fourth_when_one_has_ended() -> None:
    limits = RequestLimits(POLICY)
    for _ in range(3):
        limits.take("alice", 1, 0.0)
    assert not answered(limits, "alice", 0.0)
    limits.done("alice")
    assert answered(limits, "alice", 0.0)


def test_memory_for_peers_is_bounded() -> None:
    limits = RequestLimits(POLICY)
    for number in range(MAX_PEERS + 100):
        answered(limits, f"sybil{number}", float(number))
    assert len(limits._peers) == MAX_PEERS


def store(
    quota: RecordQuota, owner: str, now_s: float, *, size: int = 10, key: bytes = b"k"
) -> bool:
    try:
        quota.take(owner, key, size, expires_s=now_s + 60, now_s=now_s)
    except SwarmError as error:
        assert error.code is Code.OVER_LIMIT
        return False
    return True


def test_a_flood_of_owners_is_refused_and_who_was_there_renews_for_ever() -> None:
    quota = RecordQuota(keys=2, owners=100, volume=10_000)
    assert store(quota, "alice", 0.0)
    assert sum(store(quota, f"sybil{n}", 0.0) for n in range(1000)) == 99
    assert all(store(quota, "alice", 30.0 * n) for n in range(100))


def test_places_are_free_again_when_leases_end() -> None:
    quota = RecordQuota(keys=2, owners=100, volume=10_000)
    assert sum(store(quota, f"sybil{n}", 0.0) for n in range(1000)) == 100
    assert not store(quota, "alice", 59.0)
    assert store(quota, "alice", 61.0)


def test_a_dictionary_stays_small_enough_to_be_read_whoever_writes_it() -> None:
    quota = RecordQuota(keys=2, owners=100, volume=1000)
    assert sum(store(quota, f"sybil{n}", 0.0, size=300) for n in range(10)) == 3
    assert store(quota, "sybil0", 0.0, size=400)  # in place of his own
    assert not store(quota, "sybil0", 0.0, size=500)


@pytest.mark.parametrize("keys", [1, 5])
def test_names_are_bounded(keys: int) -> None:
    quota = RecordQuota(keys=keys, owners=100, volume=1000)
    assert sum(store(quota, "mallory", 0.0, key=b"%d" % n) for n in range(50)) == keys
