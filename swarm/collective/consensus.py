"""Agreement on the outcome of a round: single-decree Paxos with the attempt as ballot. Pure.

One decision per (previous commit, round) and electorate. Its acceptors are the electorate: the
roster of the previous commit, or the founders of a branch. A plan is the prepare message, a grant
the promise, `Accept` carries the record, a `Vote` is the signed acceptance, and a `Commit` is the
record with the votes of a majority (of all, when it founds a branch). Source: DESIGN section 6,
items 4 and 5.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass

from swarm.errors import Code, SwarmError
from swarm.wire import collective_pb2 as pb

BallotKey = tuple[int, str]
Verifier = Callable[[str, bytes, bytes], bool]  # (peer, data, signature) -> valid

NO_BALLOT: BallotKey = (0, "")
MAX_RECORD_BYTES = 2 << 20  # half of a control message: a commit has the votes beside it
MAX_ELECTORS = 4096  # each has a signature to be checked


def ballot_key(ballot: pb.Ballot) -> BallotKey:
    """The total order of ballots."""
    return (ballot.attempt, ballot.leader)


def make_ballot(key: BallotKey) -> pb.Ballot:
    """The message form of a ballot."""
    return pb.Ballot(attempt=key[0], leader=key[1])


def quorum(electors: int, unanimous: bool = False) -> int:
    """Votes needed to decide."""
    return electors if unanimous else electors // 2 + 1


def commit_id(record: bytes) -> bytes:
    """SHA-256 of a serialized RoundRecord: what the next round refers to."""
    return hashlib.sha256(record).digest()


def vote_text(run_id: bytes, ballot: pb.Ballot, record: bytes) -> bytes:
    """What a voter signs. The record names its branch, round and predecessor."""
    fields = (b"expertswarm-vote-1", run_id, str(ballot.attempt).encode(), ballot.leader.encode())
    return b"|".join((*fields, commit_id(record)))


def decision_key(
    base_commit: bytes, round_index: int, unanimous: bool, electorate: Collection[str]
) -> bytes:
    """What names one decision: the majority's about a round, or one founding by these electors.

    A founding makes a branch of its own, so it is another decision than the majority's, and a vote
    in one binds nobody in the other.
    """
    who = ",".join(sorted(electorate)).encode() if unanimous else b"majority"
    return hashlib.sha256(b"|".join((base_commit, str(round_index).encode(), who))).digest()


def resignation_text(run_id: bytes, base_commit: bytes) -> bytes:
    """What a member signs that gives up its vote in the round after `base_commit`."""
    return b"|".join((b"expertswarm-resignation-1", run_id, base_commit))


def verify_resignation(
    resignation: pb.Resignation, run_id: bytes, base_commit: bytes, verify: Verifier
) -> bool:
    """True when it is that peer's word for exactly the round after `base_commit`."""
    text = resignation_text(run_id, base_commit)
    return resignation.base_commit == base_commit and verify(
        resignation.peer, text, resignation.signature
    )


@dataclass
class Acceptor:
    """What one peer has promised and accepted for one decision. Must be on disk before it answers.

    A peer that forgets its promises could help two records to a majority.
    """

    promised: BallotKey = NO_BALLOT
    accepted: BallotKey = NO_BALLOT
    record: bytes = b""

    def promise(self, ballot: BallotKey) -> bool:
        """Promise to take part in no lower ballot; False when a higher one was promised."""
        if ballot < self.promised:
            return False
        self.promised = ballot
        return True

    def accept(self, ballot: BallotKey, record: bytes) -> bool:
        """Accept a record unless a higher ballot was promised."""
        if ballot < self.promised:
            return False
        self.promised = self.accepted = ballot
        self.record = record
        return True


def record_to_adopt(promises: Iterable[pb.Promise]) -> bytes:
    """The record a new leader must propose: the accepted one of the highest ballot, or none."""
    best: tuple[BallotKey, bytes] = (NO_BALLOT, b"")
    for promise in promises:
        key = ballot_key(promise.accepted_ballot)
        if promise.accepted_record and key > best[0]:
            best = (key, promise.accepted_record)
    return best[1]


def fragment_results(plan: pb.Plan, reports: dict[str, pb.Report]) -> dict[str, pb.FragmentVersion]:
    """Fragments that advance: a majority of the planned holders reported the same hashes."""
    advanced: dict[str, pb.FragmentVersion] = {}
    for fragment in plan.fragments:
        tally: dict[bytes, set[str]] = {}
        versions: dict[bytes, pb.FragmentVersion] = {}
        for holder in fragment.holders:
            if holder not in reports:
                continue
            for version in reports[holder].results:
                if version.fragment == fragment.fragment:
                    key = version.theta_hash + version.momentum_hash
                    tally.setdefault(key, set()).add(holder)
                    versions[key] = version
        for key, holders in tally.items():
            if len(holders) >= quorum(len(fragment.holders)):
                advanced[fragment.fragment] = versions[key]
    return advanced


