"""An arm with real node processes, and the same arm in one process, bit by bit.

The nodes' samplers follow from their keys and their experts from the record. With both, the
in-process swarm must come to the same hashes after every round.
"""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any

from node.commands.run import found_run
from node.testnet import LocalTestnet, PeerPlan, Statuses
from swarm.config import MembershipConfig, RunManifest
from swarm.data import Corpus, Sampler, prepare_corpus
from swarm.identity import Identity
from swarm.model.fragments import state_root
from swarm.simulation.learning import LearningSwarm
from swarm.wire.node_pb2 import RoundSummary, StatusReply
from tests.benchmarks.learning.settings import Arm, Experiment
from tests.benchmarks.learning.traffic import round_bytes

LIMIT = timedelta(minutes=8)


def compare(experiment: Experiment, arm: Arm, rounds: int, data: Path) -> dict[str, Any]:
    """Train `rounds` rounds both ways; says in how many of them the hashes were equal.

    Bytes are those of the first node as it counted them, of the rounds from the second on, and the
    mean of all peers as `traffic` computes it.
    """
    manifest = dataclasses.replace(
        arm.manifest,
        training=dataclasses.replace(arm.manifest.training, total_tokens=experiment.tokens),
        membership=MembershipConfig(min_peers=len(experiment.domains)),
    )
    with tempfile.TemporaryDirectory(prefix="learning-") as root:
        path = Path(root) / "RUN.toml"
        manifest = found_run(manifest, path)
        plans = [
            PeerPlan(name, name, str((data / f"{name}.train.jsonl").absolute()))
            for name in experiment.domains
        ]
        nodes = Path(root) / "nodes"
        statuses, history = _train(path, plans, nodes, rounds)
        corpora = {
            plan.name: prepare_corpus(plan.data, Path(root) / "corpora" / plan.name)
            for plan in plans
        }
        swarm = _replay(manifest, statuses, corpora, nodes)
    equal, computed = 0, 0.0
    for summary in history:
        log = swarm.round()
        hashes = {name: state.theta_hash for name, state in swarm.state.items()}
        equal += summary.state_root == state_root(hashes).hex()
        if summary is not history[0]:
            computed += round_bytes(manifest, log, len(plans))
    return {
        "part": "processes",
        "arm": arm.name,
        "rounds": len(history),
        "equal_rounds": equal,
        "bytes_sent_counted": history[-1].bytes_sent - history[0].bytes_sent,
        "bytes_sent_computed": round(computed),
        "seconds_per_round": round(sum(s.seconds for s in history) / len(history), 1),
    }


def _train(
    manifest_path: Path, plans: list[PeerPlan], root: Path, rounds: int
) -> tuple[list[StatusReply], list[RoundSummary]]:
    """Status of each node after `rounds` rounds, and the first node's history of them."""

    def done(statuses: Statuses) -> bool:
        return all(status is not None and status.round >= rounds for status in statuses)

    with LocalTestnet(manifest_path, plans, root) as testnet:
        testnet.start()
        statuses = testnet.wait_until(done, f"round {rounds}", LIMIT)
        history = testnet.nodes[0].history(0)
    return [s for s in statuses if s is not None], [s for s in history if s.round <= rounds]


def _replay(
    manifest: RunManifest, statuses: list[StatusReply], corpora: Mapping[str, Corpus], root: Path
) -> LearningSwarm:
    training, samplers = manifest.training, {}
    for status, (name, corpus) in zip(statuses, corpora.items(), strict=True):
        key = Identity.load_or_create(root / name / "identity.key")
        assert key.peer_id == status.peer_id
        seed = int.from_bytes(key.sign(b"data order")[:4], "little")
        samplers[status.peer_id] = Sampler(
            corpus, training.batch_size, training.sequence_length, seed
        )
    held = {status.peer_id: list(status.held_experts) for status in statuses}
    return LearningSwarm(manifest, samplers, held)
