"""Which history a peer follows: commits it is told of, checked, and adopted or refused.

The direct successor of the newest commit is followed. Anything else must be of a better history
and be shown, link by link, to come from a commit known here.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from swarm.collective.consensus import (
    better_history,
    commit_id,
    follows,
    parse_record,
    verify_commit,
)
from swarm.collective.context import RoundEvent
from swarm.collective.ledger import KEPT_COMMITS
from swarm.collective.validate import grows_plausibly
from swarm.errors import SwarmError
from swarm.identity import verify
from swarm.wire import collective_pb2 as pb

if TYPE_CHECKING:
    from swarm.collective.member import RoundMember


class History:
    """Answers Commit and GetCommit for a `RoundMember`, and looks at what others follow."""

    def __init__(self, member: RoundMember) -> None:
        self._member = member
        self._ledger = member.ledger
        serve = member.context.transport.serve
        serve(pb.Commit, self._on_commit)
        serve(pb.GetCommit, self._on_get_commit)

    async def _on_commit(self, sender: str, commit: pb.Commit) -> pb.CommitReply:
        self._member.heard_from(sender)
        return pb.CommitReply(adopted=await self.consider(commit, sender))

    async def _on_get_commit(self, sender: str, request: pb.GetCommit) -> pb.GetCommitReply:
        commit = self._ledger.commit if request.latest else self._ledger.find(request.round)
        if commit is None:
            return pb.GetCommitReply()
        reply = pb.GetCommitReply(commit=commit)
        for peer in parse_record(commit.record).roster:
            signed = self._member.context.directory.signed(peer)
            if signed is not None:
                reply.members.append(pb.Member(peer=peer, record=signed))
        return reply

    async def catch_up(self, peer: str, *, trusting: bool = False) -> None:
        """Ask a peer that seems ahead for its newest commit; see `consider`."""
        member = self._member
        with contextlib.suppress(SwarmError):
            reply = await member.call(peer, pb.GetCommit(latest=True), pb.GetCommitReply)
            if reply.commit.record:
                for known in reply.members:
                    member.context.directory.note(known.record)
                await self.consider(reply.commit, peer, trusting=trusting)

    async def consider(self, commit: pb.Commit, source: str, *, trusting: bool = False) -> bool:
        """Adopt a commit that `source` told of, if it is ours to follow; True when it was adopted.

        `trusting` skips the links: a newcomer has no history to compare with and takes what is
        well voted. Raises `COMMIT_INVALID`, or `DISK_FULL` when it could not be kept.
        """
        member = self._member
        record = verify_commit(commit, member.run_id, verify)
        current = self._ledger.record
        successor = follows(record, self._ledger.commit_id, current) and not record.unanimous
        if successor and not grows_plausibly(record, current, member.max_round_tokens):
            return False
        if not successor:
            if not better_history(record, current):
                return False
            if not trusting and not await self._descends(record, source):
                detail = f"{source} could not show where it comes from"
                member.context.emit(RoundEvent("commit_refused", record.round, detail))
                return False
        await member.adopt(commit, record)
        return True

    async def _descends(self, record: pb.RoundRecord, source: str) -> bool:
        """True when `source` can show the links from a commit known here to `record`."""
        for _ in range(KEPT_COMMITS):
            ancestor = self._ledger.knows(record.previous)
            if ancestor is not None or not record.previous:
                return self._links(record, ancestor)
            request = pb.GetCommit(round=record.round - 1)
            reply = await self._member.call(source, request, pb.GetCommitReply)
            if commit_id(reply.commit.record) != record.previous:
                return False
            link = verify_commit(reply.commit, self._member.run_id, verify)
            if not self._links(record, link):
                return False
            record = link
        return False

    def _links(self, record: pb.RoundRecord, previous: pb.RoundRecord | None) -> bool:
        legitimate = follows(record, record.previous, previous)
        return legitimate and grows_plausibly(record, previous, self._member.max_round_tokens)
