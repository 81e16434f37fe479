"""May this node train now, and if not, why: one pure function.

    verdict = decide(limits, conditions, wish, now)
    verdict.may_train, verdict.reason           # reason is empty exactly when it may

`now` is local time. What was not measured is None or 0 and forbids nothing: a machine without a
battery is on mains, and one without a sensor is not hot.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from node.limits import Limits, Span

COOL_BY_C = 5.0  # a node that was too hot goes on when it is so much cooler, or it would flap


@dataclass(frozen=True)
class Wish:
    """What the volunteer asked for by command. `until`: local time; None is for good."""

    paused: bool = False
    until: datetime | None = None


@dataclass(frozen=True, kw_only=True)
class Conditions:
    """What was measured of the machine.

    `needed_bytes`: memory without which the training process can not work at all; `traffic_bytes`:
    bulk data of today, both directions.
    """

    on_mains: bool | None = None
    idle_s: float | None = None
    temperature_c: float | None = None
    traffic_bytes: int = 0
    needed_bytes: int = 0


@dataclass(frozen=True)
class Verdict:
    """See the module docstring.

    `hot`: too hot; `spent`: the day's traffic is used up, so that nothing is served either. Both
    also where another reason is given.
    """

    reason: str = ""
    hot: bool = False
    spent: bool = False

    @property
    def may_train(self) -> bool:
        """True when nothing forbids it."""
        return not self.reason


def decide(
    limits: Limits,
    conditions: Conditions,
    wish: Wish,
    now: datetime,
    before: Verdict = Verdict(),
) -> Verdict:
    """Whether to train now. `before` is the last verdict, which hysteresis needs."""
    heat, quota = _too_hot(limits, conditions, before), _quota_used(limits, conditions)
    reasons = (
        _asked_to(wish, now),
        _out_of_hours(limits.hours, now),
        "on battery" if limits.mains and conditions.on_mains is False else "",
        heat,
        _in_use(limits, conditions),
        quota,
        _no_room(limits, conditions),
    )
    return Verdict(next(filter(None, reasons), ""), hot=bool(heat), spent=bool(quota))


def _asked_to(wish: Wish, now: datetime) -> str:
    if not wish.paused or (wish.until is not None and now >= wish.until):
        return ""
    if wish.until is None:
        return "you asked it to pause; node resume ends that"
    return f"you asked it to pause until {_clock(wish.until, now)}"


def _out_of_hours(hours: Sequence[Span], now: datetime) -> str:
    if not hours or any(_within(span, now) for span in hours):
        return ""
    starts = [datetime.combine(now.date(), begin) for begin, _ in hours]
    begin = min(start if start > now else start + timedelta(days=1) for start in starts)
    return f"out of hours until {_clock(begin, now)}"


def _within(span: Span, now: datetime) -> bool:
    begin, end = span
    moment = now.time()
    return begin <= moment < end if begin < end else moment >= begin or moment < end


def _too_hot(limits: Limits, conditions: Conditions, before: Verdict) -> str:
    cap_c, found_c = limits.temperature_c, conditions.temperature_c
    if not cap_c or found_c is None:
        return ""
    resume_c = cap_c - COOL_BY_C
    if found_c < (resume_c if before.hot else cap_c):
        return ""
    return f"too hot: the limit is {cap_c:.0f} °C; it goes on below {resume_c:.0f} °C"


def _in_use(limits: Limits, conditions: Conditions) -> str:
    if not limits.idle_s or conditions.idle_s is None or conditions.idle_s >= limits.idle_s:
        return ""
    return f"the machine is in use; it must be idle for {limits.texts['idle']}"


def _quota_used(limits: Limits, conditions: Conditions) -> str:
    if not limits.daily_bytes or conditions.traffic_bytes < limits.daily_bytes:
        return ""
    quota = limits.texts["daily-traffic"]
    return f"today's {quota} of traffic are used; it goes on at midnight"


def _no_room(limits: Limits, conditions: Conditions) -> str:
    if not limits.memory_bytes or conditions.needed_bytes <= limits.memory_bytes:
        return ""
    needed_mb = conditions.needed_bytes / 1e6
    return f"training needs {needed_mb:.0f} MB of memory, the limit is {limits.texts['memory']}"


def _clock(moment: datetime, now: datetime) -> str:
    return f"{moment:%H:%M}" if moment.date() == now.date() else f"{moment:%a %H:%M}"
