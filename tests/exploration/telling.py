"""Messages and effects in a few words, for the story of a run."""

from __future__ import annotations

from typing import Any

from swarm.collective.consensus import commit_id
from swarm.collective.protocol import effects as fx
from swarm.wire import collective_pb2 as pb


def describe_message(message: Any) -> str:
    """A message in a few words."""
    kind = type(message).__name__
    if isinstance(message, pb.Plan):
        how = "founding " if message.unanimous else ""
        members = ",".join(m.peer for m in message.members)
        return f"Plan {ballot_text(message.ballot)} ({how}round {message.round} of {members})"
    if isinstance(message, pb.Promise):
        if not message.granted:
            return f"Promise refused ({message.reason})"
        voted = f", voted in {ballot_text(message.accepted_ballot)}" * bool(message.accepted_record)
        return f"Promise{voted}"
    if isinstance(message, pb.Accept):
        return f"Accept {ballot_text(message.ballot)} of {record_text(message.record)}"
    if isinstance(message, pb.AcceptReply):
        return "Vote" if message.vote.voter else f"no Vote ({message.reason})"
    if isinstance(message, pb.Commit):
        return f"Commit of {record_text(message.record)}"
    if isinstance(message, pb.Resignation):
        how = "(back)" if message.back else "" if message.signature else "(asks who stays)"
        return f"Resignation of {message.peer} {how}".strip()
    if isinstance(message, pb.Ready):
        return f"Ready for round {message.round}" + " (joining)" * message.joining
    if isinstance(message, pb.ReadyReply):
        status = pb.ReadyReply.Status.Name(message.status)
        return f"{status} {message.leader}".strip()
    return kind


def ballot_text(ballot: pb.Ballot) -> str:
    return f"{ballot.attempt}.{ballot.leader}"


def record_text(data: bytes) -> str:
    record = pb.RoundRecord.FromString(data)
    name = commit_id(data).hex()[:6]
    return f"{name} (round {record.round}, {pb.Outcome.Name(record.outcome)})"


def describe(effect: Any) -> str:
    """An effect in a few words."""
    if isinstance(effect, fx.Call):
        return f"call {effect.peer}: {describe_message(effect.message)}"
    if isinstance(effect, fx.Answer):
        return f"answer {describe_message(effect.message)}"
    if isinstance(effect, fx.Refuse):
        return f"refuse ({effect.error})"
    if isinstance(effect, fx.PersistCommit):
        return f"write the commit of {record_text(effect.commit.record)}"
    if isinstance(effect, fx.PersistWord):
        return "write its word"
    if isinstance(effect, fx.Emit):
        return f"note {effect.event.name} {effect.event.detail}".strip()
    if isinstance(effect, fx.Adopt):
        return "adopt it"
    return type(effect).__name__
