"""The manifest as a whole: its parts, its hash, its file. See the package's docstring."""

from __future__ import annotations

import dataclasses
import hashlib
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgpack

from swarm.config.fields import doc, require
from swarm.config.learning import BalanceConfig, MergeConfig, StreamConfig
from swarm.config.membership import MembershipConfig, TimeoutPolicy
from swarm.config.text import build, toml_fields
from swarm.config.training import OuterConfig, SyncConfig, TrainingConfig
from swarm.errors import Code, SwarmError
from swarm.model.config import ModelConfig

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

PROTOCOL_VERSION = 4
SECTIONS = (
    "model", "training", "outer", "sync", "stream", "merge", "balance", "membership", "timeouts",
    "genesis",
)  # fmt: skip
# Left out of the canonical form while they are empty: runs that are older keep their id.
LATER_FIELDS = (("model", "router_bias"), ("genesis", "fragments"))


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
        return build(cls, table)

    def to_toml(self) -> str:
        """The manifest as TOML with a comment on every field."""
        lines = ["# Run manifest of expertswarm. All peers of a run must have the same file.", ""]
        lines += toml_fields(self)
        for section in SECTIONS:
            lines += ["", f"[{section}]", *toml_fields(getattr(self, section))]
        return "\n".join(lines) + "\n"
