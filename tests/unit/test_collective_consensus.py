"""Safety of the agreement: what must never be accepted, and one decision per round."""

import random

import pytest

from swarm.collective.consensus import (
    Acceptor,
    better_history,
    commit_id,
    decision_key,
    follows,
    fragment_results,
    quorum,
    record_to_adopt,
    resignation_text,
    verify_commit,
    vote_text,
)
from swarm.collective.ledger import Ledger
from swarm.errors import Code, SwarmError
from swarm.identity import Identity, verify
from swarm.wire import collective_pb2 as pb

RUN = b"r" * 32
VOTERS = [Identity.generate() for _ in range(5)]


def record_of(voters, **fields):
    names = [v.peer_id for v in voters]
    return pb.RoundRecord(
        **{"run_id": RUN, "branch": b"b", "round": 3, "previous": b"p", "electorate": names,
           "roster": names, "outcome": pb.FULL, **fields}
    )  # fmt: skip


def vote(voter, record, attempt=1, run=RUN):
    ballot = pb.Ballot(attempt=attempt, leader=VOTERS[0].peer_id)
    signature = voter.sign(vote_text(run, ballot, record))
    return pb.Vote(
        voter=voter.peer_id, ballot=ballot, record_sha256=commit_id(record), signature=signature
    )


def commit_of(record, votes):
    return pb.Commit(record=record, votes=votes)


def refused(commit):
    with pytest.raises(SwarmError) as caught:
        verify_commit(commit, RUN, verify)
    assert caught.value.code is Code.COMMIT_INVALID
    return caught.value.message


def test_a_majority_of_valid_votes_commits():
    record = record_of(VOTERS).SerializeToString()
    verify_commit(commit_of(record, [vote(v, record) for v in VOTERS[:3]]), RUN, verify)


def test_commits_without_a_right_majority_are_refused():
    record = record_of(VOTERS).SerializeToString()
    two = [vote(v, record) for v in VOTERS[:2]]
    stranger = vote(Identity.generate(), record)
    forged = vote(VOTERS[2], record)
    forged.signature = bytes(64)
    other = record_of(VOTERS, round=4).SerializeToString()
    assert "2 votes" in refused(commit_of(record, two))
    assert "voted twice" in refused(commit_of(record, [*two, two[0]]))
    assert "no vote" in refused(commit_of(record, [*two, stranger]))
    assert "not valid" in refused(commit_of(record, [*two, forged]))
    assert "not valid" in refused(commit_of(record, [*two, vote(VOTERS[2], other)]))
    assert "not valid" in refused(commit_of(record, [*two, vote(VOTERS[2], record, run=b"x")]))
    assert "2 votes" in refused(commit_of(record, [*two, vote(VOTERS[2], record, attempt=2)]))
    assert "parsed" in refused(commit_of(b"\xff\xff\xff", two))
    assert "is of run" in refused(
        commit_of(record_of(VOTERS, run_id=b"other").SerializeToString(), [])
    )


def test_a_founding_needs_every_vote():
    record = record_of(VOTERS[:3], unanimous=True).SerializeToString()
    assert "2 votes" in refused(commit_of(record, [vote(v, record) for v in VOTERS[:2]]))
    verify_commit(commit_of(record, [vote(v, record) for v in VOTERS[:3]]), RUN, verify)


def test_only_a_genuine_resignation_lowers_the_majority():
    def with_resignations(signer_of):
        resignations = [
            pb.Resignation(
                peer=v.peer_id,
                base_commit=b"p",
                signature=signer_of(v).sign(resignation_text(RUN, b"p")),
            )
            for v in VOTERS[3:]
        ]
        record = record_of(VOTERS, resignations=resignations).SerializeToString()
        return commit_of(record, [vote(v, record) for v in VOTERS[:2]])

    verify_commit(with_resignations(lambda v: v), RUN, verify)
    assert "2 votes" in refused(with_resignations(lambda v: VOTERS[0]))


def test_who_resigned_can_not_vote_all_the_same():
    leaver = VOTERS[4]
    word = pb.Resignation(
        peer=leaver.peer_id,
        base_commit=b"p",
        signature=leaver.sign(resignation_text(RUN, b"p")),
    )
    record = record_of(VOTERS, resignations=[word]).SerializeToString()
    votes = [vote(v, record) for v in (*VOTERS[:2], leaver)]
    assert "no vote" in refused(commit_of(record, votes))


def test_a_record_follows_only_its_predecessor_with_its_roster():
    previous = record_of(VOTERS, round=2)
    good = record_of(VOTERS)
    assert follows(good, b"p", previous)
    assert not follows(good, b"other", previous)
    assert not follows(record_of(VOTERS, round=4), b"p", previous)
    assert not follows(record_of(VOTERS[:3]), b"p", previous)
    assert not follows(record_of(VOTERS, branch=b"c"), b"p", previous)
    assert follows(record_of(VOTERS[:1], branch=b"c", unanimous=True), b"p", previous)
    stranger = [Identity.generate()]
    assert not follows(record_of(stranger, branch=b"c", unanimous=True), b"p", previous)


