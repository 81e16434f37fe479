"""The run manifest: everything that all peers of a run must agree on.

`RunManifest.load("RUN.toml")` reads and checks it; its canonical hash is the run id, so two peers
with different manifests can not meet in one run by accident. Unknown keys are errors that name the
nearest known key. Field documentation (`metadata["doc"]`) is what `node run init` writes as
comments.
"""

from __future__ import annotations

import dataclasses
import difflib
import hashlib
import itertools
import sys
import typing
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar

import msgpack

from swarm.config_fields import doc, require
from swarm.config_learning import BalanceConfig, MergeConfig, StreamConfig
from swarm.errors import Code, SwarmError
from swarm.model.config import ModelConfig

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

PROTOCOL_VERSION = 4
LEARNING = ("model", "training", "outer", "sync", "stream", "merge", "balance")
SECTIONS = (*LEARNING, "membership", "timeouts", "genesis")
# Left out of the canonical form while they are empty: runs that are older keep their id.
LATER_FIELDS = (("model", "router_bias"), ("genesis", "fragments"))
T = TypeVar("T")


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


@dataclass(frozen=True, kw_only=True)
class GenesisConfig:
    """The state that the run starts from."""

    seed: int = field(default=0, metadata=doc("seed of the initial weights"))
    state_root: str = field(
        default="",
        metadata=doc("SHA-256 over the initial fragments' hashes; node run init fills it in"),
    )
    fragments: tuple[str, ...] = field(
        default=(),
        metadata=doc("hash of each initial fragment of a run that begins with a model, not a seed"),
    )


@dataclass(frozen=True, kw_only=True)
class RunManifest:
    """What all peers of a run agree on."""

    format: int = field(default=1, metadata=doc("version of this file's format"))
    name: str = field(default="swarm", metadata=doc("name of the run, for people"))
    run_public_key: str = field(
        default="", metadata=doc("Ed25519 public key (hex) that signs changes of the run")
    )
    model: ModelConfig = field(default_factory=ModelConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)
    outer: OuterConfig = field(default_factory=OuterConfig)
    sync: SyncConfig = field(default_factory=SyncConfig)
    stream: StreamConfig = field(default_factory=StreamConfig)
    merge: MergeConfig = field(default_factory=MergeConfig)
    balance: BalanceConfig = field(default_factory=BalanceConfig)
    membership: MembershipConfig = field(default_factory=MembershipConfig)
    timeouts: TimeoutPolicy = field(default_factory=TimeoutPolicy)
    genesis: GenesisConfig = field(default_factory=GenesisConfig)

    def __post_init__(self) -> None:
        require(self.format == 1, "format", f"is {self.format}; this version reads format 1")
        require(
            self.sync.experts_per_peer <= self.model.num_experts,
            "sync.experts_per_peer",
            f"is more than model.num_experts ({self.model.num_experts})",
        )
        require(
            self.sync.trunk_fragments <= self.model.num_layers,
            "sync.trunk_fragments",
            f"is more than model.num_layers ({self.model.num_layers})",
        )
        require(
            self.merge.every_rounds == 0 or self.sync.forward == "full",
            "merge.every_rounds",
            "must be 0 when sync.forward is held",
        )
        require(
            self.sync.contribution == "update" or self.outer.optimizer == "fedavg",
            "outer.optimizer",
            "must be fedavg when sync.contribution is parameters",
        )
        require(
            self.training.inner_steps % self.stream.groups == 0,
            "stream.groups",
            f"must divide training.inner_steps ({self.training.inner_steps})",
        )
        require(
            # Every peer trains the trunk, so each has something to offer in every round.
            self.stream.groups <= self.sync.trunk_fragments,
            "stream.groups",
            f"is more than sync.trunk_fragments ({self.sync.trunk_fragments})",
        )
        require(
            self.stream.delay_steps <= self.steps_per_round,
            "stream.delay_steps",
            f"is more than a round has steps ({self.steps_per_round})",
        )
        require(
            self.training.sequence_length <= self.model.context_length,
            "training.sequence_length",
            f"is more than model.context_length ({self.model.context_length})",
        )
        require(
            self.membership.admission == "open" or bool(self.run_public_key),
            "run_public_key",
            "must be set in a closed run: it signs the tickets",
        )

    @property
    def steps_per_round(self) -> int:
        """Inner steps of one round; each fragment is averaged every `training.inner_steps`."""
        return self.training.inner_steps // self.stream.groups

    @property
    def run_id(self) -> bytes:
        """SHA-256 (32 bytes) of the canonical form of the manifest."""
        table = dataclasses.asdict(self)
        for section, name in LATER_FIELDS:
            if not table[section][name]:
                del table[section][name]
        canonical = msgpack.packb(table, use_bin_type=True)
        return hashlib.sha256(b"expertswarm-manifest" + bytes(canonical)).digest()

    @classmethod
    def load(cls, path: Path) -> RunManifest:
        """Read a manifest from TOML.

        Raises `CONFIG_UNREADABLE`, `CONFIG_UNKNOWN_KEY` or `CONFIG_INVALID`.
        """
        try:
            text = path.read_text(encoding="utf-8")
            return cls.from_toml(text)
        except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
            raise SwarmError(
                Code.CONFIG_UNREADABLE, f"{path}: {error}", "make one with: node run init RUN.toml"
            ) from error

    @classmethod
    def from_toml(cls, text: str) -> RunManifest:
        """Read a manifest's text. Raises `ValueError`, or as `load` for what is in it."""
        return cls.from_dict(tomllib.loads(text))

    @classmethod
    def from_dict(cls, table: dict[str, Any]) -> RunManifest:
        """Build a manifest from nested dictionaries; unknown keys are refused."""
        return _build(cls, table, "")

    def to_toml(self) -> str:
        """The manifest as TOML with a comment on every field."""
        lines = ["# Run manifest of expertswarm. All peers of a run must have the same file.", ""]
        lines += _toml_fields(self)
        for section in SECTIONS:
            lines += ["", f"[{section}]", *_toml_fields(getattr(self, section))]
        return "\n".join(lines) + "\n"


