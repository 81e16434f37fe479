"""Real nodes begin a run with a model, with router biases, that only one of them has."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from node_disk import committed, is_on_disk, newest_record
from running_node import TinyNode
from tiny_run import tiny_manifest, tiny_peers

from node.commands.run import found_run
from swarm.config import RunManifest
from swarm.model.transformer import Transformer
from swarm.training.policy import RunPolicy


@pytest.fixture
def manifest(tmp_path: Path) -> RunManifest:
    """A run of two in the directories `having` and `lacking`; only one has the weights."""
    for name in ("having", "lacking"):
        tiny_peers(tmp_path / name, 2)
    path = tmp_path / "having" / "RUN.toml"
    tiny = tiny_manifest(path, peers=2, inner_steps=5)
    model = Transformer(dataclasses.replace(tiny.model, router_bias=True), seed=9)
    for moe in model.moe_layers:
        moe.gate.bias["0"].data.fill_(1.5)
    manifest = found_run(tiny, path, model)
    shutil.copy(path, tmp_path / "lacking" / "RUN.toml")
    return manifest


@pytest.fixture
def nodes(tmp_path: Path, manifest: RunManifest) -> Iterator[list[TinyNode]]:
    """Both nodes, the second of which joins through the first."""
    started = [TinyNode(tmp_path / "having", 0)]
    try:
        started.append(TinyNode(tmp_path / "lacking", 1, "--peer", started[0].address()))
        yield started
    finally:
        for node in started:
            node.kill()


def test_a_founder_without_the_weights_gets_them_from_the_other(
    manifest: RunManifest, nodes: list[TinyNode]
) -> None:
    for node in nodes:
        node.wait(lambda s: s.round >= 1, "a round that began with the model")
    first, second = (committed(node.directory) for node in nodes)
    assert second[1] == first[1]
    policy = RunPolicy(manifest)
    versions = [policy.initial_version(name) for name in sorted(policy.numel)]
    _, _, founded_with, _ = first[0]
    assert founded_with == tuple(v.theta_hash + v.momentum_hash for v in versions)
    _, _, trained, _ = first[1]
    assert trained[-1] != founded_with[-1]  # the last by name is a part of the trunk
    assert is_on_disk(nodes[1].directory, newest_record(nodes[1].directory))
