"""What must be true in every world at each step, written down anew, not with the code under test.

- a branch has one record for a round, and a decision has one outcome, told or not;
- a commit has the votes of enough different electors, in one ballot, who were entitled to vote;
- the histories that peers follow are chains, and nobody goes back to a worse one; who follows one
  has all its links, so that whoever is left can show them to the others;
- what advanced was computed by a majority of its holders, from the contributors and weights that
  the record names, on the base that the record before names;
- a peer that calls itself level has exactly the state that its newest commit names;
- nobody goes back on a promise, and a promise or vote is on disk before it is told;
- a commit adds to the sums of contributions and to the bias what its round gave, and keeps the
  change of the run that is in effect, or has a newer one that the coordinator made;
- who resigned, or does not know any more what it promised, gives no word in that round, and nobody
  resigns that gave its word (the two lemmas of docs/adr/0001); somebody keeps the vote.

What must come about in the end is in ending.py.
"""

from __future__ import annotations

import hashlib
import itertools
from collections import defaultdict
from typing import TYPE_CHECKING, Any

from ledger_rules import wrong_sums
from rules import FRAGMENTS, RUN_ID, SIGNATURE, initial

from swarm.collective.consensus import decision_key, vote_text
from swarm.wire import collective_pb2 as pb

if TYPE_CHECKING:
    from world import Peer, World

    from swarm.collective.protocol import effects as fx
    from swarm.collective.protocol.memory import Word


class Violation(AssertionError):  # noqa: N818 - it is what a run ends with, not a mistake in it
    """A world in which something was true that must not be."""

    def __init__(self, rule: str, world: World) -> None:
        super().__init__(rule)
        self.rule = rule
        self.world = world


def identity(record: bytes) -> bytes:
    return hashlib.sha256(record).digest()


def better(record: pb.RoundRecord, than: pb.RoundRecord) -> bool:
    """True when everybody should follow `record` rather than the other."""
    if record.branch == than.branch:
        return bool(record.round > than.round)
    ours = (record.committed_tokens, record.round)
    theirs = (than.committed_tokens, than.round)
    return ours > theirs or (ours == theirs and record.branch < than.branch)


