"""How many sequences of a batch are computed at once, so that a step fits into memory. Pure.

What a step needs is taken to grow by the same amount with each sequence, which two measured peaks
tell. With fewer at once a step is slower and its gradient the same up to rounding, if the loads of
the last round are known (`swarm/training/balance.py`); without them the balance loss is the mean of
that of the parts.
"""

from __future__ import annotations

from dataclasses import dataclass

MARGIN = 0.95  # share of a budget that is planned with


@dataclass(frozen=True)
class StepMemory:
    """Measured peaks of a step in bytes, all of the process included: of one and of two rows."""

    one: int
    two: int

    def peak_bytes(self, rows: int) -> int:
        """What a step of `rows` at once needs."""
        return self.one + (rows - 1) * max(0, self.two - self.one)

    def rows_within(self, budget_bytes: int, batch_rows: int) -> int:
        """The most rows that fit, at least 1 even where that does not; 0 is no budget."""
        if not budget_bytes or self.two <= self.one:
            return batch_rows
        left = int(MARGIN * budget_bytes) - self.one
        return max(1, min(batch_rows, 1 + left // (self.two - self.one)))
