"""Which relays a hidden peer keeps, and what a relay gives."""

from __future__ import annotations

from datetime import timedelta

import pytest

from swarm.errors import Code, SwarmError
from swarm.network.relay_budget import TRICKLE_BPS, RelayBudget, RelayMeter
from swarm.network.relays import MISSES, RENEW_S, RelayBook

TTL_S = 1800.0


def book_with(*relays: str) -> RelayBook:
    book = RelayBook("me")
    for relay in relays:
        book.offer(relay)
    return book


def grant_all(book: RelayBook, now_s: float) -> None:
    for relay in book.to_ask(now_s, 2):
        book.granted(relay, TTL_S, now_s)


def test_two_relays_are_kept_and_renewed() -> None:
    book = book_with("a", "b", "c", "d")
    grant_all(book, 0.0)
    held = book.held(0.0)
    assert len(held) == 2
    assert book.to_ask(RENEW_S - 1, 2) == []
    assert sorted(book.to_ask(RENEW_S, 2)) == sorted(held)


def test_a_relay_that_is_silent_twice_is_replaced() -> None:
    book = book_with("a", "b", "c")
    grant_all(book, 0.0)
    silent, other = book.held(0.0)
    now_s = RENEW_S
    for _ in range(MISSES):
        assert silent in book.to_ask(now_s, 2)
        book.failed(silent, now_s)
        book.granted(other, TTL_S, now_s)
        now_s += 1
    assert book.held(now_s) == [other]
    (third,) = book.to_ask(now_s, 2)
    assert third not in (silent, other)


def test_a_lost_connection_is_looked_at_at_once_and_one_failure_is_enough() -> None:
    book = book_with("a", "b")
    grant_all(book, 0.0)
    lost = book.held(0.0)[0]
    book.lost(lost, 1.0)
    assert lost in book.to_ask(1.0, 2)
    book.failed(lost, 1.0)
    assert lost not in book.held(1.0)


def test_a_relay_that_refuses_is_left_alone_for_a_while() -> None:
    book = book_with("a")
    book.failed("a", 0.0)
    book.failed("a", 0.0)
    assert book.to_ask(1.0, 2) == []
    assert book.to_ask(1000.0, 2) == ["a"]


def test_one_relay_is_on_a_web_port_if_there_is_any_and_a_public_peer_wants_no_other() -> None:
    for number in range(20):
        book = RelayBook(f"peer{number}")
        for relay in ("a", "b", "c", "d"):
            book.offer(relay, web=relay == "d")
        asked = book.to_ask(0.0, 2)
        assert "d" in asked
        assert len(asked) == 2
        assert book.to_ask(0.0, 1, web_only=True) == ["d"]


def test_peers_spread_over_the_relays() -> None:
    relays = [f"relay{number}" for number in range(8)]
    chosen = set()
    for number in range(40):
        book = RelayBook(f"peer{number}")
        for relay in relays:
            book.offer(relay)
        chosen |= set(book.to_ask(0.0, 2))
    assert chosen == set(relays)


def meter(**limits) -> RelayMeter:
    return RelayMeter(RelayBudget(**limits))


def refused(call) -> bool:
    with pytest.raises(SwarmError) as caught:
        call()
    return caught.value.code is Code.RELAY_REFUSED


def test_only_a_peer_with_a_reservation_is_called_and_only_while_it_holds() -> None:
    relay = meter(reservation_ttl=timedelta(seconds=60))
    assert refused(lambda: relay.open("a", "b", 0.0))
    relay.reserve("b", 0.0)
    relay.open("a", "b", 59.0)
    assert refused(lambda: relay.open("a", "b", 61.0))


def test_places_are_limited_but_a_holder_can_prolong() -> None:
    relay = meter(max_reservations=1, max_circuits=2, max_circuits_per_peer=1)
    relay.reserve("b", 0.0)
    relay.reserve("b", 1.0)
    assert refused(lambda: relay.reserve("c", 1.0))
    relay.open("a", "b", 1.0)
    assert refused(lambda: relay.open("c", "b", 1.0))
    relay.close("a", "b")
    relay.open("c", "b", 1.0)


def seconds_for(relay: RelayMeter, peers: tuple[str, str], count: int, now_s: float) -> float:
    """Time in which `count` bytes pass, in chunks, by a clock that obeys the meter."""
    start_s = now_s
    for _ in range(count // 65536):
        now_s += relay.take(*peers, 65536, now_s)
    return now_s - start_s


def test_one_peer_gets_its_bandwidth_and_all_together_the_relays() -> None:
    relay = meter(bandwidth_bps=16e6, peer_bandwidth_bps=8e6)
    for name in "bdf":
        relay.reserve(name, 0.0)
    for pair in ("ab", "cd", "ef"):
        relay.open(*pair, 0.0)
    assert seconds_for(relay, ("a", "b"), 10_000_000, 100.0) == pytest.approx(10, rel=0.05)
    now_s = 200.0
    for _ in range(100):  # three pairs at once get two peers' worth
        for pair in ("ab", "cd", "ef"):
            now_s += relay.take(*pair, 65536, now_s)
    assert 100 * 3 * 65536 * 8 / (now_s - 200.0) == pytest.approx(16e6, rel=0.1)


def test_a_peer_that_has_spent_its_bytes_gets_a_trickle_until_the_hour_is_over() -> None:
    relay = meter(peer_bytes_per_hour=2**20)
    relay.reserve("b", 0.0)
    relay.open("a", "b", 0.0)
    fast_s = seconds_for(relay, ("a", "b"), 2**20, 0.0)
    assert fast_s < 0.2
    slow_s = seconds_for(relay, ("a", "b"), 2**20, 10.0)
    assert slow_s == pytest.approx(8 * 2**20 / TRICKLE_BPS, rel=0.1)
    assert seconds_for(relay, ("a", "b"), 2**19, 3700.0) < 0.2
    assert relay.forwarded()["a"] == 2 * 2**20 + 2**19
