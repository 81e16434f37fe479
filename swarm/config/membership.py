"""Parts of the run manifest that say who takes part, and how long anything may take."""

from __future__ import annotations

import dataclasses
import itertools
from dataclasses import dataclass, field
from datetime import timedelta

from swarm.config.fields import doc, require


@dataclass(frozen=True, kw_only=True)
class MembershipConfig:
    """Who may take part and what happens when a majority is gone."""

    min_peers: int = field(default=2, metadata=doc("peers needed to found the run"))
    on_majority_lost: str = field(
        default="continue",
        metadata=doc("continue: survivors go on in a new branch | wait: until a majority is back"),
    )
    admission: str = field(
        default="open",
        metadata=doc("open: whoever has this file | ticket: with a ticket signed by the run's key"),
    )
    allow: tuple[str, ...] = field(
        default=(), metadata=doc("ids of peers that a closed run admits without a ticket")
    )

    def __post_init__(self) -> None:
        require(self.min_peers >= 1, "membership.min_peers", "must be at least 1")
        require(
            self.on_majority_lost in ("continue", "wait"),
            "membership.on_majority_lost",
            "is continue or wait",
        )
        require(self.admission in ("open", "ticket"), "membership.admission", "is open or ticket")
        require(
            not self.allow or self.admission == "ticket",
            "membership.allow",
            "means nothing in an open run",
        )


@dataclass(frozen=True, kw_only=True)
class TimeoutPolicy:
    """Every time limit of the protocol, in seconds; each must be below the next."""

    heartbeat_s: float = field(default=3.0, metadata=doc("a peer silent for so long is suspected"))
    chunk_s: float = field(default=8.0, metadata=doc("a link that owes bytes and moves none"))
    attempt_s: float = field(default=60.0, metadata=doc("one try at a round, reduce included"))
    round_s: float = field(
        default=120.0, metadata=doc("longest wait for a live straggler at a round's boundary")
    )
    join_s: float = field(default=180.0, metadata=doc("from start to being in the roster"))
    lease_s: float = field(
        default=240.0, metadata=doc("silence of a majority after which survivors may branch")
    )

    def __post_init__(self) -> None:
        ladder = [(f.name, getattr(self, f.name)) for f in dataclasses.fields(self)]
        require(ladder[0][1] > 0, f"timeouts.{ladder[0][0]}", "must be positive")
        for (low_name, low), (high_name, high) in itertools.pairwise(ladder):
            require(low < high, f"timeouts.{low_name}", f"must be below timeouts.{high_name}")

    @property
    def heartbeat(self) -> timedelta:
        """Silence after which a peer is suspected."""
        return timedelta(seconds=self.heartbeat_s)

    @property
    def chunk(self) -> timedelta:
        """Longest time without progress on a link that owes bytes."""
        return timedelta(seconds=self.chunk_s)

    @property
    def attempt(self) -> timedelta:
        """Longest time of one attempt."""
        return timedelta(seconds=self.attempt_s)

    @property
    def round(self) -> timedelta:
        """Longest wait for stragglers at a round's boundary."""
        return timedelta(seconds=self.round_s)

    @property
    def join(self) -> timedelta:
        """Longest time from start to being in the roster."""
        return timedelta(seconds=self.join_s)
