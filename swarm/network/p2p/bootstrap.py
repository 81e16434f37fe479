"""Meeting the first peers: all addresses at once, again and again, until one answers or time is up.

Peers that are started together come up in any order, so an address that refuses now may answer in
a moment. Nobody goes on alone while the user named peers: that is how a swarm splits in two.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable, Sequence
from datetime import timedelta

from swarm.errors import Code, SwarmError

FIRST_DELAY_S = 0.1
LONGEST_DELAY_S = 2.0
OTHERS_WAIT = timedelta(seconds=1)  # for the other peers once one has answered
# No use to try again.
FINAL = (Code.RUN_MISMATCH, Code.NOT_ADMITTED, Code.PEER_REFUSED, Code.MESSAGE_VERSION)


async def bootstrap(
    greet: Callable[[str], Awaitable[None]],
    addresses: Sequence[str],
    limit: timedelta,
    *,
    required: bool,
) -> int:
    """Greet every address until it answers; returns how many did.

    Returns a second after the first one answered, or when all have. If none did within `limit`
    and one is `required`: raises `RUN_MISMATCH` (one of them is in another run),
    `NOT_ADMITTED`, or `BOOTSTRAP_UNREACHABLE`, which names each address and its reason.
    """
    reasons = {address: "no answer" for address in addresses}
    tasks = [asyncio.create_task(_greet_until_up(greet, a, reasons)) for a in addresses]
    try:
        met = await _wait_for_some(tasks, limit.total_seconds())
        if met == 0 and required:
            raise _bootstrap_error(tasks, reasons)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    return met


async def _greet_until_up(
    greet: Callable[[str], Awaitable[None]], address: str, reasons: dict[str, str]
) -> None:
    delay_s = FIRST_DELAY_S
    while True:
        try:
            return await greet(address)
        except SwarmError as error:
            reasons[address] = error.message
            if error.code in FINAL:
                raise
        await asyncio.sleep(delay_s)
        delay_s = min(1.6 * delay_s, LONGEST_DELAY_S)


async def _wait_for_some(tasks: Iterable[asyncio.Task[None]], limit_s: float) -> int:
    """Wait until a task succeeds and then a little for the others; the number that did."""
    pending = set(tasks)
    met = 0
    deadline_s = time.monotonic() + limit_s
    while pending and (left_s := deadline_s - time.monotonic()) > 0:
        done, pending = await asyncio.wait(
            pending, timeout=left_s, return_when=asyncio.FIRST_COMPLETED
        )
        succeeded = sum(task.exception() is None for task in done)
        if succeeded and not met:
            deadline_s = min(deadline_s, time.monotonic() + OTHERS_WAIT.total_seconds())
        met += succeeded
    return met


def _bootstrap_error(tasks: Iterable[asyncio.Task[None]], reasons: dict[str, str]) -> SwarmError:
    for task in tasks:
        error = task.exception() if task.done() and not task.cancelled() else None
        if isinstance(error, SwarmError) and error.code in (Code.RUN_MISMATCH, Code.NOT_ADMITTED):
            return error
    tried = "; ".join(f"{address} ({reason})" for address, reason in reasons.items())
    return SwarmError(
        Code.BOOTSTRAP_UNREACHABLE,
        f"none of {len(reasons)} peers answered: {tried}",
        "check that they run (`node status` there prints the address to use), and the firewall",
    )
