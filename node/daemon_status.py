"""What the daemon knows about itself: its state with reason and since-when, counters, history.

`Status` is written by the daemon and read by the control API; nothing else keeps such facts.
"""

from __future__ import annotations

import enum
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

from node.event_log import EventLog
from swarm.errors import Code, SwarmError
from swarm.wire import node_pb2

KEPT_ROUNDS = 2000


class State(str, enum.Enum):
    """States of a node; docs/concepts.md has the diagram."""

    STARTING = "STARTING"
    JOINING = "JOINING"
    SYNCING = "SYNCING"
    TRAINING = "TRAINING"
    AVERAGING = "AVERAGING"
    PAUSED = "PAUSED"
    RELAYING = "RELAYING"
    FINISHING = "FINISHING"
    STOPPED = "STOPPED"


SPEAKING = (State.STARTING, State.JOINING, State.PAUSED)  # another reason in them is said too


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
    device: str = ""
    held_experts: list[int] = field(default_factory=list)
    last_counted_round: int = 0
    data_report: dict[str, int] = field(default_factory=dict)
    worker_pid: int = 0
    rounds: deque[node_pb2.RoundSummary] = field(default_factory=lambda: deque(maxlen=KEPT_ROUNDS))
    troubles: dict[str, Code] = field(default_factory=dict)
    log: EventLog = field(init=False)

    def __post_init__(self) -> None:
        self.report = self.log = EventLog(self.report)

    def enter(self, state: State, reason: str) -> None:
        """Change the state, or its reason; a change is said once."""
        if (state, reason) == (self.state, self.reason):
            return
        if state != self.state:
            self.since_s = time.time()
        if state != self.state or state in SPEAKING:
            self.report(f"{state.value}: {reason}")
        self.state, self.reason = state, reason

    def note_round(self, summary: node_pb2.RoundSummary, me: str) -> None:
        """Add a commit to the history and say what became of this node's update."""
        self.rounds.append(summary)
        counted = me in summary.contributors
        if counted:
            self.last_counted_round = summary.round
        self.report(
            f"round {summary.round} {summary.outcome}: {len(summary.contributors)} of "
            f"{summary.electorate} contributed, loss {summary.loss:.3f}, "
            f"own update {'counted' if counted else 'not in it'}"
        )

    def note_trouble(self, what: str, error: SwarmError | None) -> None:
        """What is tried again and again failed, or works (None); a change is said once."""
        before = self.troubles.get(what)
        if error is None:
            if self.troubles.pop(what, None) is not None:
                self.report(f"{what}: works again")
        elif error.code != before:
            self.troubles[what] = error.code
            self.report(f"warning: {what}: {error}")
