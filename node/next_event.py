"""What a node waits for, and for how long: a pure function of its state."""

from __future__ import annotations

from node.daemon_status import State, Status
from swarm.config import TrainingConfig


def next_event(
    status: Status, training: TrainingConfig, next_round: int, steps: int
) -> tuple[str, float]:
    """What comes next, and in about how many seconds; 0.0 where that is not known.

    `steps`: inner steps of this node in the open round.
    """
    if status.state is State.TRAINING:
        tokens = max(0, steps - status.step) * training.batch_size * training.sequence_length
        speed = status.tokens_per_second
        return f"round {next_round} is averaged", tokens / speed if speed > 0 else 0.0
    texts = {
        State.STARTING: "the run is joined",
        State.JOINING: f"round {next_round} takes this node in",
        State.SYNCING: f"training for round {next_round}",
        State.AVERAGING: f"round {next_round} is committed",
        State.FINISHING: "the node ends",
    }
    return texts.get(status.state, ""), 0.0
