"""Keys of the dashboard: bytes to names, names to what is shown. Pure, but for `typed`."""

from __future__ import annotations

import contextlib
import os
import re
import select
import sys
import termios
import tty
from collections.abc import Callable, Iterator
from dataclasses import replace

from node.dashboard.view import NAMES, View

SEQUENCES = {
    "[A": "up", "[B": "down", "[C": "right", "[D": "left", "[Z": "back tab",
    "[H": "home", "[F": "end", "[1~": "home", "[4~": "end", "[5~": "page up", "[6~": "page down",
    "OA": "up", "OB": "down", "OC": "right", "OD": "left", "OH": "home", "OF": "end",
}  # fmt: skip
PLAIN = {"\t": "tab", " ": "space", "k": "up", "j": "down", "h": "left", "l": "right"}
TOKEN = re.compile(r"\x1b(\[[0-9;]*[A-Za-z~]|O[A-Za-z])|(.)", re.DOTALL)
SCROLL = {"up": -1, "down": 1, "page up": -10, "page down": 10}
SLIDER_STEPS = 40  # presses of a key from one end of a recording to the other
MIN_STEP_MS = 1000


def decode(data: bytes) -> list[str]:
    """Names of the keys in what a terminal sent; what is not known is left out."""
    found = []
    for sequence, character in TOKEN.findall(data.decode("utf-8", "replace")):
        name = SEQUENCES.get(sequence) if sequence else PLAIN.get(character, character)
        if name and name.isprintable():
            found.append(name)
    return found


def press(view: View, key: str) -> View | None:
    """What is shown after a key; None: nothing any more."""
    if key == "q":
        return None
    if key == "?" or view.help:
        return replace(view, help=not view.help)
    if key.isdecimal() and 1 <= int(key) <= len(NAMES):
        return replace(view, page=NAMES[int(key) - 1], scroll=0)
    if key in ("tab", "back tab"):
        step = 1 if key == "tab" else -1
        return replace(view, page=NAMES[(NAMES.index(view.page) + step) % len(NAMES)], scroll=0)
    if key in SCROLL:
        return replace(view, scroll=max(0, view.scroll + SCROLL[key]))
    if view.slider is not None:
        return _slide(view, key)
    if key == "space":
        return replace(view, held=not view.held)
    return replace(view, scroll=0) if key == "home" else view


def _slide(view: View, key: str) -> View:
    slider = view.slider
    assert slider is not None
    step = max(MIN_STEP_MS, (slider.end_ms - slider.start_ms) // SLIDER_STEPS)
    targets = {
        "left": slider.at_ms - step, "right": slider.at_ms + step,
        "home": slider.start_ms, "end": slider.end_ms,
    }  # fmt: skip
    if key == "space":
        return replace(view, slider=replace(slider, playing=not slider.playing))
    return replace(view, slider=slider.to(targets[key])) if key in targets else view


@contextlib.contextmanager
def typed() -> Iterator[Callable[[float], list[str]]]:
    """Gives a function that waits so many seconds for keys, on a terminal as it was left after.

    Where standard input is no terminal it only waits.
    """
    stdin = sys.stdin.fileno()
    before = termios.tcgetattr(stdin) if os.isatty(stdin) else None

    def read(wait_s: float) -> list[str]:
        watched = [stdin] if before is not None else []
        ready, _, _ = select.select(watched, [], [], wait_s)
        return decode(os.read(stdin, 1024)) if ready else []

    if before is not None:
        tty.setcbreak(stdin)
    try:
        yield read
    finally:
        if before is not None:
            termios.tcsetattr(stdin, termios.TCSADRAIN, before)
