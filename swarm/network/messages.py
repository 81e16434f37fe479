"""Control messages over lanes that are open anyway, without p2pd between the two ends.

    reply = ask(pool, peer, data, limit)

What is said in a round takes turns with the bulk bytes of its exchange, between the same peers. A
lane that waits for its next call is a connection that both have authenticated; a message on it is
one more call, CALL(message) END up and CHUNK(reply) END down, after which the lane waits again.
The messages are the same signed envelopes (`swarm.network.envelope`) as by the other way.
"""

from __future__ import annotations

import time
from datetime import timedelta

from swarm.errors import Code, SwarmError
from swarm.network.calls import MAX_CALL_BYTES, failure_of
from swarm.network.framing import SocketLane
from swarm.network.lane import Kind
from swarm.network.lane_pool import LanePool
from swarm.wire.data_pb2 import Call

MAX_MESSAGE_BYTES = MAX_CALL_BYTES - 16  # without the field's tag and length; no reply is so small


def ask(pool: LanePool, peer: str, data: bytes, limit: timedelta) -> bytes:
    """The reply of `peer` to a message of up to `MAX_MESSAGE_BYTES`; blocking.

    Raises `PEER_UNREACHABLE` or `PEER_STALLED` when there is no idle lane, or it broke, or nothing
    came within `limit`: the peer may have got the message or not. Other idle lanes to it are ended
    too, as they go the same way. Raises `PEER_REFUSED` when it serves no messages, and
    `MESSAGE_MALFORMED` for what is no reply.
    """
    lane = pool.take(peer)
    if lane is None:
        raise SwarmError(Code.PEER_UNREACHABLE, f"{peer}: no lane is open to it")
    try:
        return ask_on(lane, data, limit)
    except SwarmError:
        lane.cancel()
        pool.drop_idle(peer)
        raise
    finally:
        pool.release(lane)  # closes it when the call did not end well


def ask_on(lane: SocketLane, data: bytes, limit: timedelta) -> bytes:
    """The reply to a message on a lane that is at rest; it is so again after a good one.

    Raises as `ask`, and `MESSAGE_MALFORMED` for what is no reply.
    """
    deadline_s = time.monotonic() + limit.total_seconds()
    lane.set_stall(limit)
    lane.send(Kind.CALL, 0, Call(message=data).SerializeToString())
    lane.send(Kind.END)
    frame = lane.receive_before(deadline_s)
    payload = lane.read()
    if frame.kind is Kind.FAILURE:
        raise failure_of(lane, payload)
    if frame.kind is not Kind.CHUNK or lane.receive_before(deadline_s).kind is not Kind.END:
        raise SwarmError(Code.MESSAGE_MALFORMED, f"{lane.peer}: not a reply")
    return payload