def _toml_fields(part: Any) -> list[str]:
    lines = []
    for f in dataclasses.fields(part):
        value = getattr(part, f.name)
        if dataclasses.is_dataclass(value):
            continue
        if comment := f.metadata.get("doc"):
            lines.append(f"# {comment}")
        lines.append(f"{f.name} = {_toml_value(value)}")
    return lines


def _toml_value(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'
    if isinstance(value, tuple):
        return f"[{', '.join(_toml_value(item) for item in value)}]"
    return repr(value)


def _build(cls: type[T], table: dict[str, Any], prefix: str) -> T:
    hints = typing.get_type_hints(cls)
    names = [f.name for f in dataclasses.fields(cls)]  # type: ignore[arg-type]
    values: dict[str, Any] = {}
    for key, value in table.items():
        if key not in names:
            near = difflib.get_close_matches(key, names, n=1)
            hint = f"did you mean {prefix}{near[0]}?" if near else f"known: {', '.join(names)}"
            raise SwarmError(Code.CONFIG_UNKNOWN_KEY, f"unknown key {prefix}{key}", hint)
        values[key] = _convert(hints[key], value, f"{prefix}{key}")
    return cls(**values)


def _convert(kind: Any, value: Any, name: str) -> Any:
    if dataclasses.is_dataclass(kind):
        require(isinstance(value, dict), name, "must be a table")
        return _build(typing.cast(type[Any], kind), value, f"{name}.")
    if kind is float and type(value) is int:
        return float(value)
    if kind == tuple[str, ...]:
        texts = isinstance(value, list) and all(type(item) is str for item in value)
        require(texts, name, f"must be a list of texts, is {value!r}")
        return tuple(value)
    require(type(value) is kind, name, f"must be {kind.__name__}, is {value!r}")
    return value
