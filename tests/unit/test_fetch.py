"""Which commit an assembler believes: votes checked, most followers first, liars outvoted."""

from __future__ import annotations

import pytest

from node.fetch import newest_commit
from swarm.collective.consensus import commit_id, make_ballot, vote_text
from swarm.errors import Code, SwarmError
from swarm.identity import Identity
from swarm.wire import collective_pb2 as pb

RUN_ID = b"r" * 32
PEERS = [Identity.generate() for _ in range(3)]


def commit(
    number: int, branch: bytes = b"one", voters: int = 2, electors: list[Identity] = PEERS
) -> pb.Commit:
    names = sorted(peer.peer_id for peer in electors)
    record = pb.RoundRecord(
        run_id=RUN_ID, branch=branch, round=number, electorate=names, roster=names,
        committed_tokens=100 * number, outcome=pb.FULL,
    ).SerializeToString()  # fmt: skip
    ballot = make_ballot((1, names[0]))
    votes = [
        pb.Vote(
            voter=peer.peer_id,
            ballot=ballot,
            record_sha256=commit_id(record),
            signature=peer.sign(vote_text(RUN_ID, ballot, record)),
        )
        for peer in electors[:voters]
    ]
    return pb.Commit(record=record, votes=votes)


def replies(*commits: pb.Commit | None) -> dict[str, pb.GetCommitReply]:
    return {f"peer-{n}": pb.GetCommitReply(commit=c) for n, c in enumerate(commits)}


def test_the_newest_commit_of_the_common_branch_is_taken() -> None:
    record, identifier = newest_commit(replies(commit(4), commit(5), None, commit(3)), RUN_ID)
    assert record.round == 5
    assert identifier == commit_id(commit(5).record)


def test_a_lone_peer_with_a_longer_history_of_its_own_making_is_outvoted() -> None:
    liar = Identity.generate()
    forged = commit(1000, branch=b"mine", voters=1, electors=[liar])
    record, _ = newest_commit(replies(commit(4), forged, commit(5)), RUN_ID)
    assert record.round == 5


def test_a_commit_without_a_majority_or_with_a_forged_vote_does_not_count() -> None:
    forged = commit(9)
    forged.votes[0].signature = bytes(64)
    record, _ = newest_commit(replies(commit(8, voters=1), forged, commit(2)), RUN_ID)
    assert record.round == 2
    with pytest.raises(SwarmError) as caught:
        newest_commit(replies(forged, None), RUN_ID)
    assert caught.value.code is Code.COMMIT_INVALID


def test_a_commit_of_another_run_does_not_count() -> None:
    with pytest.raises(SwarmError) as caught:
        newest_commit(replies(commit(2)), b"x" * 32)
    assert caught.value.code is Code.COMMIT_INVALID


def test_nobody_with_a_commit_is_said_so() -> None:
    with pytest.raises(SwarmError) as caught:
        newest_commit(replies(None, None), RUN_ID)
    assert caught.value.code is Code.TOO_FEW_PEERS
    assert "2 peers" in caught.value.message
