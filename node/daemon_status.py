"""What the daemon knows about itself: its state with reason and since-when, counters, history.

`Status` is written by the daemon and read by the control API; nothing else keeps such facts.
"""

from __future__ import annotations

import enum
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

from swarm.wire import node_pb2

KEPT_ROUNDS = 2000


class State(str, enum.Enum):
    """States of a node; docs/concepts.md has the diagram."""

    STARTING = "STARTING"
    JOINING = "JOINING"
    SYNCING = "SYNCING"
    TRAINING = "TRAINING"
    AVERAGING = "AVERAGING"
    FINISHING = "FINISHING"
    STOPPED = "STOPPED"


@dataclass
class Status:
    """The node's own facts."""

    report: Callable[[str], None]
    state: State = State.STARTING
    reason: str = ""
    since_s: float = field(default_factory=time.time)
    step: int = 0
    loss: float = 0.0
    tokens_per_second: float = 0.0
    tokens_trained: int = 0
    held_experts: list[int] = field(default_factory=list)
    last_counted_round: int = 0
    data_report: dict[str, int] = field(default_factory=dict)
    worker_pid: int = 0
    rounds: deque[node_pb2.RoundSummary] = field(default_factory=lambda: deque(maxlen=KEPT_ROUNDS))

    def enter(self, state: State, reason: str) -> None:
        """Change the state, or its reason; a change is said once."""
        if (state, reason) == (self.state, self.reason):
            return
        if state != self.state:
            self.since_s = time.time()
        if state != self.state or state in (State.STARTING, State.JOINING):
            self.report(f"{state.value}: {reason}")
        self.state, self.reason = state, reason
