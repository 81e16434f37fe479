"""Client of a daemon's control API: gRPC over the Unix socket in the node's directory.

with ControlClient(directory) as control:
    print(control.status().state)
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any, cast

import grpc

from node.control_errors import REFUSED, error_in
from node.paths import socket_path
from swarm.config import RunManifest
from swarm.errors import Code, SwarmError
from swarm.wire import node_pb2, node_pb2_grpc, volunteer_pb2, volunteer_pb2_grpc

TIMEOUT = timedelta(seconds=5)
# A proxy of the environment has no part in a Unix socket.
CHANNEL_OPTIONS = [("grpc.enable_http_proxy", 0), ("grpc.max_receive_message_length", 64 << 20)]


class ControlClient:
    """Asks one daemon. Not for use by several threads."""

    def __init__(self, directory: Path, timeout: timedelta = TIMEOUT) -> None:
        self.directory = directory
        self._timeout_s = timeout.total_seconds()
        self._channel = grpc.insecure_channel(
            f"unix:{socket_path(directory)}", options=CHANNEL_OPTIONS
        )
        self._stub: Any = node_pb2_grpc.NodeControlStub(self._channel)  # type: ignore[no-untyped-call]
        self._volunteer: Any = volunteer_pb2_grpc.VolunteerStub(self._channel)  # type: ignore[no-untyped-call]

    def __enter__(self) -> ControlClient:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection."""
        self._channel.close()

    def status(self) -> node_pb2.StatusReply:
        """What the node does now. Raises `NODE_NOT_RUNNING` or `STAGE_TIMEOUT`."""
        reply: node_pb2.StatusReply = self._call(self._stub.Status, node_pb2.StatusRequest())
        return reply

    def status_in(self, manifest: RunManifest) -> node_pb2.StatusReply:
        """As `status`, of a node that has to be in that run. Raises `RUN_MISMATCH` too."""
        status = self.status()
        if status.run_id != manifest.run_id.hex():
            raise SwarmError(
                Code.RUN_MISMATCH,
                f"the node in {self.directory} is in run {status.run_id[:16]}, "
                f"the manifest is of run {manifest.run_id.hex()[:16]}",
                "name the manifest of that run, or another node with --dir",
            )
        return status

    def stop(self, reason: str) -> bool:
        """Ask the daemon to stop; returns at once. Errors as for `status`."""
        reply: node_pb2.StopReply = self._call(self._stub.Stop, node_pb2.StopRequest(reason=reason))
        return reply.stopping

    def pause(self, seconds: float = 0.0) -> volunteer_pb2.VerdictReply:
        """Train no more for so long; 0 is until `resume`.

        Errors as for `status`, and those of `Governor.pause`.
        """
        request = volunteer_pb2.PauseRequest(seconds=seconds)
        return cast(volunteer_pb2.VerdictReply, self._call(self._volunteer.Pause, request))

    def resume(self) -> volunteer_pb2.VerdictReply:
        """Train again, as far as the limits allow. Errors as for `pause`."""
        request = volunteer_pb2.ResumeRequest()
        return cast(volunteer_pb2.VerdictReply, self._call(self._volunteer.Resume, request))

    def finish(self) -> None:
        """Let the daemon stop after the open round; returns at once. Errors as for `status`."""
        self._call(self._volunteer.Finish, volunteer_pb2.FinishRequest())

    def limit(self, texts: Mapping[str, str]) -> volunteer_pb2.LimitsReply:
        """Set limits (`off` clears one) and return all of them.

        Errors as for `status`, and those of `Governor.set_limits`.
        """
        request = volunteer_pb2.LimitRequest(set=texts)
        return cast(volunteer_pb2.LimitsReply, self._call(self._volunteer.Limit, request))

    def history(self, after_round: int = 0) -> list[node_pb2.RoundSummary]:
        """Rounds later than `after_round` that this node knows of. Errors as for `status`."""
        reply: node_pb2.HistoryReply = self._call(
            self._stub.GetHistory, node_pb2.HistoryRequest(after_round=after_round)
        )
        return list(reply.rounds)

    def log(self, after: int = 0) -> list[node_pb2.LogLine]:
        """Lines with a number above `after` that the node still has. Errors as for `status`."""
        reply: node_pb2.LogReply = self._call(self._stub.GetLog, node_pb2.LogRequest(after=after))
        return list(reply.lines)

    def change_run(self, change: bytes) -> None:
        """Hand over a serialized `SignedChange`. Raises why it is refused; else as `status`."""
        reply: node_pb2.ChangeReply = self._call(
            self._stub.ChangeRun, node_pb2.ChangeRequest(change=change)
        )
        if reply.code:
            raise SwarmError(Code(reply.code), reply.message)

    def _call(self, method: Any, request: Any) -> Any:
        try:
            return method(request, timeout=self._timeout_s)
        except grpc.RpcError as error:
            raise self._translated(error) from None

    def _translated(self, error: Any) -> SwarmError:
        code = error.code()
        if code is REFUSED:
            return error_in(error.details())
        if code is grpc.StatusCode.UNAVAILABLE:
            return SwarmError(
                Code.NODE_NOT_RUNNING,
                f"no node is running in {self.directory}",
                "start one with: node start, or name its directory with --dir",
            )
        if code is grpc.StatusCode.UNIMPLEMENTED:
            return SwarmError(
                Code.USAGE,
                f"the node in {self.directory} is a relay, which trains nothing",
                "it can be stopped with: node stop",
            )
        if code is grpc.StatusCode.DEADLINE_EXCEEDED:
            return SwarmError(
                Code.STAGE_TIMEOUT,
                f"the node in {self.directory} runs but did not answer in {self._timeout_s:g} s",
                "the machine may be overloaded; ask again",
            )
        return SwarmError(Code.INTERNAL, f"control API: {code.name}: {error.details()}")
