"""A peer of a world: its machine, its disk, and what runs for it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from swarm.collective.protocol.machine import PeerMachine
from swarm.collective.protocol.memory import Memory, Word
from swarm.collective.protocol.setup import Setup
from swarm.collective.state import CanonicalState
from swarm.wire import collective_pb2 as pb


class Peer:
    """A peer's process and its disk. `life` counts its starts; 0: has never run."""

    def __init__(self, name: str, setup: Setup) -> None:
        self.id = name
        self.setup = setup
        self.life = 0
        self.alive = self.frozen = False
        self.gone = False  # it stays away
        self.lost = False  # its identity is lost with its disk
        self.leaving = False
        self.resting = False  # it leaves for a while, and goes on living
        self.change = pb.SignedChange()  # the newest of the run that it was told of
        self.disk_word: Word | None = None
        self.disk_commits: list[pb.Commit] = []
        self.disk_damaged = False
        self.disk_state: dict[str, Any] = {}
        self.machine: PeerMachine
        self.state: CanonicalState
        self.attempt: Any = None
        self.calls: set[int] = set()  # open calls of this life
        self.backlog: list[tuple[Callable[..., None], tuple[Any, ...]]] = []
        self.wake: float | None = None
        self.prepared: object = None  # the commit for which it trains, or waits at the boundary
        self.levelling: object = None  # the commit of which it was asked to fetch what is lacking
        self.verified: object = None  # the state that the oracle has looked at

    @property
    def memory(self) -> Memory:
        return self.machine.memory
