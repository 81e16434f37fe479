"""Parts of the run manifest that say how peers train, and what of it they share."""

from __future__ import annotations

from dataclasses import dataclass, field

from swarm.config.fields import doc, require


@dataclass(frozen=True, kw_only=True)
class TrainingConfig:
    """Inner optimizer and data order, the same on every peer."""

    inner_steps: int = field(default=30, metadata=doc("AdamW steps between synchronizations (H)"))
    batch_size: int = field(default=16, metadata=doc("sequences per inner step"))
    sequence_length: int = field(default=128, metadata=doc("tokens per sequence"))
    learning_rate: float = field(default=3e-3, metadata=doc("peak inner learning rate"))
    min_learning_rate_ratio: float = field(
        default=0.1, metadata=doc("final learning rate as a share of the peak")
    )
    warmup_tokens: int = field(
        default=100_000, metadata=doc("committed tokens of the whole run until the peak is reached")
    )
    total_tokens: int = field(
        default=20_000_000,
        metadata=doc("committed tokens of the whole run at the end of the cosine"),
    )
    beta1: float = field(default=0.9, metadata=doc("AdamW beta 1"))
    beta2: float = field(default=0.95, metadata=doc("AdamW beta 2"))
    weight_decay: float = field(default=0.1, metadata=doc("AdamW weight decay, matrices only"))
    grad_clip: float = field(default=1.0, metadata=doc("global gradient norm limit"))
    load_balance_weight: float = field(
        default=0.01, metadata=doc("weight of the global-batch load balance loss")
    )
    z_loss_weight: float = field(default=0.001, metadata=doc("weight of the router z-loss"))
    min_inner_steps: int = field(
        default=1, metadata=doc("fewest steps of a slow peer when sync.step_counts is dynamic")
    )

    def __post_init__(self) -> None:
        for name in ("inner_steps", "batch_size", "sequence_length", "total_tokens"):
            require(getattr(self, name) >= 1, f"training.{name}", "must be at least 1")
        require(
            1 <= self.min_inner_steps <= self.inner_steps,
            "training.min_inner_steps",
            "must be from 1 to training.inner_steps",
        )
        require(self.learning_rate > 0, "training.learning_rate", "must be positive")
        require(0 <= self.beta1 < 1, "training.beta1", "must be in [0, 1)")
        require(0 <= self.beta2 < 1, "training.beta2", "must be in [0, 1)")
        require(self.grad_clip > 0, "training.grad_clip", "must be positive")
        require(self.warmup_tokens >= 0, "training.warmup_tokens", "must not be negative")


@dataclass(frozen=True, kw_only=True)
class OuterConfig:
    """Outer optimizer of each fragment (DiLoCo); `fedavg` is exact SPES."""

    optimizer: str = field(default="nesterov", metadata=doc("nesterov | fedavg"))
    learning_rate: float = field(
        default=0.0,
        metadata=doc("0 = by number of contributors: 1 -> 0.4, 2 to 7 -> 0.6, 8 -> 0.8"),
    )
    momentum: float = field(default=0.9, metadata=doc("Nesterov momentum; fedavg ignores it"))

    def __post_init__(self) -> None:
        require(
            self.optimizer in ("nesterov", "fedavg"), "outer.optimizer", "is nesterov or fedavg"
        )
        require(self.learning_rate >= 0, "outer.learning_rate", "must not be negative")
        require(0 <= self.momentum < 1, "outer.momentum", "must be in [0, 1)")


@dataclass(frozen=True, kw_only=True)
class SyncConfig:
    """What is synchronized, how it is encoded, and who trains what."""

    experts_per_peer: int = field(
        default=2, metadata=doc("experts that each peer holds and trains")
    )
    forward: str = field(
        default="full",
        metadata=doc("full: other experts present but frozen (SPES) | held: only held experts"),
    )
    router_rows: str = field(
        default="trunk", metadata=doc("trunk: averaged by all | expert: travel with their expert")
    )
    trunk_fragments: int = field(default=2, metadata=doc("layer groups that the trunk is cut into"))
    codec: str = field(
        default="fp32", metadata=doc("fp32 | bf16 | int8 | int4, of updates on the wire")
    )
    weights: str = field(default="tokens", metadata=doc("tokens | equal, of the contributions"))
    contribution: str = field(
        default="update",
        metadata=doc("update: change since the last round | parameters: as they are (exact SPES)"),
    )
    aggregation: str = field(
        default="clipped_mean",
        metadata=doc("clipped_mean: norms clipped to their median | mean | trimmed_mean | median"),
    )
    error_feedback: bool = field(
        default=True, metadata=doc("carry what a lossy codec loses into the next round")
    )
    replication: int = field(default=1, metadata=doc("holders that each expert should have"))
    min_dwell_rounds: int = field(
        default=10,
        metadata=doc("rounds that a holder keeps an expert before it may be moved elsewhere"),
    )
    orphan_rounds: int = field(
        default=2,
        metadata=doc("rounds without a holder before peers that hold enough take an expert over"),
    )
    step_counts: str = field(
        default="dynamic",
        metadata=doc("dynamic: slower peers do fewer steps, so that all arrive together | equal"),
    )
    normalize_steps: bool = field(
        default=True,
        metadata=doc("scale an update to the mean number of steps; false: more steps, more weight"),
    )

    def __post_init__(self) -> None:
        require(self.experts_per_peer >= 1, "sync.experts_per_peer", "must be at least 1")
        require(self.forward in ("full", "held"), "sync.forward", "is full or held")
        require(self.router_rows in ("trunk", "expert"), "sync.router_rows", "is trunk or expert")
        require(self.trunk_fragments >= 1, "sync.trunk_fragments", "must be at least 1")
        codecs = ("fp32", "bf16", "int8", "int4")
        require(self.codec in codecs, "sync.codec", f"is one of {', '.join(codecs)}")
        aggregations = ("clipped_mean", "mean", "trimmed_mean", "median")
        require(
            self.aggregation in aggregations,
            "sync.aggregation",
            f"is one of {', '.join(aggregations)}",
        )
        require(self.weights in ("tokens", "equal"), "sync.weights", "is tokens or equal")
        require(self.replication >= 1, "sync.replication", "must be at least 1")
        for name in ("min_dwell_rounds", "orphan_rounds"):
            require(getattr(self, name) >= 0, f"sync.{name}", "must not be negative")
        require(self.step_counts in ("dynamic", "equal"), "sync.step_counts", "is dynamic or equal")
        contributions = ("update", "parameters")
        require(self.contribution in contributions, "sync.contribution", "is update or parameters")
        if self.contribution == "parameters":
            require(self.codec == "fp32", "sync.codec", "must be fp32 when parameters are sent")
            require(
                self.aggregation != "clipped_mean",
                "sync.aggregation",
                "must not be clipped_mean when parameters are sent",
            )
        require(
            self.forward == "full" or self.router_rows == "expert",
            "sync.router_rows",
            "must be expert when sync.forward is held",
        )
