"""The daemon's control API: gRPC on a Unix socket that only the user can reach."""

from __future__ import annotations

import contextlib
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import grpc

from node.daemon_status import Status
from node.paths import socket_path
from node.volunteer_server import VolunteerControl
from swarm.errors import Code, SwarmError
from swarm.wire import node_pb2, node_pb2_grpc, volunteer_pb2_grpc

StatusSource = Callable[[], Awaitable[node_pb2.StatusReply]]


class NodeControl(node_pb2_grpc.NodeControlServicer):  # type: ignore[misc]
    """Thin servicer: everything it says comes from the daemon."""

    def __init__(
        self,
        status: Status,
        snapshot: StatusSource,
        stop: Callable[[str], None],
        change: Callable[[bytes], int] | None = None,
    ) -> None:
        self._status = status
        self._change = change
        self._snapshot = snapshot
        self._stop = stop

    async def Status(self, request: node_pb2.StatusRequest, context: Any) -> node_pb2.StatusReply:  # noqa: N802
        """What the node does now."""
        return await self._snapshot()

    async def Stop(self, request: node_pb2.StopRequest, context: Any) -> node_pb2.StopReply:  # noqa: N802
        """Begin to stop."""
        self._stop(request.reason)
        return node_pb2.StopReply(stopping=True)

    async def GetHistory(  # noqa: N802
        self, request: node_pb2.HistoryRequest, context: Any
    ) -> node_pb2.HistoryReply:
        """Rounds that this node has seen committed."""
        rounds = [r for r in self._status.rounds if r.round > request.after_round]
        return node_pb2.HistoryReply(rounds=rounds)

    async def GetLog(self, request: node_pb2.LogRequest, context: Any) -> node_pb2.LogReply:  # noqa: N802
        """The last lines that this node reported."""
        return node_pb2.LogReply(lines=self._status.log.after(request.after))

    async def ChangeRun(  # noqa: N802
        self, request: node_pb2.ChangeRequest, context: Any
    ) -> node_pb2.ChangeReply:
        """Take a signed change of the run and bring it to the others."""
        if self._change is None:
            text = "a relay is no member of the run; ask a node that trains"
            return node_pb2.ChangeReply(code=Code.USAGE.value, message=text)
        try:
            self._change(request.change)
        except SwarmError as error:
            return node_pb2.ChangeReply(code=error.code.value, message=error.message)
        return node_pb2.ChangeReply()


@contextlib.asynccontextmanager
async def control_server(
    directory: Path, servicer: NodeControl, volunteer: VolunteerControl | None = None
) -> Any:
    """Serve on `<directory>/node.sock` for the length of the block; the socket goes with it.

    The process's umask must keep others from the socket, as `run_daemon` makes sure.
    """
    path = socket_path(directory)
    path.unlink(missing_ok=True)  # of a node that was killed; the directory's lock is ours
    server = grpc.aio.server()
    node_pb2_grpc.add_NodeControlServicer_to_server(servicer, server)  # type: ignore[no-untyped-call]
    if volunteer is not None:
        volunteer_pb2_grpc.add_VolunteerServicer_to_server(volunteer, server)  # type: ignore[no-untyped-call]
    server.add_insecure_port(f"unix:{path}")
    await server.start()
    try:
        yield
    finally:
        await server.stop(grace=0.5)
        path.unlink(missing_ok=True)
