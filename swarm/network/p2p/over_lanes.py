"""Control messages over the lanes of a data plane, for an event loop; p2pd carries the rest.

over = OverLanes(plane, answer)                # in the event loop in which `answer` runs
reply = await over.ask(peer, data, limit)      # None: not so, ask by p2pd
over.close()
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import Future, ThreadPoolExecutor
from datetime import timedelta
from typing import Any

from swarm.errors import Code, SwarmError
from swarm.network.data_plane import DataPlane

logger = logging.getLogger(__name__)

AT_ONCE = 32  # messages under way, each in a thread; more go by p2pd

Answer = Callable[[str, bytes], Coroutine[Any, Any, bytes]]


class OverLanes:
    """See the module docstring. `answer(peer, data)` is the reply to a message of `peer`."""

    def __init__(self, plane: DataPlane, answer: Answer) -> None:
        self._plane = plane
        self._answer = answer
        self._loop = asyncio.get_running_loop()
        self._free = threading.Semaphore(AT_ONCE)
        self._threads = ThreadPoolExecutor(AT_ONCE, thread_name_prefix="message")
        plane.set_message_handler(self._begin_answer)

    async def ask(self, peer: str, data: bytes, limit: timedelta) -> bytes | None:
        """The reply of `peer`; None where no lane is open to it, or the lane broke.

        It may have got the message also when there is no reply.
        """
        if not self._plane.can_ask(peer, len(data)) or not self._free.acquire(blocking=False):
            return None
        try:
            asking = self._threads.submit(self._plane.ask, peer, data, limit)
        except RuntimeError:  # closed
            self._free.release()
            return None
        asking.add_done_callback(lambda _: self._free.release())
        try:
            return await asyncio.wrap_future(asking)
        except SwarmError as error:
            logger.info("a message goes by p2pd: %s", error)
            return None

    def close(self) -> None:
        """Ask nobody any more; the data plane ends the calls that are under way."""
        self._threads.shutdown(wait=False)

    def _begin_answer(self, peer: str, data: bytes) -> Future[bytes]:
        """In a lane's thread."""
        answering = self._answer(peer, data)
        try:
            return asyncio.run_coroutine_threadsafe(answering, self._loop)
        except RuntimeError as error:
            answering.close()
            raise SwarmError(Code.PEER_UNREACHABLE, "this node is stopping") from error
