"""What peers gave to a run is summed in its commits: agreed, and nobody can write it up."""

from __future__ import annotations

import asyncio

import pytest

from node.giving import Giving
from swarm.collective.context import Offer
from swarm.collective.tallies import add_tallies, check_tallies
from swarm.errors import Code, SwarmError
from swarm.simulation.swarm import SimulatedSwarm
from swarm.wire import collective_pb2 as pb

MAX_TOKENS = 1000


def record(number: int, tokens: int, *counted: str) -> pb.RoundRecord:
    outcome = pb.FragmentOutcome(advanced=True, contributors=counted)
    left = pb.FragmentOutcome(advanced=False, contributors=["nobody"])
    return pb.RoundRecord(round=number, committed_tokens=tokens, fragments=[outcome, left])


def said(tokens: int, served: int = 0, relayed: int = 0) -> pb.Ready:
    return pb.Ready(tokens=tokens, served_bytes=served, relayed_bytes=relayed)


def two_rounds() -> tuple[pb.RoundRecord, pb.RoundRecord]:
    first = record(1, 150, "a", "b")
    add_tallies(first, None, {"a": said(100, 10, 1), "b": said(50)})
    second = record(2, 420, "a")
    add_tallies(second, first, {"a": said(200, 20, 2), "b": said(70, 5)})
    return first, second


def test_only_rounds_that_count_an_update_add_to_a_peers_sum() -> None:
    first, second = two_rounds()
    assert [(t.peer, t.tokens, t.rounds, t.last_round) for t in second.tallies] == [
        ("a", 300, 2, 2),
        ("b", 50, 1, 1),
    ]
    assert (second.tallies[0].served_bytes, second.tallies[0].relayed_bytes) == (30, 3)
    check_tallies(first, None, MAX_TOKENS)
    check_tallies(second, first, MAX_TOKENS)


@pytest.mark.parametrize("lie", ["tokens", "rounds", "bytes", "other", "gone", "new", "order"])
def test_no_vote_is_given_to_sums_that_can_not_be(lie: str) -> None:
    first, second = two_rounds()
    one, other = second.tallies
    if lie == "tokens":
        one.tokens = 100 + MAX_TOKENS + 1
        second.committed_tokens = 10 * MAX_TOKENS
    elif lie == "rounds":
        one.rounds = 3
    elif lie == "bytes":
        one.served_bytes = 9
    elif lie == "other":
        other.tokens += 1
    elif lie == "gone":
        del second.tallies[1]
    elif lie == "new":
        second.tallies.add(peer="c", tokens=1)
    else:
        second.tallies.reverse()
    with pytest.raises(SwarmError) as caught:
        check_tallies(second, first, MAX_TOKENS)
    assert caught.value.code is Code.MESSAGE_MALFORMED


def test_bytes_of_a_round_that_did_not_count_are_told_again() -> None:
    total = {"served": 100, "relayed": 7}
    giving = Giving(lambda: total["served"], lambda: total["relayed"])

    def offered() -> tuple[int, int]:
        offer = Offer({}, {}, b"")
        giving.add_to(offer)
        return offer.served_bytes, offer.relayed_bytes

    assert offered() == (100, 7)
    giving.follow(pb.RoundRecord(round=3, tallies=[pb.Tally(peer="me", last_round=2)]), "me")
    total["served"] = 150
    assert offered() == (150, 7)
    total.update(served=170, relayed=9)
    giving.follow(pb.RoundRecord(round=4, tallies=[pb.Tally(peer="me", last_round=4)]), "me")
    assert offered() == (20, 2)


def test_a_swarm_agrees_on_the_sums_and_keeps_those_of_who_has_left() -> None:
    async def story() -> None:
        swarm = SimulatedSwarm(4)
        await swarm.start()
        for _ in range(2):
            await swarm.round()
        gone = swarm.peers[1]
        swarm.kill(gone)
        records = [*await swarm.round(), *await swarm.round()]
        last = records[-1]
        sums = {t.peer: (t.tokens, t.rounds) for t in last.tallies}
        assert sums.pop(gone.peer_id) == (200, 2)
        assert set(sums.values()) == {(400, 4)}
        assert last.committed_tokens == 1400
        await swarm.close()

    asyncio.run(asyncio.wait_for(story(), 60))
