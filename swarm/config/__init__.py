"""The run manifest: everything that all peers of a run must agree on.

`RunManifest.load("RUN.toml")` reads and checks it; its canonical hash is the run id, so two peers
with different manifests can not meet in one run by accident. Unknown keys are errors that name the
nearest known key. Field documentation (`metadata["doc"]`) is what `node run init` writes as
comments.
"""

from swarm.config.learning import BalanceConfig, MergeConfig, StreamConfig
from swarm.config.manifest import PROTOCOL_VERSION, SECTIONS, GenesisConfig, RunManifest
from swarm.config.membership import MembershipConfig, TimeoutPolicy
from swarm.config.training import OuterConfig, SyncConfig, TrainingConfig

__all__ = [
    "PROTOCOL_VERSION",
    "SECTIONS",
    "BalanceConfig",
    "GenesisConfig",
    "MembershipConfig",
    "MergeConfig",
    "OuterConfig",
    "RunManifest",
    "StreamConfig",
    "SyncConfig",
    "TimeoutPolicy",
    "TrainingConfig",
]
