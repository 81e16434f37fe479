"""Decides again and again whether this node may train, and says so to whoever waits for it.

    governor = Governor(directory)
    async with asyncio.TaskGroup() ...: governor.run()
    await governor.while_allowed(train())    # cancelled as soon as training is not allowed
    await governor.until_allowed(say)        # `say` gets the reason whenever it changes
    governor.pause(seconds=7200); governor.resume(); governor.finish()
    governor.set_limits({"hours": "22-07"})

The decision is `node.verdict.decide`; what is measured for it is `node.sensors.measure`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Mapping
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from node.limits import Limits, load_limits, save_limits
from node.sensors import measure
from node.verdict import Conditions, Verdict, Wish, decide
from node.wishes import load_wish, save_wish
from swarm.errors import Code, SwarmError

LOOK_EVERY_S = 1.0
Sensors = Callable[[Limits], Conditions]


class Governor:
    """See the module docstring. Single event loop.

    Attributes:
        limits: as of now.
        verdict: of the last look.
        finishing: the node stops after the open round.
        on_limits: called with the limits when they change.
        on_verdict: called with the verdict when it changes.
    """

    def __init__(
        self,
        directory: Path,
        sensors: Sensors = measure,
        now: Callable[[], datetime] = datetime.now,
    ) -> None:
        self.limits = load_limits(directory)
        self.verdict = Verdict()
        self.finishing = False
        self.on_limits: Callable[[Limits], None] = lambda limits: None
        self.on_verdict: Callable[[Verdict], None] = lambda verdict: None
        self._directory = directory
        self._sensors = sensors
        self._now = now
        self._wish = load_wish(directory)
        self._conditions = Conditions()
        self._changed = asyncio.Condition()
        self._decide()

    async def run(self) -> None:
        """Measure and decide, for ever."""
        while True:
            await self.look()
            await asyncio.sleep(LOOK_EVERY_S)

    async def look(self) -> Verdict:
        """Measure and decide once."""
        self._conditions = await asyncio.to_thread(self._sensors, self.limits)
        await self._decide_and_tell()
        return self.verdict

    # ---- what the volunteer says ----------------------------------------------------------

    async def pause(self, seconds: float) -> Verdict:
        """Do not train for so long, other starts included; 0 is until `resume`.

        Raises as `save_wish`; the pause holds all the same, but ends with the process. Raises
        `CONFIG_INVALID` for an end that no calendar has.
        """
        try:
            until = self._now() + timedelta(seconds=seconds) if seconds else None
        except OverflowError:
            raise SwarmError(
                Code.CONFIG_INVALID, "too long a pause", "without a time it lasts until node resume"
            ) from None
        self._wish = Wish(paused=True, until=until)
        await self._decide_and_tell()
        await asyncio.to_thread(save_wish, self._directory, self._wish)
        return self.verdict

    async def resume(self) -> Verdict:
        """Train again, as far as the limits allow it. Raises as `save_wish`."""
        self._wish = Wish()
        await asyncio.to_thread(save_wish, self._directory, self._wish)
        return await self.look()

    async def set_limits(self, texts: Mapping[str, str]) -> Verdict:
        """Change limits, now and in node.toml. Raises as `Limits.changed` and `save_limits`."""
        limits = self.limits.changed(texts)
        if limits != self.limits:
            await asyncio.to_thread(save_limits, self._directory, limits)
            self.limits = limits
            self.on_limits(limits)
        return await self.look()

    # ---- for those who train --------------------------------------------------------------

    async def while_allowed(self, work: Coroutine[Any, Any, None]) -> None:
        """Run `work` to its end, or cancel it when training is not allowed any more."""
        task = asyncio.ensure_future(work)
        forbidden = asyncio.create_task(self._wait_for(lambda: not self.verdict.may_train))
        try:
            await asyncio.wait({task, forbidden}, return_when=asyncio.FIRST_COMPLETED)
            if task.done():
                task.result()
        finally:
            task.cancel()
            forbidden.cancel()
            await asyncio.gather(task, forbidden, return_exceptions=True)

    async def until_allowed(self, say: Callable[[str], None]) -> None:
        """Wait until training is allowed; `say` is told the reason, now and when it changes."""
        while not self.verdict.may_train:
            reason = self.verdict.reason
            say(reason)
            await self._wait_for(lambda reason=reason: self.verdict.reason != reason)  # type: ignore[misc]

    async def _wait_for(self, condition: Callable[[], bool]) -> None:
        async with self._changed:
            await self._changed.wait_for(condition)

    def _decide(self) -> None:
        self.verdict = decide(self.limits, self._conditions, self._wish, self._now(), self.verdict)

    async def _decide_and_tell(self) -> None:
        before = self.verdict
        self._decide()
        if self.verdict != before:
            self.on_verdict(self.verdict)
            async with self._changed:
                self._changed.notify_all()
