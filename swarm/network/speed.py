"""How fast is the way to a peer: messages of growing size, there and back.

    network.serve(SpeedTest, SpeedService(trusted).answer)
    speed = await measure_speed(network.call, peer, time.monotonic)       # bits per second

Control messages go the same way through p2pd as relayed bulk data does. Sizes grow until one takes
long enough to be measured, so a slow link is not filled for minutes and a fast one gets to speed.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import timedelta

from swarm.errors import Code, SwarmError
from swarm.network.limits import SPEED_TESTS, RequestLimits
from swarm.wire.control_pb2 import SpeedTest, SpeedTestReply

LARGEST_BYTES = 2**21
SMALLEST_BYTES = 2**16
LONG_ENOUGH_S = 0.5
REPEATS = 3  # of the largest size: TCP takes some round trips to get to speed
CALL_WAIT = timedelta(seconds=15)
Call = Callable[[str, SpeedTest, type[SpeedTestReply], timedelta], Awaitable[SpeedTestReply]]


@dataclass(frozen=True)
class Speed:
    """Bits per second, and the round trip in seconds."""

    up_bps: float
    down_bps: float
    round_trip_s: float


class SpeedService:
    """Answers speed tests within a budget; `trusted` as for `RequestLimits`."""

    def __init__(self, trusted: Callable[[str], bool]) -> None:
        self._limits = RequestLimits(SPEED_TESTS, trusted)

    async def answer(self, sender: str, request: SpeedTest) -> SpeedTestReply:
        """Raises `OVER_LIMIT`, also for a reply larger than `LARGEST_BYTES`."""
        if request.wanted > LARGEST_BYTES:
            raise SwarmError(Code.OVER_LIMIT, f"a speed test of {request.wanted} bytes")
        size = len(request.payload) + request.wanted
        self._limits.take(sender, size, time.monotonic())
        try:
            return SpeedTestReply(payload=secrets.token_bytes(request.wanted))
        finally:
            self._limits.done(sender)


async def measure_speed(call: Call, peer: str, clock: Callable[[], float]) -> Speed:
    """The best rates of a few messages each way. Raises as `Transport.call`."""
    blob = secrets.token_bytes(LARGEST_BYTES)

    async def seconds(up: int, down: int) -> float:
        began_s = clock()
        request = SpeedTest(payload=blob[:up], wanted=down)
        await call(peer, request, SpeedTestReply, CALL_WAIT)
        return clock() - began_s

    round_trip_s = min([await seconds(0, 0) for _ in range(3)])
    up_bps = await _best_bps(lambda size: seconds(size, 0), round_trip_s)
    down_bps = await _best_bps(lambda size: seconds(0, size), round_trip_s)
    return Speed(up_bps, down_bps, round_trip_s)


async def _best_bps(seconds: Callable[[int], Awaitable[float]], round_trip_s: float) -> float:
    sizes = [SMALLEST_BYTES]
    while sizes[-1] < LARGEST_BYTES:
        sizes.append(2 * sizes[-1])
    sizes += [LARGEST_BYTES] * (REPEATS - 1)
    best_bps = 0.0
    for size in sizes:
        took_s = await seconds(size)
        # Of a short message most of the time is the round trip, and the rest is noise.
        moving_s = max(took_s - round_trip_s, took_s / 10)
        best_bps = max(best_bps, 8 * size / moving_s)
        if took_s > LONG_ENOUGH_S and size < LARGEST_BYTES:
            break
    return best_bps
