"""Waiting for something that another process does, and that has to be asked for."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

from swarm.errors import SwarmError

POLL_S = 0.1
T = TypeVar("T")


def wait_for(look: Callable[[], T | None], limit_s: float, late: SwarmError) -> T:
    """Look again and again until there is something true to return.

    Raises `late` after `limit_s` seconds, and whatever `look` raises.
    """
    deadline_s = time.monotonic() + limit_s
    while not (found := look()):
        if time.monotonic() > deadline_s:
            raise late
        time.sleep(POLL_S)
    return found