class Oracle:
    """Watches one world.

    Attributes:
        changed: something happened that may have made the swarm whole.
        records: all commits.
        new: ids of the commits since all was healed.
    """

    def __init__(self, world: World) -> None:
        self.world = world
        self.changed = False
        self.records: dict[bytes, pb.RoundRecord] = {}  # of commits
        self._rounds: dict[tuple[bytes, int], bytes] = {}
        self._follows: dict[str, bytes] = {}
        self._kept: dict[str, set[bytes]] = defaultdict(lambda: {b""})  # commits on each disk
        self._checked: dict[int, pb.Commit] = {}
        self._proposed: dict[bytes, pb.RoundRecord] = {}
        self._votes: dict[tuple[bytes, tuple[int, str], bytes], set[str]] = defaultdict(set)
        self._decided: dict[bytes, bytes] = {}
        self._ballots: dict[bytes, set[tuple[int, str]]] = defaultdict(set)
        self.new: set[bytes] = set()
        self._silent: dict[tuple[str, bytes], str] = {}  # (peer, decision) -> why it has no word

    def _require(self, holds: bool, rule: str) -> None:
        if not holds:
            raise type(self).violation(rule, self.world)

    violation = Violation

    # ---- votes ----------------------------------------------------------------------------

    def note_call(self, peer: Peer, effect: fx.Call) -> None:
        """Learn records from proposals; look at resignations."""
        message = effect.message
        if type(message) is pb.Resignation and message.signature and message.peer == peer.id:
            self._note_resignation(peer, message.base_commit)
        elif type(message) is pb.Accept:
            self._propose(message.record)
        elif type(message) is pb.Commit:
            self._see(message)

    def _propose(self, data: bytes) -> pb.RoundRecord:
        name = identity(data)
        if name not in self._proposed:
            self._proposed[name] = pb.RoundRecord.FromString(data)
        return self._proposed[name]

    def _note_resignation(self, peer: Peer, base: bytes) -> None:
        decision = self._majority_decision(base)
        word = peer.disk_word
        on_disk = word is not None and word.abstains_after == base
        self._require(on_disk, f"{peer.id} resigns before that is on its disk")
        given = decision in dict(word.acceptors)
        self._require(not given, f"{peer.id} resigns though it gave its word")
        self._silent[(peer.id, decision)] = "resigned"
        resigned = {
            n for (n, d), why in self._silent.items() if d == decision and why == "resigned"
        }
        somebody = not set(self.records[base].roster) <= resigned
        self._require(somebody, "all have given up their votes in one round")

    def note_doubt(self, peer: Peer) -> None:
        """A peer starts and can not read what it promised."""
        if peer.disk_commits:
            base = identity(peer.disk_commits[-1].record)
            self._silent[(peer.id, self._majority_decision(base))] = "forgot what it promised"

    def _majority_decision(self, base: bytes) -> bytes:
        return decision_key(base, self.records[base].round + 1, False, ())

    def note_answer(self, peer: Peer, request: Any, message: Any) -> None:
        """A promise or vote must be on disk when it is told."""
        if type(message) is pb.Promise and message.granted:
            who = request.electorate
            key = decision_key(request.base_commit, request.round, request.unanimous, who)
            promised = self._on_disk(peer, key)[0]
            ballot = (request.ballot.attempt, request.ballot.leader)
            self._require(promised >= ballot, f"{peer.id} tells a promise that is not on its disk")
        elif type(message) is pb.AcceptReply and message.vote.voter:
            vote = message.vote
            self._require(vote.voter == peer.id, f"{peer.id} votes as {vote.voter}")
            record = self._propose(request.record)
            key = decision_key(record.previous, record.round, record.unanimous, record.electorate)
            ballot = (vote.ballot.attempt, vote.ballot.leader)
            on_disk = self._on_disk(peer, key)[1:] == (ballot, request.record)
            self._require(on_disk, f"{peer.id} tells a vote that is not on its disk")
            self._vote(peer.id, ballot, vote.record_sha256)

    @staticmethod
    def _on_disk(peer: Peer, decision: bytes) -> Any:
        word = peer.disk_word
        nothing = ((0, ""), (0, ""), b"")
        return dict(word.acceptors).get(decision, nothing) if word is not None else nothing

    def note_word(self, peer: Peer, before: Word | None, word: Word) -> None:
        """What is on disk is a vote too; a leader's own is nowhere else."""
        old = dict(before.acceptors) if before is not None else {}
        for decision, (promised, accepted, data) in word.acceptors:
            was = old.get(decision)
            if was == (promised, accepted, data):
                continue
            silent = self._silent.get((peer.id, decision))
            self._require(silent is None, f"{peer.id} gives its word though it {silent}")
            if was is not None:
                self._require(promised >= was[0], f"{peer.id} takes a promise back")
            if data and (was is None or was[1:] != (accepted, data)):
                self._propose(data)
                self._vote(peer.id, accepted, identity(data))

    def _vote(self, voter: str, ballot: tuple[int, str], name: bytes) -> None:
        record = self._proposed.get(name)
        self._require(record is not None, f"{voter} votes for what nobody proposed")
        decision = self._decision(record)
        voters = self._votes[(decision, ballot, name)]
        voters.add(voter)
        ballots = self._ballots[name]
        if ballot not in ballots:
            ballots.add(ballot)
            if len(ballots) == 2:
                self.world.seen["record proposed again"] += 1
        if len(voters & self._electors(record)) >= self._needed(record):
            first = self._decided.setdefault(decision, name)
            self._require(first == name, "two records are decided in one decision")

    @staticmethod
    def _decision(record: pb.RoundRecord) -> Any:
        founders = tuple(sorted(record.electorate)) if record.unanimous else ()
        return (record.previous, record.round, founders)

    def _electors(self, record: pb.RoundRecord) -> set[str]:
        gone = {
            r.peer
            for r in record.resignations
            if r.base_commit == record.previous and r.signature == SIGNATURE
        }
        return set(record.electorate) - gone

    def _needed(self, record: pb.RoundRecord) -> int:
        electors = len(self._electors(record))
        return max(1, electors if record.unanimous else electors // 2 + 1)

    # ---- commits --------------------------------------------------------------------------

    def note_before(self, peer: Peer, commit: pb.Commit, record: pb.RoundRecord) -> None:
        """A commit that a peer follows from the beginning."""
        name = identity(commit.record)
        self.records[name] = record
        self._rounds[(record.branch, record.round)] = name
        self._follows[peer.id] = name
        self._kept[peer.id].add(name)

    def note_adopted(self, peer: Peer, commit: pb.Commit, links: tuple[pb.Commit, ...]) -> None:
        """A peer writes a commit down as its newest, and the links that lead to it."""
        for earlier, later in itertools.pairwise((*links, commit)):
            previous = self._propose(later.record).previous
            self._require(previous == self._see(earlier), f"{peer.id} keeps links that are none")
        name = self._see(commit)
        record = self.records[name]
        kept = self._kept[peer.id]
        kept.update(identity(link.record) for link in (*links, commit))
        first = self._propose((*links, commit)[0].record)
        self._require(first.previous in kept, f"{peer.id} lacks a link of its history")
        old = self._follows.get(peer.id)
        if old is not None and name != record.previous and record.previous != old:
            self._require(better(record, self.records[old]), f"{peer.id} goes back to a "
                          "worse history")  # fmt: skip
            self.world.seen["jump"] += 1
            if record.branch != self.records[old].branch:
                self.world.seen["merge"] += 1
        self._follows[peer.id] = name
        self.changed = True

    def _see(self, commit: pb.Commit) -> bytes:
        """Check a commit when it is seen for the first time; returns its id."""
        name = identity(commit.record)
        if id(commit) not in self._checked:
            self._check_commit(commit, name)
            self._checked[id(commit)] = commit  # kept, so that its id is not used again
        return name

    def _check_commit(self, commit: pb.Commit, name: bytes) -> None:
        record = self._propose(commit.record)
        electors = self._electors(record)
        by_ballot: dict[tuple[int, str], set[str]] = defaultdict(set)
        for vote in commit.votes:
            text = vote_text(RUN_ID, vote.ballot, commit.record)
            if vote.voter in electors and (vote.voter, text) in self.world.network.signed:
                by_ballot[(vote.ballot.attempt, vote.ballot.leader)].add(vote.voter)
        most = max((len(v) for v in by_ballot.values()), default=0)
        self._require(most >= self._needed(record), "a commit without the votes of a quorum")
        if name in self.records:
            return
        where = (record.branch, record.round)
        self._require(self._rounds.setdefault(where, name) == name, "two commits of one round "
                      "in one branch")  # fmt: skip
        self._check_ancestry(record)
        self._check_fragments(record)
        self._check_carried_on(record)
        self.records[name] = record
        self.new.add(name)
        self._count(record)

    def _check_ancestry(self, record: pb.RoundRecord) -> None:
        if not record.previous:
            self._require(record.unanimous and record.round == 0, "a beginning that is none")
            return
        before = self.records.get(record.previous)
        self._require(before is not None, "a commit follows nothing that is known")
        self._require(record.round == before.round + 1, "a round was left out")
        electorate, roster = set(record.electorate), set(before.roster)
        if record.unanimous:
            self._require(electorate <= roster, "strangers found a branch")
            self._require(record.branch != before.branch, "a founding without a branch")
        else:
            self._require(electorate == roster, "decided by others than the roster")
            self._require(record.branch == before.branch, "a branch that nobody founded")
        for word in record.resignations:
            entitled = self.world.network.signed
            text = b"|".join((b"expertswarm-resignation-1", RUN_ID, record.previous))
            self._require((word.peer, text) in entitled, f"{word.peer} never resigned")

    def _check_fragments(self, record: pb.RoundRecord) -> None:
        before = self.records.get(record.previous) if record.previous else None
        states = {o.state.fragment: o.state for o in before.fragments} if before else {}
        names = [o.state.fragment for o in record.fragments]
        self._require(names == sorted(FRAGMENTS), "a record without every fragment")
        for outcome in record.fragments:
            state = outcome.state
            old = states.get(state.fragment) or initial(state.fragment)
            base = old.theta_hash
            if not outcome.advanced:
                same = state.theta_hash == base and state.version == old.version
                self._require(same, f"{state.fragment} changed without having advanced")
                continue
            self._require(state.version == old.version + 1, "a version was left out")
            made_of = (state.fragment, base, tuple(outcome.contributors), tuple(outcome.weights))
            facts = self.world.engine.computed.get(state.theta_hash, set())
            makers: dict[Any, set[str]] = defaultdict(set)
            for *what, holders, maker in facts:
                if tuple(what) == made_of and maker in holders:
                    makers[holders].add(maker)
            enough = any(len(m) >= len(holders) // 2 + 1 for holders, m in makers.items())
            self._require(enough, f"{state.fragment} is not what its contributors make it")

    def _check_carried_on(self, record: pb.RoundRecord) -> None:
        """The sums, and the change of the run that is in effect."""
        before = self.records.get(record.previous) if record.previous else None
        wrong = wrong_sums(record, before)
        self._require(not wrong, wrong)
        old = before.change if before is not None else pb.SignedChange()
        if record.change == old:
            return
        payload = record.change.payload
        self._require(payload in self.world.steering.made, "a change that nobody made")
        numbers = [pb.RunChange.FromString(data).number for data in (old.payload, payload)]
        self._require(numbers[0] < numbers[1], "an older change takes the place of a newer one")
        self.world.seen["commit with a change"] += 1

    def _count(self, record: pb.RoundRecord) -> None:
        seen = self.world.seen
        seen[f"commit {pb.Outcome.Name(record.outcome)}"] += 1
        if record.unanimous and record.previous:
            seen["branch founded"] += 1
        if record.attempts > 1:
            seen["commit after several attempts"] += 1
        if record.resignations:
            seen["commit with resignations"] += 1
        if record.joined:
            seen["commit with newcomers"] += 1

    # ---- states ---------------------------------------------------------------------------

    def check_state(self, peer: Peer) -> None:
        """Whoever says that it is level has what its newest commit names."""
        memory = peer.machine.memory
        if peer.state is None or memory.record is None or not peer.machine.level:
            return
        seen = (peer.life, memory.commit_id, id(peer.state.fragments))
        if peer.verified == seen:
            return
        for outcome in memory.record.fragments:
            mine = peer.state.fragments.get(outcome.state.fragment)
            same = mine is not None and mine.theta_hash == outcome.state.theta_hash
            self._require(same, f"{peer.id} goes on with a state that is not the commit's")
        on_disk = peer.disk_commits and identity(peer.disk_commits[-1].record)
        self._require(on_disk == memory.commit_id, f"{peer.id} follows what is not on its disk")
        peer.verified = seen
        self.changed = True

    # ---- the end --------------------------------------------------------------------------

    def newest_records(self) -> list[pb.RoundRecord]:
        """What the peers follow, on their disks."""
        return [self.records[name] for name in set(self._follows.values())]

    def healed(self) -> None:
        """From now on a commit is a new one."""
        self.new.clear()
        self.changed = True
