"""One peer's part in the round protocol, pure: `handle(event, now) -> effects`."""

from __future__ import annotations

import random

from swarm.collective.protocol.effects import Effect
from swarm.collective.protocol.events import Event
from swarm.collective.protocol.memory import Memory
from swarm.collective.protocol.setup import Setup


class PeerMachine:
    """See the package's docstring.

    A restart is a new machine with what was persisted: `memory.adopt` for each commit in order,
    `memory.recall(word)`, then `handle(Started(lacking), now)`.

    Attributes:
        memory: commits and word of this peer; changed by the machine only.
        failed: a `PersistFailed` came; nothing more is said.
    """

    def __init__(self, setup: Setup, memory: Memory, rng: random.Random) -> None:
        self.setup = setup
        self.memory = memory
        self.rng = rng
        self.failed = False

    @property
    def level(self) -> bool:
        """True when this peer has exactly what the newest commit says."""
        return True

    @property
    def discovering(self) -> bool:
        """True while better histories are looked into after `RecordsSeen(discovering=True)`."""
        return False

    def handle(self, event: Event, now: float) -> list[Effect]:
        """Take one event at `now` (seconds of any clock that does not go back)."""
        return []