def test_two_histories_are_ordered_the_same_way_by_everybody():
    small = record_of(VOTERS, committed_tokens=10, branch=b"z")
    large = record_of(VOTERS, committed_tokens=20, branch=b"a")
    tie = record_of(VOTERS, committed_tokens=20, branch=b"b")
    assert better_history(large, small) and not better_history(small, large)
    assert better_history(large, tie) and not better_history(tie, large)
    longer = record_of(VOTERS, committed_tokens=20, branch=b"z", round=9)
    assert better_history(longer, large) and not better_history(large, longer)


def test_a_fragment_advances_by_a_majority_of_its_holders_only():
    holders = ["a", "b", "c"]
    plan = pb.Plan(fragments=[pb.FragmentPlan(fragment="f", holders=holders)])

    def report(theta):
        return pb.Report(results=[pb.FragmentVersion(fragment="f", theta_hash=theta)])

    assert not fragment_results(plan, {"a": report(b"1"), "b": report(b"2"), "c": report(b"3")})
    assert not fragment_results(plan, {"a": report(b"1"), "stranger": report(b"1")})
    won = fragment_results(plan, {"a": report(b"1"), "b": report(b"2"), "c": report(b"1")})
    assert won["f"].theta_hash == b"1"


def test_an_acceptor_keeps_its_word_over_a_restart(tmp_path):
    first = Ledger(tmp_path)
    assert first.promise(b"decision", (5, "leader"))
    again = Ledger(tmp_path)
    assert again.has_promised
    assert not again.promise(b"decision", (4, "leader"))
    assert not again.accept(b"decision", (4, "leader"), b"r")
    assert again.accept(b"decision", (5, "leader"), b"r")
    assert Ledger(tmp_path).acceptor(b"decision").record == b"r"
    assert Ledger(tmp_path).acceptor(b"another").record == b""


def test_a_resignation_outlives_a_restart(tmp_path):
    ledger = Ledger(tmp_path)
    assert not ledger.abstains
    ledger.abstain()
    assert Ledger(tmp_path).abstains


def test_a_peer_whose_promises_are_damaged_abstains_instead_of_forgetting_them(tmp_path):
    Ledger(tmp_path).promise(b"decision", (5, "leader"))
    (tmp_path / "acceptors.bin").write_bytes(b"\xff\x00garbage")
    assert Ledger(tmp_path).abstains


def test_a_damaged_commit_is_a_typed_error(tmp_path):
    (tmp_path / "commit.bin").write_bytes(b"\xff\x00garbage")
    with pytest.raises(SwarmError) as caught:
        Ledger(tmp_path)
    assert caught.value.code is Code.CHECKPOINT_CORRUPT


def test_a_founding_and_the_majority_decide_separately():
    majority = decision_key(b"c", 3, False, ["a", "b"])
    assert majority == decision_key(b"c", 3, False, ["c"])
    assert (
        len({majority, decision_key(b"c", 3, True, ["a"]), decision_key(b"c", 3, True, ["b"])}) == 3
    )
    assert decision_key(b"c", 3, True, ["a", "b"]) == decision_key(b"c", 3, True, ["b", "a"])


class Proposer:
    """A leader with its own record; takes one step at a time."""

    def __init__(self, name, attempt, value):
        self.ballot, self.value = (attempt, name), value
        self.promises, self.asked, self.accepted = {}, set(), set()

    def step(self, rng, acceptors, chosen):
        majority = quorum(len(acceptors))
        if len(self.promises) < majority:
            index = rng.randrange(len(acceptors))
            acceptor = acceptors[index]
            if acceptor.promise(self.ballot):
                self.promises[index] = pb.Promise(
                    accepted_ballot=pb.Ballot(
                        attempt=acceptor.accepted[0], leader=acceptor.accepted[1]
                    ),
                    accepted_record=acceptor.record,
                )
                if len(self.promises) == majority:
                    self.value = record_to_adopt(self.promises.values()) or self.value
        else:
            index = rng.randrange(len(acceptors))
            if acceptors[index].accept(self.ballot, self.value):
                self.accepted.add(index)
            if len(self.accepted) >= majority:
                chosen.add(self.value)


def explore(acceptor_type, seeds):
    """Random interleavings of four leaders over five acceptors; the sets of chosen values."""
    for seed in range(seeds):
        rng = random.Random(seed)
        acceptors = [acceptor_type() for _ in range(5)]
        leaders = [Proposer(f"l{i}", rng.randrange(1, 4), f"value{i}".encode()) for i in range(4)]
        chosen = set()
        for _ in range(200):
            rng.choice(leaders).step(rng, acceptors, chosen)
        yield chosen


def test_no_interleaving_of_leaders_decides_two_records():
    outcomes = list(explore(Acceptor, 2000))
    assert all(len(chosen) <= 1 for chosen in outcomes)
    assert sum(len(chosen) for chosen in outcomes) > 1000


def test_the_exploration_catches_an_acceptor_that_forgets_its_promise():
    class Forgetful(Acceptor):
        def accept(self, ballot, record):
            self.record, self.accepted = record, ballot
            return True

    assert any(len(chosen) > 1 for chosen in explore(Forgetful, 2000))
