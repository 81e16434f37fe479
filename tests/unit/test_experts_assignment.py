"""Who holds which expert: coverage, dwell, one move a round, orphans first, domains attract."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from swarm.experts.assignment import (
    AssignmentRules,
    ExpertFacts,
    Held,
    PeerFacts,
    assign_experts,
)

RULES = AssignmentRules(num_experts=8, per_peer=2)
Peers = dict[str, PeerFacts]


def after(peers: Peers, held: dict[str, Held]) -> Peers:
    """The same peers with what they were given."""
    return {peer: replace(facts, held=held[peer]) for peer, facts in peers.items()}


def newcomers(names: str, **facts: object) -> Peers:
    return {name: PeerFacts(**facts) for name in names}


def holders(held: dict[str, Held], expert: int) -> list[str]:
    return [peer for peer, own in held.items() if expert in own]


rules = st.builds(
    AssignmentRules,
    num_experts=st.integers(1, 8),
    per_peer=st.integers(1, 4),
    replication=st.integers(1, 3),
    min_dwell=st.integers(0, 5),
    orphan_rounds=st.integers(0, 3),
)
facts = st.builds(
    PeerFacts,
    places=st.integers(0, 8),
    seconds_per_step=st.sampled_from([0.0, 0.1, 1.0]),
    domain=st.sampled_from(["", "law", "code"]),
)
crowd = st.dictionaries(st.sampled_from("abcdef"), facts, min_size=1)
served = st.dictionaries(st.sampled_from(["law", "code"]), st.floats(0, 1), max_size=2)
experts = st.lists(
    st.builds(
        ExpertFacts,
        trained_tokens=st.floats(0, 1e6),
        orphaned_rounds=st.integers(0, 9),
        served=served,
    ),
    min_size=8,
    max_size=8,
)


@settings(max_examples=300)
@given(rules, crowd, experts, st.lists(st.sets(st.sampled_from("abcdef")), max_size=12))
def test_a_swarm_that_changes_keeps_to_the_rules(rules, crowd, experts, absences):
    """A random swarm through random rounds: who is absent in one loses its experts."""
    peers = dict(crowd)
    for round_index, absent in enumerate(absences):
        before = {p: f for p, f in peers.items() if p not in absent} or peers
        held = assign_experts(rules, round_index, before, experts)
        backwards = dict(reversed(before.items()))
        assert assign_experts(rules, round_index, backwards, experts) == held
        for peer, own in held.items():
            room = min(before[peer].places or rules.per_peer, rules.num_experts)
            gained = own.keys() - before[peer].held.keys()
            lost = before[peer].held.keys() - own.keys()
            assert 1 <= len(own) <= max(room, len(before[peer].held))
            assert all(own[e] == round_index for e in gained)
            assert all(own[e] == before[peer].held[e] for e in own.keys() - gained)
            if before[peer].held:
                assert len(gained) <= 1 and len(lost) <= 1
            assert all(round_index - before[peer].held[e] >= rules.min_dwell for e in lost)
        was_held = {e for f in before.values() for e in f.held}
        is_held = {e for own in held.values() for e in own}
        # A last holder gives an expert up only for one that nobody held: by turns.
        assert len(is_held - was_held) >= len(was_held - is_held)
        peers = {p: replace(f, held=held.get(p, {})) for p, f in peers.items()}


@given(st.integers(1, 8), st.integers(1, 4))
def test_a_fresh_roster_covers_as_many_experts_as_it_can_evenly(num_peers, per_peer):
    roster = {f"p{i}": PeerFacts() for i in range(num_peers)}
    held = assign_experts(replace(RULES, per_peer=per_peer), 0, roster)
    counts = [len(holders(held, e)) for e in range(8)]
    assert max(counts) - min(counts) <= 1
    assert all(len(own) == per_peer for own in held.values())


def test_founders_of_an_exact_fit_get_blocks_as_in_spes():
    held = assign_experts(RULES, 0, newcomers("abcd"))
    assert [list(own) for own in held.values()] == [[0, 1], [2, 3], [4, 5], [6, 7]]


def test_holders_stay_while_others_come_and_go():
    peers = newcomers("abcd")
    peers = after(peers, assign_experts(RULES, 0, peers))
    fuller = {**peers, "e": PeerFacts()}
    held = assign_experts(RULES, 50, fuller)
    assert all(held[p] == peers[p].held for p in "abcd") and len(held["e"]) == 2


@pytest.mark.parametrize("room", [0, 2])
def test_the_last_holder_is_lost_and_one_that_returns_in_time_gets_its_experts_back(room):
    peers = newcomers("abcd", places=room)
    full = assign_experts(RULES, 0, peers)
    rest = {p: f for p, f in after(peers, full).items() if p != "b"}
    orphans = [ExpertFacts(orphaned_rounds=int(e in full["b"])) for e in range(8)]
    held = assign_experts(RULES, 1, rest, orphans)
    assert not holders(held, 2) and not holders(held, 3)
    held = assign_experts(RULES, 2, {**after(rest, held), "b": PeerFacts(places=room)}, orphans)
    assert held["b"].keys() == full["b"].keys()


def test_an_expert_without_a_holder_is_taken_over_by_the_fastest_that_has_room():
    peers = newcomers("abcd", places=3)
    full = assign_experts(RULES, 0, peers)
    rest = {p: f for p, f in after(peers, full).items() if p != "b"}
    rest["c"] = replace(rest["c"], seconds_per_step=0.1)
    rest["d"] = replace(rest["d"], seconds_per_step=0.2)
    orphans = [ExpertFacts(orphaned_rounds=3 * int(e in full["b"])) for e in range(8)]
    held = assign_experts(RULES, 3, rest, orphans)
    assert holders(held, 2) == ["c"] and holders(held, 3) == ["d"]
    assert held["a"] == full["a"]


def test_without_room_an_orphan_takes_the_place_of_an_expert_that_others_hold_too():
    peers = {
        "a": PeerFacts({0: 0, 1: 0}, places=2),
        "b": PeerFacts({2: 0, 3: 0}, places=2),
        "c": PeerFacts({3: 0, 4: 0}, places=2),
        "d": PeerFacts({5: 0, 6: 0}, places=2),
    }
    orphans = [ExpertFacts(orphaned_rounds=5 * int(e == 7)) for e in range(8)]
    young = assign_experts(replace(RULES, min_dwell=10), 9, peers, orphans)
    assert holders(young, 7) == []
    held = assign_experts(replace(RULES, min_dwell=10), 10, peers, orphans)
    assert holders(held, 7) == ["b"] and holders(held, 3) == ["c"]


def test_where_there_are_fewer_places_than_experts_they_take_turns():
    rules = AssignmentRules(num_experts=4, per_peer=1, min_dwell=3, orphan_rounds=0)
    peers = newcomers("ab", places=1)
    waited = [0, 0, 0, 0]
    trained = [0] * 4
    for round_index in range(40):
        known = [ExpertFacts(float(t), w) for t, w in zip(trained, waited, strict=True)]
        held = assign_experts(rules, round_index, peers, known)
        for expert in range(4):
            covered = bool(holders(held, expert))
            waited[expert] = 0 if covered else waited[expert] + 1
            trained[expert] += covered
        peers = after(peers, held)
    assert max(trained) - min(trained) <= 8 and min(trained) > 10


def test_a_newcomer_is_drawn_to_the_experts_that_its_domain_trained():
    peers = after(newcomers("abcd"), assign_experts(RULES, 0, newcomers("abcd")))
    served = [ExpertFacts(served={"law": 1.0} if e in (4, 5) else {"code": 1.0}) for e in range(8)]
    held = assign_experts(RULES, 5, {**peers, "e": PeerFacts(domain="law")}, served)
    assert list(held["e"]) == [4, 5]


def test_an_expert_without_a_holder_comes_before_the_domain():
    peers = {p: f for p, f in after(
        newcomers("abcd"), assign_experts(RULES, 0, newcomers("abcd"))
    ).items() if p != "a"}  # fmt: skip
    served = [
        ExpertFacts(served={"law": 1.0} if e == 4 else {}, orphaned_rounds=int(e in (0, 1)))
        for e in range(8)
    ]
    held = assign_experts(RULES, 5, {**peers, "e": PeerFacts(domain="law")}, served)
    assert list(held["e"]) == [0, 1]


def test_replication_is_reached_one_move_a_round_where_there_is_room():
    rules = AssignmentRules(num_experts=4, per_peer=1, replication=2)
    peers = newcomers("abcd", places=2)
    held = assign_experts(rules, 0, peers)
    assert [len(holders(held, e)) for e in range(4)] == [1, 1, 1, 1]
    held = assign_experts(rules, 1, after(peers, held))
    assert [len(holders(held, e)) for e in range(4)] == [2, 2, 2, 2]
    assert assign_experts(rules, 99, after(peers, held)) == held


def test_who_took_over_more_than_its_share_gives_it_up_when_others_hold_it_again():
    peers = {
        "a": PeerFacts({0: 0, 1: 0, 2: 3}, places=4),
        "b": PeerFacts({2: 9, 3: 9}, places=4),
    }
    rules = replace(RULES, num_experts=4)
    assert list(assign_experts(rules, 12, peers)["a"]) == [0, 1, 2]  # for ten rounds it stays
    assert list(assign_experts(rules, 13, peers)["a"]) == [0, 1]


def test_a_small_machine_holds_fewer_experts():
    held = assign_experts(RULES, 0, {"a": PeerFacts(places=1), "b": PeerFacts(places=9)})
    assert len(held["a"]) == 1 and len(held["b"]) == 2
