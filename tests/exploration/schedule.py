"""Where a world asks what goes wrong, so that a run can be repeated with less going wrong.

    schedule = Schedule.random(seed)              # every question is answered by chance, and noted
    delay = schedule.ask(("a", "b", "Plan", 0), 0.01, lambda rng: rng.expovariate(20))
    again = Schedule.replay(schedule.script)      # the same answers, without chance
    shortest = shrink(schedule.script, still_fails)

A question has a name that does not depend on the order in which questions are asked, and a
harmless default answer. A script holds the answers that were not the default; dropping one makes
the run more ordinary and leaves the others in place.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Hashable
from typing import Any

Script = dict[Hashable, Any]


class Schedule:
    """See the module docstring. `script` is complete when the run is over."""

    def __init__(self, rng: random.Random | None, script: Script) -> None:
        self._rng = rng
        self.script = script

    @classmethod
    def random(cls, seed: int) -> Schedule:
        """Answers drawn from a seed."""
        return cls(random.Random(seed), {})

    @classmethod
    def replay(cls, script: Script) -> Schedule:
        """The answers of an earlier run, and the default for everything else."""
        return cls(None, script)

    def ask(self, name: Hashable, default: Any, draw: Callable[[random.Random], Any]) -> Any:
        """The answer to `name`."""
        if self._rng is None:
            return self.script.get(name, default)
        answer = draw(self._rng)
        if answer != default:
            self.script[name] = answer
        return answer


def shrink(script: Script, still_fails: Callable[[Script], bool], tries: int = 2000) -> Script:
    """A smaller script that still fails: halves are dropped, then quarters, down to single answers.

    Delta debugging after Zeller, without its complements' bookkeeping; at most `tries` runs.
    """
    items = list(script.items())
    size = max(1, len(items) // 2)
    while tries > 0:
        start, dropped = 0, False
        while start < len(items) and tries > 0:
            candidate = items[:start] + items[start + size :]
            tries -= 1
            if still_fails(dict(candidate)):
                items, dropped = candidate, True
            else:
                start += size
        if size == 1 and not dropped:
            break
        size = max(1, size // 2) if not dropped or size > 1 else 1
    return dict(items)
