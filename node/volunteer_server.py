"""What a volunteer tells the daemon by `node pause`, `resume`, `finish` and `limits`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from node.control_errors import passed_on
from node.governor import Governor
from node.verdict import Verdict
from swarm.wire import volunteer_pb2 as pb
from swarm.wire import volunteer_pb2_grpc


class VolunteerControl(volunteer_pb2_grpc.VolunteerServicer):  # type: ignore[misc]
    """Thin servicer: the governor decides."""

    def __init__(self, governor: Governor, finish: Callable[[], None]) -> None:
        self._governor = governor
        self._finish = finish

    @passed_on
    async def Pause(self, request: pb.PauseRequest, context: Any) -> pb.VerdictReply:  # noqa: N802
        """Train no more for some time."""
        return _reply(await self._governor.pause(request.seconds))

    @passed_on
    async def Resume(self, request: pb.ResumeRequest, context: Any) -> pb.VerdictReply:  # noqa: N802
        """Train again, as far as the limits allow."""
        return _reply(await self._governor.resume())

    @passed_on
    async def Finish(self, request: pb.FinishRequest, context: Any) -> pb.VerdictReply:  # noqa: N802
        """Stop after the open round."""
        self._finish()
        return _reply(self._governor.verdict)

    @passed_on
    async def Limit(self, request: pb.LimitRequest, context: Any) -> pb.LimitsReply:  # noqa: N802
        """Set some limits and say which there are."""
        verdict = self._governor.verdict
        if request.set:
            verdict = await self._governor.set_limits(dict(request.set))
        return pb.LimitsReply(limits=self._governor.limits.shown(), verdict=_reply(verdict))


def _reply(verdict: Verdict) -> pb.VerdictReply:
    return pb.VerdictReply(may_train=verdict.may_train, reason=verdict.reason)
