"""Draws the dashboard: `render(snapshot, view, width, height)` and nothing else. Pure."""

from __future__ import annotations

from dataclasses import dataclass, replace

from rich.console import Group, RenderableType
from rich.text import Text

from node.dashboard.layout import draw, line
from node.dashboard.pages import PAGES
from node.dashboard.snapshot import Snapshot
from node.dashboard.words import clock
from node.status_view import STATE_STYLES, human_seconds

FRAME_LINES = 4
ALL_LINES = 1 << 20
NAMES = tuple(PAGES)
KEYS = (
    ("1 to 7, tab", "page"),
    ("up, down", "scroll"),
    ("page up, page down", "scroll ten lines"),
    ("space", "hold still, go on; in a recording: stop, play"),
    ("left, right", "in a recording: back, forward"),
    ("home, end", "in a recording: its begin, its end; elsewhere: top"),
    ("?", "these keys"),
    ("q, Ctrl-C", "leave"),
)


@dataclass(frozen=True)
class Slider:
    """Where a replay is, in Unix time."""

    start_ms: int
    end_ms: int
    at_ms: int
    playing: bool = False

    def to(self, at_ms: int) -> Slider:
        """The slider at another moment, at its end at most; there it stops playing."""
        at_ms = min(max(at_ms, self.start_ms), self.end_ms)
        return replace(self, at_ms=at_ms, playing=self.playing and at_ms < self.end_ms)


@dataclass(frozen=True)
class View:
    """What the user chose to see."""

    page: str = NAMES[0]
    scroll: int = 0
    help: bool = False
    held: bool = False
    slider: Slider | None = None


def render(snapshot: Snapshot, view: View, width: int, height: int) -> RenderableType:
    """The whole screen: exactly `height` lines of at most `width` characters."""
    room = max(0, height - FRAME_LINES)
    if view.help:
        body: RenderableType = Group(*(line((f"{key:<20}", "bold"), what) for key, what in KEYS))
        used = len(KEYS)
    else:
        body, used = draw(PAGES[view.page](snapshot), width, room, view.scroll)
    filler = [line()] * max(0, room - used)
    return Group(
        _head(snapshot), _tabs(view), line(), body, *filler, _foot(snapshot, view, width)
    )  # fmt: skip


def plain(snapshot: Snapshot, view: View, width: int) -> RenderableType:
    """A page for paper: all its lines, without tabs and keys."""
    body, _ = draw(PAGES[view.page](snapshot), width, ALL_LINES, 0)
    return Group(_head(snapshot), line(), body)


def _head(snapshot: Snapshot) -> Text:
    status = snapshot.status
    if snapshot.silent_since_ms:
        silent = human_seconds((snapshot.at_ms - snapshot.silent_since_ms) / 1000)
        state, reason = ("NO ANSWER", "bold red"), f" for {silent}; below is what it last said"
    else:
        age = human_seconds((snapshot.at_ms - status.since_ms) / 1000)
        state = (status.state, STATE_STYLES.get(status.state, "bold"))
        reason = f" for {age}: {status.reason}" if status.reason else f" for {age}"
    who = f"{status.display_name} in {status.run_name}  "
    return line((who, "bold"), state, reason)


def _tabs(view: View) -> Text:
    parts = []
    for number, name in enumerate(NAMES, 1):
        chosen = name == view.page and not view.help
        parts.append(
            (f"[{number} {name}]" if chosen else f" {number} {name} ", "bold" if chosen else "dim")
        )
    return line(*parts)


def _foot(snapshot: Snapshot, view: View, width: int) -> Text:
    if view.slider is not None:
        return _slider(view.slider, width)
    held = ("held  ", "yellow") if view.held else ""
    return line(held, ("1-7 page  up/down scroll  space hold  ? keys  q leave", "dim"))


def _slider(slider: Slider, width: int) -> Text:
    """`> 13:45:10  ━━━━━━──────  12 s of 3 min`."""
    passed, whole = slider.at_ms - slider.start_ms, max(1, slider.end_ms - slider.start_ms)
    mark = ">" if slider.playing else "="
    left = f"{mark} {clock(slider.at_ms)}  "
    right = f"  {human_seconds(passed / 1000)} of {human_seconds(whole / 1000)}  ? keys"
    bar = max(4, width - len(left) - len(right))
    done = round(bar * min(1.0, passed / whole))
    return line(left, ("━" * done, "cyan"), ("─" * (bar - done), "dim"), right)
