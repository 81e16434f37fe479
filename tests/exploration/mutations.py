"""Deliberate bugs, one for each rule that safety rests on; the exploration has to catch each.

    with MUTATIONS["a vote is counted twice"]():
        findings = explore(range(1000))        # must break a rule

Each replaces a function or method of the code under test while the `with` block lasts.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator
from typing import Any
from unittest.mock import patch

from swarm.collective import consensus
from swarm.collective import record as drafting
from swarm.collective.consensus import BallotKey, quorum
from swarm.collective.protocol import (
    elector,
    history,
    leading,
    leaving,
    machine,
    planning,
    voting,
)
from swarm.collective.protocol.effects import Answer, PersistWord
from swarm.collective.protocol.memory import Memory
from swarm.collective.state import CanonicalState
from swarm.wire import collective_pb2 as pb

Mutation = Callable[[], contextlib.AbstractContextManager[Any]]
MUTATIONS: dict[str, Mutation] = {}


def mutation(name: str) -> Callable[[Callable[[], Iterator[None]]], Mutation]:
    """Register a generator that patches, yields and undoes."""

    def register(function: Callable[[], Iterator[None]]) -> Mutation:
        MUTATIONS[name] = contextlib.contextmanager(function)
        return MUTATIONS[name]

    return register


def everywhere(name: str, replacement: Any) -> contextlib.ExitStack:
    """Patch a function of `consensus` in every module of the collective that has imported it."""
    stack = contextlib.ExitStack()
    original = getattr(consensus, name)
    for path, module in list(sys.modules.items()):
        if path.startswith("swarm.collective") and getattr(module, name, None) is original:
            stack.enter_context(patch.object(module, name, replacement))
    return stack


# ---- votes --------------------------------------------------------------------------------


@mutation("a vote is counted twice")
def _twice() -> Iterator[None]:
    count = voting.Voting._count

    def counts_its_own_twice(self: Any, voter: str, reply: pb.AcceptReply) -> None:
        if voter == self._peer.setup.me and reply.vote.voter == voter:
            self._needed -= 1
        count(self, voter, reply)

    with patch.object(voting.Voting, "_count", counts_its_own_twice):
        yield


@mutation("a leader commits without a quorum")
def _hasty() -> Iterator[None]:
    def one_is_enough(electors: int, unanimous: bool = False) -> int:
        return 1

    with patch.object(voting, "quorum", one_is_enough):
        yield


@mutation("a quorum is half of the electors")
def _half() -> Iterator[None]:
    def half(electors: int, unanimous: bool = False) -> int:
        return electors if unanimous else max(1, (electors + 1) // 2)

    with everywhere("quorum", half):
        yield


@mutation("a majority founds a branch")
def _no_unanimity() -> Iterator[None]:
    def majority(electors: int, unanimous: bool = False) -> int:
        return quorum(electors)

    with everywhere("quorum", majority):
        yield


@mutation("an elector votes without having promised the ballot")
def _unpromised() -> Iterator[None]:
    on_accept = elector.Elector.on_accept

    def votes_for_all(self: Any, sender: str, accept: pb.Accept, call_id: int = 0) -> Any:
        record = consensus.parse_record(accept.record)
        decision = consensus.decision_key(
            record.previous, record.round, record.unanimous, record.electorate
        )
        acceptor = self._peer.memory.acceptor(decision)
        acceptor.promised = consensus.ballot_key(accept.ballot)
        return on_accept(self, sender, accept, call_id)

    with patch.object(elector.Elector, "on_accept", votes_for_all):
        yield


# ---- promises -----------------------------------------------------------------------------


@mutation("an acceptor forgets its word at a restart")
def _forgets() -> Iterator[None]:
    def recall(self: Memory, word: Any) -> None:
        return

    with patch.object(Memory, "recall", recall):
        yield


@mutation("a vote is told before it is on disk")
def _late_disk() -> Iterator[None]:
    handle = machine.PeerMachine.handle

    def answers_first(self: Any, event: Any, now: float) -> Any:
        effects = handle(self, event, now)
        words = [e for e in effects if isinstance(e, PersistWord)]
        if words and any(isinstance(e, Answer) for e in effects):
            return [e for e in effects if not isinstance(e, PersistWord)] + words
        return effects

    with patch.object(machine.PeerMachine, "handle", answers_first):
        yield


@mutation("an acceptor takes part in a lower ballot")
def _lower() -> Iterator[None]:
    def promise(self: consensus.Acceptor, ballot: BallotKey) -> bool:
        self.promised = ballot
        return True

    with patch.object(consensus.Acceptor, "promise", promise):
        yield


@mutation("a new leader ignores what was accepted before")
def _ignores() -> Iterator[None]:
    with everywhere("record_to_adopt", lambda promises: b""):
        yield


@mutation("a leader heeds only one of the promises")
def _heeds_one() -> Iterator[None]:
    best = consensus.record_to_adopt

    def first_only(promises: Any) -> bytes:
        return best(list(promises)[:1])

    with everywhere("record_to_adopt", first_only):
        yield


# ---- who decides --------------------------------------------------------------------------


@mutation("the electorate is who lives, not the roster")
def _living_only() -> Iterator[None]:
    electorate = leading.Leading._electorate
    objection = elector.Elector._objection

    def only_the_living(self: Any) -> tuple[list[str], bool]:
        peers, unanimous = electorate(self)
        return [p for p in peers if p not in self._standing.dead], unanimous

    def no_objection(self: Any, sender: str, plan: pb.Plan) -> str:
        reason = objection(self, sender, plan)
        return "" if "is not the roster" in reason else reason

    def follows_anyhow(record: Any, previous_id: bytes, previous: Any) -> bool:
        return bool(record.previous == previous_id)

    with (
        patch.object(leading.Leading, "_electorate", only_the_living),
        patch.object(elector.Elector, "_objection", no_objection),
        everywhere("follows", follows_anyhow),
    ):
        yield


@mutation("who resigned votes all the same")
def _resigned_votes() -> Iterator[None]:
    with patch.object(Memory, "abstains", property(lambda self: False)):
        yield


@mutation("who has given its word resigns")
def _resigns_late() -> Iterator[None]:
    with patch.object(Memory, "has_promised", property(lambda self: False)):
        yield


@mutation("one that has no vote says that it stays")
def _stays_without_vote() -> Iterator[None]:
    answer = leaving.Leaving.on_resignation

    def stays(self: Any, *arguments: Any) -> pb.ResignationReply:
        answer(self, *arguments)
        return pb.ResignationReply(staying=self._stage is leaving.Stage.STAYING)

    with patch.object(leaving.Leaving, "on_resignation", stays):
        yield


@mutation("a peer with damaged promises goes on as if it had given none")
def _no_doubt() -> Iterator[None]:
    with patch.object(Memory, "doubt", lambda self: self._acceptors.clear()):
        yield


# ---- what records carry on ----------------------------------------------------------------


@mutation("a change of the run lasts for one round")
def _forgets_the_change() -> Iterator[None]:
    newest = planning.newest_change

    def only_new(previous: Any, *arguments: Any) -> pb.SignedChange:
        found = newest(previous, *arguments)
        return found if previous is None or found != previous.change else pb.SignedChange()

    with (
        patch.object(planning, "newest_change", only_new),
        patch.object(elector, "check_change", lambda *arguments: None),
    ):
        yield


@mutation("a contribution is written down twice")
def _doubled() -> Iterator[None]:
    add = drafting.add_tallies

    def twice(draft: pb.RoundRecord, previous: Any, ready: Any) -> None:
        add(draft, previous, ready)
        for tally in draft.tallies:
            tally.tokens *= 2

    with (
        patch.object(drafting, "add_tallies", twice),
        patch.object(elector, "check_tallies", lambda *arguments: None),
    ):
        yield


# ---- results ------------------------------------------------------------------------------


@mutation("a peer keeps its own result although the commit has another")
def _stubborn() -> Iterator[None]:
    adopt = CanonicalState.adopt

    def keeps(self: Any, record: Any, wanted: Any) -> list[Any]:
        shadows = list(self._shadows)
        lacking = adopt(self, record, wanted)
        for version in list(lacking):
            if shadows and version.fragment in shadows[-1]:
                self.fragments[version.fragment] = shadows[-1][version.fragment]
                lacking.remove(version)
        return lacking

    with patch.object(CanonicalState, "adopt", keeps):
        yield


@mutation("a fragment advances by what a minority computed")
def _minority() -> Iterator[None]:
    results = consensus.fragment_results

    def any_result(plan: pb.Plan, reports: Any) -> Any:
        with patch.object(consensus, "quorum", lambda electors, unanimous=False: 1):
            return results(plan, reports)

    with patch.object(drafting, "fragment_results", any_result):
        yield


@mutation("a leader takes results of an earlier attempt")
def _old_results() -> Iterator[None]:
    begin, again = leading.Leading._begin, leading.Leading._again

    def keep(self: Any, **how: Any) -> None:
        if self._proposal is not None:
            self.kept = {p: r for p, r in self._proposal.reports.items() if not r.failure}
        again(self, **how)

    def begin_with_kept(self: Any) -> None:
        begin(self)
        kept = getattr(self, "kept", {})
        self._proposal.reports.update(
            {p: r for p, r in kept.items() if p in self._proposal.members}
        )

    with (
        patch.object(leading.Leading, "_again", keep),
        patch.object(leading.Leading, "_begin", begin_with_kept),
    ):
        yield


# ---- branches -----------------------------------------------------------------------------


@mutation("of two equal histories each finds the other better")
def _asymmetric() -> Iterator[None]:
    better = consensus.better_history

    def other_wins(candidate: Any, current: Any) -> bool:
        if current is not None and candidate.branch != current.branch:
            theirs = (candidate.committed_tokens, candidate.round)
            return bool(theirs >= (current.committed_tokens, current.round))
        return better(candidate, current)

    with everywhere("better_history", other_wins):
        yield


@mutation("two branches with equal tokens never merge")
def _never_merge() -> Iterator[None]:
    better = consensus.better_history

    def own_wins(candidate: Any, current: Any) -> bool:
        if current is not None and candidate.branch != current.branch:
            return bool(candidate.committed_tokens > current.committed_tokens)
        return better(candidate, current)

    with everywhere("better_history", own_wins):
        yield


@mutation("a peer keeps no links to the commit that it jumps to")
def _no_links() -> Iterator[None]:
    adopt = history.History.adopt

    def alone(self: Any, commit: pb.Commit, record: pb.RoundRecord, links: Any = ()) -> None:
        adopt(self, commit, record)

    with patch.object(history.History, "adopt", alone):
        yield
