"""Parts of the run manifest that say how experts are merged, streamed and balanced."""

from __future__ import annotations

from dataclasses import dataclass, field

from swarm.config.fields import doc, require


@dataclass(frozen=True, kw_only=True)
class MergeConfig:
    """Warm-up that pulls similar experts together (SPES, arXiv 2602.11543)."""

    every_rounds: int = field(
        default=0, metadata=doc("rounds between two mergers of similar experts; 0 = never")
    )
    strength: float = field(
        default=0.05, metadata=doc("share of the way to the neighbours' mean at the beginning")
    )
    rounds: int = field(default=100, metadata=doc("rounds over which the strength falls to 0"))
    neighbours: int = field(
        default=4, metadata=doc("most similar experts that each one moves towards")
    )
    total_limit: float = field(
        default=0.25, metadata=doc("merging ends when the strengths add up to this")
    )

    def __post_init__(self) -> None:
        require(self.every_rounds >= 0, "merge.every_rounds", "must not be negative")
        require(0 < self.strength < 1, "merge.strength", "must be between 0 and 1")
        require(self.rounds >= 1, "merge.rounds", "must be at least 1")
        require(self.neighbours >= 1, "merge.neighbours", "must be at least 1")
        require(0 < self.total_limit <= 1, "merge.total_limit", "must be above 0, at most 1")


@dataclass(frozen=True, kw_only=True)
class StreamConfig:
    """When fragments are averaged and applied (Streaming DiLoCo, arXiv 2501.18512)."""

    groups: int = field(
        default=1, metadata=doc("groups of fragments that are averaged in turn, one each round")
    )
    overlap: bool = field(
        default=False, metadata=doc("train the next round while this one is averaged")
    )
    delay_steps: int = field(
        default=0, metadata=doc("with overlap: inner steps before a result is applied (tau)")
    )
    correction: str = field(
        default="delayed",
        metadata=doc(
            "with overlap: delayed: local steps since are kept | eager: the others' last update is "
            "used until theirs comes | mix: of local and new"
        ),
    )
    mixing: float = field(
        default=0.5, metadata=doc("share of the local parameters that mix keeps (alpha)")
    )

    def __post_init__(self) -> None:
        require(self.groups >= 1, "stream.groups", "must be at least 1")
        require(self.delay_steps >= 0, "stream.delay_steps", "must not be negative")
        corrections = ("delayed", "eager", "mix")
        require(
            self.correction in corrections,
            "stream.correction",
            f"is one of {', '.join(corrections)}",
        )
        require(0 <= self.mixing < 1, "stream.mixing", "must be in [0, 1)")


@dataclass(frozen=True, kw_only=True)
class BalanceConfig:
    """What else keeps experts busy and different, besides `training.load_balance_weight`."""

    own_factor: float = field(
        default=1.0,
        metadata=doc("of a peer's own experts' counts in the balance loss at the start (SPES 0.7)"),
    )
    own_factor_share: float = field(
        default=0.2, metadata=doc("share of the run after which own_factor has become 1")
    )
    bias_rate: float = field(
        default=0.0,
        metadata=doc("change of an expert's selection bias each round, against its load; 0 = off"),
    )
    coupling_weight: float = field(
        default=0.0, metadata=doc("weight of the expert-router coupling loss; 0 = off")
    )
    coupling_alpha: float = field(
        default=1.0, metadata=doc("strictness of that loss: 1 asks for the most specialization")
    )

    def __post_init__(self) -> None:
        require(0 < self.own_factor <= 1, "balance.own_factor", "must be above 0, at most 1")
        require(
            0 < self.own_factor_share <= 1, "balance.own_factor_share", "must be above 0, at most 1"
        )
        require(self.bias_rate >= 0, "balance.bias_rate", "must not be negative")
        require(self.coupling_weight >= 0, "balance.coupling_weight", "must not be negative")
        require(self.coupling_alpha >= 0, "balance.coupling_alpha", "must not be negative")