def verify_vote(vote: pb.Vote, record: bytes, run_id: bytes, verify: Verifier) -> bool:
    """True when `vote` is its voter's signature for exactly this record."""
    return vote.record_sha256 == commit_id(record) and verify(
        vote.voter, vote_text(run_id, vote.ballot, record), vote.signature
    )


def verify_commit(commit: pb.Commit, run_id: bytes, verify: Verifier) -> pb.RoundRecord:
    """Check a commit by itself and return its record.

    It must carry valid votes of one ballot from a quorum of the electorate that it names. Whether
    that electorate had the right to decide is the chain's matter (`follows`).

    Raises `COMMIT_INVALID` saying what is wrong.
    """
    record = parse_record(commit.record)
    if record.run_id != run_id:
        raise SwarmError(Code.COMMIT_INVALID, f"commit is of run {record.run_id.hex()[:16]}")
    if record.outcome not in (pb.FULL, pb.PARTIAL, pb.SKIPPED, pb.FOUNDED):
        raise SwarmError(Code.COMMIT_INVALID, f"outcome {record.outcome} is unknown")
    electorate = set(record.electorate)
    if not electorate or len(electorate) != len(record.electorate):
        raise SwarmError(Code.COMMIT_INVALID, "electorate is empty or names a peer twice")
    if len(electorate) > MAX_ELECTORS:
        raise SwarmError(Code.COMMIT_INVALID, f"{len(electorate)} electors")
    words = {r.peer: r for r in record.resignations if r.peer in electorate}  # one check for each
    resigned = {
        p for p, r in words.items() if verify_resignation(r, run_id, record.previous, verify)
    }
    by_ballot: dict[BallotKey, set[str]] = {}
    for vote in commit.votes:
        voters = by_ballot.setdefault(ballot_key(vote.ballot), set())
        if vote.voter not in electorate - resigned or vote.voter in voters:
            raise SwarmError(Code.COMMIT_INVALID, f"{vote.voter} has no vote, or voted twice")
        if not verify_vote(vote, commit.record, run_id, verify):
            raise SwarmError(Code.COMMIT_INVALID, f"vote of {vote.voter} is not valid")
        voters.add(vote.voter)
    needed = max(1, quorum(len(electorate - resigned), record.unanimous))
    most = max((len(voters) for voters in by_ballot.values()), default=0)
    if most < needed:
        raise SwarmError(Code.COMMIT_INVALID, f"{most} votes of one ballot, {needed} needed")
    return record


def parse_record(data: bytes) -> pb.RoundRecord:
    """Parse a serialized record. Raises `COMMIT_INVALID`."""
    if len(data) > MAX_RECORD_BYTES:
        raise SwarmError(Code.COMMIT_INVALID, f"a record of {len(data)} bytes")
    try:
        return pb.RoundRecord.FromString(data)
    except Exception as error:  # protobuf raises different types by backend
        raise SwarmError(Code.COMMIT_INVALID, "record can not be parsed") from error


def follows(record: pb.RoundRecord, previous_id: bytes, previous: pb.RoundRecord | None) -> bool:
    """True when `record` is a legitimate successor of the commit `previous`.

    In its branch: decided by the whole roster. As the founding of another: by members of it.
    """
    if previous is None:
        return record.previous == b"" and record.unanimous
    if record.previous != previous_id or record.round != previous.round + 1:
        return False
    if record.unanimous:
        return record.branch != previous.branch and set(record.electorate) <= set(previous.roster)
    same_roster = sorted(record.electorate) == sorted(previous.roster)
    return record.branch == previous.branch and same_roster


def better_history(candidate: pb.RoundRecord, current: pb.RoundRecord | None) -> bool:
    """Which of two histories everybody ends on.

    In one branch the later round; else more committed tokens, then more rounds, then the smaller
    branch id.
    """
    if current is None:
        return True
    if candidate.branch == current.branch:
        return candidate.round > current.round
    mine = (current.committed_tokens, current.round)
    theirs = (candidate.committed_tokens, candidate.round)
    return theirs > mine or (theirs == mine and candidate.branch < current.branch)


def outcome_of(
    advanced: Sequence[str], trained: Sequence[str], missing: Sequence[pb.Suspect]
) -> pb.Outcome:
    """FULL, PARTIAL or SKIPPED from what advanced, what was trained, and who was missing."""
    if not advanced:
        return pb.SKIPPED
    return pb.FULL if set(advanced) >= set(trained) and not missing else pb.PARTIAL
